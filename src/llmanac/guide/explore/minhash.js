"use strict";
explorable({
  controls: [
    { name: "one", label: "One text", text: "the model reads the prompt and then writes the answer one token at a time", lines: 2 },
    { name: "other", label: "Another", text: "the model reads the prompt and then writes an answer one token at a time", lines: 2 },
    { name: "width", label: "Words of a shingle", low: 1, high: 5, step: 1, value: 2 },
    { name: "bands", label: "Bands", low: 1, high: 64, step: 1, value: 16 },
    { name: "rows", label: "Values of a band", low: 1, high: 16, step: 1, value: 8 },
    { name: "seed", label: "Seed", low: 0, high: 99, step: 1, value: 0 },
  ],
  shingles(text, width) {
    const words = text.match(/[\p{L}\p{N}_]+/gu) || [];
    if (!words.length) throw new Error("a text with words is needed");
    const count = Math.max(1, words.length - width + 1);
    return new Set(Array.from({ length: count }, (_, i) => words.slice(i, i + width).join(" ")));
  },
  hash(text) {
    let h = 0x811c9dc5; // FNV-1a over the UTF-8 bytes
    for (const byte of new TextEncoder().encode(text)) h = Math.imul(h ^ byte, 0x01000193) >>> 0;
    return h;
  },
  mark(hashes, turn) {
    let least = Infinity;
    for (const h of hashes) {
      let z = (h ^ turn) >>> 0;
      z = Math.imul(z ^ (z >>> 16), 0x85ebca6b);
      z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35);
      least = Math.min(least, (z ^ (z >>> 16)) >>> 0);
    }
    return least;
  },
  compute(v) {
    const [a, b] = [v.one, v.other].map((t) => this.shingles(t, v.width));
    const both = [...a].filter((s) => b.has(s)).length;
    const jaccard = both / (a.size + b.size - both);
    const draw = guide.random(v.seed);
    const turns = Array.from({ length: v.bands * v.rows }, () => Math.floor(draw() * 4294967296));
    const [x, y] = [a, b].map((set) => {
      const hashes = [...set].map((s) => this.hash(s));
      return turns.map((t) => this.mark(hashes, t));
    });
    const equal = x.map((value, i) => value === y[i]);
    const agreeing = Array.from({ length: v.bands }, (_, i) => equal.slice(i * v.rows, (i + 1) * v.rows).every(Boolean));
    return { jaccard, estimate: guide.mean(equal.map(Number)), found: agreeing.some(Boolean), chance: 1 - (1 - jaccard ** v.rows) ** v.bands };
  },
  show(f, v) {
    const points = Array.from({ length: 51 }, (_, i) => [i / 50, 1 - (1 - (i / 50) ** v.rows) ** v.bands]);
    return [
      guide.say(`The sets of shingles have a Jaccard similarity of ${guide.short(f.jaccard)}; ${v.bands * v.rows} values of a signature estimate ${guide.short(f.estimate)}. The texts are ${f.found ? "" : "not "}candidates here; over all draws that has a chance of ${guide.percent(f.chance)}.`),
      guide.plot("Chance of becoming candidates over similarity", "Jaccard similarity", "chance", [{ name: "chance", points, dot: [f.jaccard, f.chance] }]),
    ];
  },
});
