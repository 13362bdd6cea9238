"use strict";
explorable({
  controls: [
    { name: "text", label: "Prompt", lines: 3, most: 600, text: "The attention of a model" },
    ...guide.cuts,
    { name: "count", label: "Tokens to write", low: 0, high: 30, step: 1, value: 12 },
    { name: "seed", label: "Seed", low: 0, high: 99, step: 1, value: 0 },
  ],
  compute(v) {
    const { ids, state, logits } = guide.prompt(v.text);
    const first = guide.kept(logits, v);
    const draw = guide.random(v.seed);
    const written = [];
    for (let [now, n] = [first, 0]; n < v.count; n++) {
      let left = draw();
      const id = now.findIndex((p) => (left -= p) < 0);
      written.push(id < 0 ? now.indexOf(Math.max(...now)) : id);
      if (n + 1 < v.count) now = guide.kept(guide.read(state, written.at(-1)), v);
    }
    return { ids, logits, first, best: logits.indexOf(Math.max(...logits)), written };
  },
  show(f, v) {
    const plain = guide.softmax(f.logits);
    const order = plain.map((_, i) => i).sort((a, b) => plain[b] - plain[a]).slice(0, 12);
    return [
      guide.tokens([...f.ids.map((id) => [guide.piece(id), "prompt", 0]), ...f.written.map((id) => [guide.piece(id), "written", 0.9])]),
      guide.say(`${f.first.filter((p) => p > 0).length} of ${plain.length} tokens can come next.`),
      guide.table("What comes next, likeliest first", ["token", "the model's", "after the cuts"], order.map((i) => [guide.visible(guide.piece(i)), guide.percent(plain[i]), f.first[i] ? guide.percent(f.first[i]) : "cut"])),
      guide.about(),
    ];
  },
});
