"use strict";
explorable({
  controls: [
    { name: "share", label: "How often A really wins", low: 0.05, high: 0.95, step: 0.05, value: 0.65 },
    { name: "battles", label: "Battles", low: 10, high: 500, step: 10, value: 100 },
    { name: "k", label: "K, points of a full surprise", low: 1, high: 64, step: 1, value: 8 },
    { name: "seed", label: "Seed", low: 0, high: 99, step: 1, value: 0 },
  ],
  play(results, k) {
    // the ratings of A after each battle; B has 2000 less that
    let a = 1000;
    return results.map((won) => {
      const expected = 1 / (1 + 10 ** ((2000 - 2 * a) / 400));
      a += k * (won - expected);
      return a;
    });
  },
  compute(v) {
    const draw = guide.random(v.seed);
    const results = Array.from({ length: v.battles }, () => (draw() < v.share ? 1 : 0));
    const path = this.play(results, v.k);
    const again = Array.from({ length: 200 }, () => this.play(results.map(() => results[Math.floor(draw() * v.battles)]), v.k).at(-1)).sort((x, y) => x - y);
    return { results, path, low: guide.quantile(again, 0.025), high: guide.quantile(again, 0.975), gap: 400 * Math.log10(v.share / (1 - v.share)) };
  },
  show(f, v) {
    const last = f.path.at(-1);
    return [
      guide.say(`A won ${guide.sum(f.results)} of ${v.battles}. Its rating is ${guide.short(Math.round(last))}, with an interval of ${guide.short(Math.round(f.low))} to ${guide.short(Math.round(f.high))} from 200 sets of as many battles, redrawn from these; B has ${guide.short(Math.round(2000 - last))}. The true gap is ${guide.short(Math.round(f.gap))} points, the estimated one ${guide.short(Math.round(2 * last - 2000))}.`),
      guide.plot("A's rating over battles", "battle", "rating", [{ name: "A", points: f.path.map((y, x) => [x + 1, y]) }, { name: "its true place", points: [[1, 1000 + f.gap / 2], [v.battles, 1000 + f.gap / 2]] }]),
      guide.say("A large K arrives sooner and never rests; a small one needs more battles than there may be."),
    ];
  },
});
