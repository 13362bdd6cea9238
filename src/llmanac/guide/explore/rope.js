"use strict";
explorable({
  controls: [
    { name: "power", label: "Width of a head", low: 2, high: 8, step: 1, value: 6, says: (v) => String(2 ** v) },
    { name: "base", label: "Base, 10^", low: 2, high: 7, step: 0.5, value: 4, says: (v) => guide.short(Math.round(10 ** v)) },
    { name: "position", label: "Position of the query", low: 0, high: 4096, step: 1, value: 64 },
    { name: "away", label: "Tokens back to the key", low: 0, high: 512, step: 1, value: 8 },
  ],
  turned(x, position, base) {
    const half = x.length / 2;
    const out = [...x];
    for (let i = 0; i < half; i++) {
      const angle = Math.fround(position * Math.fround(base ** (-i / half))); // in float32, as checkpoints were trained
      const [c, s] = [Math.cos(angle), Math.sin(angle)];
      out[i] = x[i] * c - x[i + half] * s;
      out[i + half] = x[i + half] * c + x[i] * s;
    }
    return out;
  },
  score(d, base, position, key) {
    const ones = Array(d).fill(1 / Math.sqrt(d));
    const q = this.turned(ones, position, base);
    return guide.sum(this.turned(ones, key, base).map((k, i) => k * q[i]));
  },
  compute(v) {
    const [d, base] = [2 ** v.power, Math.round(10 ** v.base)];
    const waves = Array.from({ length: d / 2 }, (_, i) => 2 * Math.PI * base ** ((2 * i) / d));
    return { score: this.score(d, base, v.position, v.position - v.away), there: this.score(d, base, v.position + 1000, v.position + 1000 - v.away), waves };
  },
  show(f, v) {
    const [d, base] = [2 ** v.power, Math.round(10 ** v.base)];
    const points = Array.from({ length: 200 }, (_, i) => [i * 2, this.score(d, base, 0, -i * 2)]);
    return [
      guide.say(`A query and a key that are the same vector of ones. Their score is ${guide.short(f.score)}, and 1,000 positions later ${guide.short(f.there)}: it depends on the distance alone. Wavelengths are from ${guide.short(f.waves[0])} to ${guide.short(f.waves.at(-1))} tokens.`),
      guide.plot("Score over distance", "tokens between query and key", "score", [{ name: "score", points, dot: v.away < 400 ? [v.away, f.score] : null }]),
    ];
  },
});
