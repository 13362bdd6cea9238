"use strict";
// The automaton of {"name": string, "bits": 4, 8 or 16, "ok": true or false}, character by character.
explorable({
  controls: [{ name: "text", label: "Text so far", text: '{"name": "nf4", "bits": 1' }],
  literal: { start: '{"name": "', middle: '", "bits": ', next: ', "ok": ' },
  next(state, c) {
    // The state after a character; null where no document goes on like this. States are "part:place".
    const [part, rest] = [state.slice(0, state.indexOf(":")), state.slice(state.indexOf(":") + 1)];
    const after = (text, here, done) => (c !== text[here] ? null : here + 1 < text.length ? `${part}:${here + 1}` : done);
    if (part === "start") return after(this.literal.start, Number(rest), "string:");
    if (part === "string") {
      if (rest === "") return c === '"' ? "middle:1" : c === "\\" ? "string:\\" : c < " " ? null : state;
      if (rest === "\\") return '"\\bfnrt'.includes(c) ? "string:" : c === "u" ? "string:u" : null;
      // \u is left to control characters that have no short form: 0000 to 001f
      const code = rest.slice(1) + c;
      const short = ["0008", "0009", "000a", "000c", "000d"];
      const every = Array.from({ length: 32 }, (_, i) => i.toString(16).padStart(4, "0")).filter((x) => !short.includes(x));
      const fits = every.filter((x) => x.startsWith(code));
      return !fits.length ? null : code.length === 4 ? "string:" : `string:u${code}`;
    }
    if (part === "middle") return after(this.literal.middle, Number(rest), "bits:");
    if (part === "bits") {
      if (["4", "8", "16"].includes(rest)) return c === "," ? "next:1" : null;
      return ["4", "8", "16"].some((n) => n.startsWith(rest + c)) ? `bits:${rest + c}` : null;
    }
    if (part === "next") return after(this.literal.next, Number(rest), "ok:");
    if (part === "ok") {
      if (["true", "false"].includes(rest)) return c === "}" ? "end:" : null;
      return ["true", "false"].some((n) => n.startsWith(rest + c)) ? `ok:${rest + c}` : null;
    }
    return null;
  },
  walk(state, text) {
    for (const c of text) if ((state = this.next(state, c)) === null) return null;
    return state;
  },
  reads(state, bytes) {
    // Whether a token may come: byte by byte, since it may hold a part of a character. Outside ASCII a string takes
    // what is UTF-8: `need` bytes more, the next of them from `low` to `high`.
    let [need, low, high] = [0, 0x80, 0xbf];
    for (const b of bytes) {
      if (need) {
        if (b < low || b > high) return false;
        [need, low, high] = [need - 1, 0x80, 0xbf];
      } else if (b < 128) {
        state = this.next(state, String.fromCharCode(b));
        if (state === null) return false;
      } else {
        if (state !== "string:" || b < 0xc2 || b > 0xf4) return false;
        need = b < 0xe0 ? 1 : b < 0xf0 ? 2 : 3;
        low = { 0xe0: 0xa0, 0xf0: 0x90 }[b] ?? 0x80;
        high = { 0xed: 0x9f, 0xf4: 0x8f }[b] ?? 0xbf;
      }
    }
    return true;
  },
  compute(v) {
    const path = ["start:0"];
    for (const c of v.text) {
      const found = this.next(path.at(-1), c);
      if (found === null) break;
      path.push(found);
    }
    const wrong = path.length <= [...v.text].length;
    const state = path.at(-1);
    const characters = Array.from({ length: 95 }, (_, i) => String.fromCharCode(32 + i)).filter((c) => this.next(state, c) !== null);
    const tokens = guide.ready().vocabulary.map((bytes, id) => id >= guideModel.special && this.reads(state, bytes));
    return { path, wrong, characters, tokens: tokens.flatMap((yes, id) => (yes ? [id] : [])), ended: state === "end:" };
  },
  show(f, v) {
    const text = [...v.text];
    const rows = f.path.map((state, i) => [i ? guide.visible(text[i - 1]) : "", state]).slice(-24);
    const told = f.wrong ? `No document goes on with "${text[f.path.length - 1]}" after the first ${f.path.length - 1} characters; what is shown is for the text before it. ` : "";
    return [
      guide.say(`${told}${f.ended ? "The document is complete. " : ""}${f.tokens.length} of ${guideModel.vocabulary.length} tokens may come next; all others are masked before the softmax.`),
      guide.say(`Characters that may come: ${f.characters.length > 40 ? "any but control characters" : f.characters.map(guide.visible).join(" ") || "none"}`),
      guide.tokens(f.tokens.slice(0, 40).map((id) => [guide.piece(id), `id ${id}`, 0.3])),
      guide.table("The state after each character, the last 24", ["character", "state"], rows),
    ];
  },
});
