"use strict";
explorable({
  controls: [
    { name: "chosen", label: "Log-ratio of the chosen answer, policy over reference", low: -20, high: 20, step: 0.5, value: 2 },
    { name: "rejected", label: "Log-ratio of the rejected answer", low: -20, high: 20, step: 0.5, value: -1 },
    { name: "beta", label: "Beta", low: 0.01, high: 1, step: 0.01, value: 0.1 },
    { name: "smoothing", label: "Label smoothing", low: 0, high: 0.45, step: 0.05, value: 0 },
  ],
  sigmoid: (x) => 1 / (1 + Math.exp(-x)),
  soft: (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x))), // log(1 + e^x)
  losses(gap, v) {
    const m = v.beta * gap;
    return { dpo: (1 - v.smoothing) * this.soft(-m) + v.smoothing * this.soft(m), ipo: (gap - 1 / (2 * v.beta)) ** 2 };
  },
  compute(v) {
    const gap = v.chosen - v.rejected;
    const m = v.beta * gap;
    return { gap, ...this.losses(gap, v), slope: -v.beta * ((1 - v.smoothing) * this.sigmoid(-m) - v.smoothing * this.sigmoid(m)), ipoSlope: 2 * (gap - 1 / (2 * v.beta)) };
  },
  show(f, v) {
    const xs = Array.from({ length: 81 }, (_, i) => i - 40);
    return [
      guide.say(`The gap of the two log-ratios is ${guide.short(f.gap)}. DPO's loss is ${guide.short(f.dpo)} and its slope by the gap ${guide.short(f.slope)}: it pulls on a pair that is ranked wrongly with nearly beta, and lets go of one that is ranked well. IPO's is ${guide.short(f.ipo)}, with slope ${guide.short(f.ipoSlope)}: it wants the gap to be ${guide.short(1 / (2 * v.beta))} and no more.`),
      guide.plot("DPO's loss over the gap", "gap of log-ratios", "loss", [{ name: "DPO", points: xs.map((x) => [x, this.losses(x, v).dpo]), dot: [f.gap, f.dpo] }]),
      guide.plot("IPO's loss over the gap", "gap of log-ratios", "loss", [{ name: "IPO", points: xs.map((x) => [x, this.losses(x, v).ipo]), dot: [f.gap, f.ipo] }]),
    ];
  },
});
