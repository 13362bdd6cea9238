"use strict";
explorable({
  controls: [
    { name: "text", label: "Text", lines: 2, most: 160, text: "The model reads the prompt. Then the model writes the answer." },
    { name: "layer", label: "Layer", low: 1, high: 4, step: 1, value: 2 },
    { name: "head", label: "Head", low: 1, high: 4, step: 1, value: 1 },
  ],
  compute(v) {
    const { ids, state } = guide.prompt(v.text);
    const entropy = state.attention.map((heads) => heads.map((rows) => guide.mean(rows.map((r) => guide.sum(r.map((w) => (w > 0 ? -w * Math.log2(w) : 0)))))));
    return { ids, rows: state.attention[v.layer - 1][v.head - 1], entropy };
  },
  show(f, v) {
    const names = f.ids.map((id) => guide.piece(id));
    const heads = f.entropy[0].map((_, h) => `head ${h + 1}`);
    return [
      guide.grid(`Attention of layer ${v.layer}, head ${v.head}: a row for each token that reads`, names, f.rows),
      guide.table("How spread each head is: bits, mean over tokens", ["", ...heads], f.entropy.map((row, l) => [`layer ${l + 1}`, ...row])),
      guide.say("A token sees itself and what is before it, so the upper right is empty. Weights of a row sum to one."),
      guide.about(),
    ];
  },
});
