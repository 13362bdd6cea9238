"use strict";
explorable({
  controls: [{ name: "text", label: "Your text", lines: 4, most: 2000, text: "The tokenizer splits unbelievable words; 3.14159 and naïve café too." }],
  compute(v) {
    const words = v.text.match(guide.pattern) || [];
    if (!words.length) throw new Error("a text is needed");
    const found = words.map((word) => guide.merges(word));
    const longest = words.map((w, i) => i).sort((a, b) => found[b].steps.length - found[a].steps.length)[0];
    return { ids: found.flatMap((f) => f.ids), words, longest: words[longest], steps: found[longest].steps };
  },
  show(f, v) {
    const bytes = new TextEncoder().encode(v.text).length;
    const plain = (hex) => guide.visible(new TextDecoder().decode(Uint8Array.from(hex.match(/../g), (h) => parseInt(h, 16))));
    const every = f.ids.map((id) => [guide.piece(id), `id ${id}`, 0.3]);
    return [
      guide.say(`${f.ids.length} tokens for ${bytes} bytes: ${guide.short(bytes / f.ids.length)} bytes a token. The vocabulary has ${guideModel.vocabulary.length}; no merge crosses from one word to the next.`),
      guide.tokens(every),
      guide.table("Ids", ["token", "id"], f.ids.slice(0, 60).map((id) => [guide.visible(guide.piece(id)), id])),
      guide.table(`The merges of "${guide.visible(f.longest)}", one a line`, ["step", "parts"], f.steps.map((parts, i) => [i, parts.map(plain).join(" | ")])),
    ];
  },
});
