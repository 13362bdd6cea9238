"use strict";
explorable({
  controls: [
    { name: "compute", label: "Compute, FLOPs, 10^", low: 15, high: 27, step: 0.25, value: 21 },
    { name: "size", label: "Parameters over the best, times 10^", low: -1.5, high: 1.5, step: 0.1, value: 0 },
    { name: "floor", label: "The law's constants", options: ["our fit", "equal exponents"], value: "our fit" },
  ],
  law(v) {
    const m = guide.measured;
    return v.floor === "our fit" ? m : { ...m, alpha: (m.alpha + m.beta) / 2, beta: (m.alpha + m.beta) / 2 };
  },
  loss: (law, n, d) => law.E + law.A / n ** law.alpha + law.B / d ** law.beta,
  best(law, flops) {
    const g = ((law.alpha * law.A) / (law.beta * law.B)) ** (1 / (law.alpha + law.beta));
    const n = g * (flops / 6) ** (law.beta / (law.alpha + law.beta));
    return [n, flops / 6 / n];
  },
  compute(v) {
    const law = this.law(v);
    const flops = 10 ** v.compute;
    const [n, d] = this.best(law, flops);
    const chosen = n * 10 ** v.size;
    return { n, d, least: this.loss(law, n, d), loss: this.loss(law, chosen, flops / 6 / chosen) };
  },
  show(f, v) {
    const law = this.law(v);
    const lines = [-2, 0, 2].map((more) => {
      const flops = 10 ** (v.compute + more);
      const n = this.best(law, flops)[0];
      const points = Array.from({ length: 31 }, (_, i) => n * 10 ** ((i - 15) / 10)).map((x) => [x, this.loss(law, x, flops / 6 / x)]);
      return { name: `${flops.toExponential(0)} FLOPs`, points, dot: more ? null : [f.n * 10 ** v.size, f.loss] };
    });
    return [
      guide.say(`The best use of this compute is ${guide.short(f.n)} parameters on ${guide.short(f.d)} tokens, ${guide.short(f.d / f.n)} tokens a parameter, with a loss of ${guide.short(f.least)} nats. The chosen size has ${guide.short(f.loss)}.`),
      guide.plot("Loss over size, each curve at one compute", "parameters", "loss, nats a token", lines, { logX: true, logY: true }),
      guide.say(`L = E + A / N^alpha + B / D^beta and C = 6 N D, with E ${guide.short(law.E)}, A ${guide.short(law.A)}, B ${guide.short(law.B)}, alpha ${guide.short(law.alpha)}, beta ${guide.short(law.beta)}.`),
    ];
  },
});
