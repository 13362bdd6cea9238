"use strict";
explorable({
  controls: [
    { name: "power", label: "Width of a head", low: 1, high: 10, step: 1, value: 6, says: (v) => String(2 ** v) },
    { name: "keys", label: "Keys", low: 2, high: 32, step: 1, value: 12 },
    { name: "seed", label: "Seed", low: 0, high: 99, step: 1, value: 0 },
  ],
  compute(v) {
    const d = 2 ** v.power;
    const x = guide.normals(d * (v.keys + 1), v.seed);
    const score = (k) => guide.sum(x.slice(0, d).map((q, i) => q * x[d * (k + 1) + i]));
    const plain = Array.from({ length: v.keys }, (_, k) => score(k));
    const found = [plain, plain.map((s) => s / Math.sqrt(d))].map((scores) => {
      const weights = guide.softmax(scores);
      const mean = guide.mean(scores);
      const top = Math.max(...weights);
      return { weights, spread: Math.sqrt(guide.mean(scores.map((s) => (s - mean) ** 2))), top, slope: top * (1 - top) };
    });
    return { without: found[0], scaled: found[1] };
  },
  show(f) {
    const rows = [["divided by the root of the width", f.scaled], ["as they are", f.without]];
    return [
      guide.say("Queries and keys are drawn with variance 1. The slope is that of the largest weight by its own score, p (1 - p): near 0 nothing is learned there."),
      guide.table("The same scores", ["scores", "standard deviation", "largest weight", "slope"], rows.map(([n, r]) => [n, r.spread, r.top, r.slope])),
      guide.bars("Weights, scores divided", f.scaled.weights.map((w, i) => [`key ${i + 1}`, w])),
      guide.bars("Weights, scores as they are", f.without.weights.map((w, i) => [`key ${i + 1}`, w])),
    ];
  },
});
