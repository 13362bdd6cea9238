"use strict";
explorable({
  controls: [
    { name: "steps", label: "Steps", low: 10, high: 2000, step: 10, value: 1000 },
    { name: "warmup", label: "Share of warm-up", low: 0, high: 0.5, step: 0.01, value: 0.03 },
    { name: "decay", label: "Share of the final decay (wsd)", low: 0, high: 1, step: 0.05, value: 0.4 },
    { name: "floor", label: "Floor (cosine)", low: 0, high: 0.5, step: 0.05, value: 0.1 },
  ],
  round: (x) => (x % 1 === 0.5 ? 2 * Math.round(x / 2) : Math.round(x)), // halves to the even number
  warm: (step, first) => (first ? Math.min(1, (step + 1) / first) : 1),
  cosine(step, v) {
    const first = this.round(v.warmup * v.steps);
    if (step < first) return this.warm(step, first);
    const done = Math.min(1, (step - first) / Math.max(1, v.steps - first));
    return v.floor + ((1 - v.floor) * (1 + Math.cos(Math.PI * done))) / 2;
  },
  wsd(step, v) {
    const [first, last] = [this.round(v.warmup * v.steps), this.round(v.decay * v.steps)];
    const left = last ? (v.steps - step) / last : 1;
    return Math.min(this.warm(step, first), Math.max(0, Math.min(1, left)));
  },
  compute(v) {
    if (v.warmup + v.decay > 1) throw new Error("warm-up and decay are at most the whole run together");
    const at = Array.from({ length: v.steps }, (_, i) => i);
    return { cosine: at.map((s) => this.cosine(s, v)), wsd: at.map((s) => this.wsd(s, v)) };
  },
  show(f, v) {
    const points = (values) => values.map((y, x) => [x, y]);
    return [
      guide.plot("Learning rate over steps, of its peak", "step", "rate", [{ name: "cosine", points: points(f.cosine) }, { name: "wsd", points: points(f.wsd) }]),
      guide.say(`On average the rate is ${guide.percent(guide.mean(f.cosine))} of its peak with cosine and ${guide.percent(guide.mean(f.wsd))} with warm-up, stable, decay. A cosine needs the number of steps at the start; the stable part of the other can go on, and only the decay has to be planned.`),
    ];
  },
});
