"use strict";
explorable({
  controls: [
    { name: "n", label: "Samples n", low: 1, high: 200, step: 1, value: 20 },
    { name: "c", label: "Of which pass, c", low: 0, high: 200, step: 1, value: 3, },
    { name: "k", label: "k", low: 1, high: 200, step: 1, value: 5 },
  ],
  one(n, c, k) {
    if (n - c < k) return 1;
    let fail = 1;
    for (let i = n - c + 1; i <= n; i++) fail *= 1 - k / i;
    return 1 - fail;
  },
  compute(v) {
    if (v.c > v.n) throw new Error("c is above n: at most all samples pass");
    if (v.k > v.n) throw new Error("k is above n: n samples are needed for pass@n at most");
    const curve = Array.from({ length: v.n }, (_, i) => this.one(v.n, v.c, i + 1));
    return { right: this.one(v.n, v.c, v.k), biased: 1 - (1 - v.c / v.n) ** v.k, curve };
  },
  show(f, v) {
    return [
      guide.say(`pass@${v.k} is ${guide.percent(f.right)}. From the share of passing samples alone, 1 - (1 - c/n)^k gives ${guide.percent(f.biased)}, which is too low on average.`),
      guide.plot("pass@k over k", "k", "estimate", [
        { name: "unbiased", points: f.curve.map((y, i) => [i + 1, y]), dot: [v.k, f.right] },
        { name: "from the share", points: f.curve.map((_, i) => [i + 1, 1 - (1 - v.c / v.n) ** (i + 1)]) }]),
    ];
  },
});
