"use strict";
explorable({
  controls: [
    { name: "method", label: "Method", options: ["nf4", "int8", "2 bits", "3 bits", "4 bits"], value: "nf4" },
    { name: "power", label: "Numbers that share a scale", low: 5, high: 8, step: 1, value: 6, says: (v) => String(2 ** v) },
    { name: "outlier", label: "One outlier, in standard deviations (0: none)", low: 0, high: 60, step: 1, value: 0 },
    { name: "seed", label: "Seed", low: 0, high: 99, step: 1, value: 0 },
  ],
  // the levels of NF4: quantiles of a normal distribution, 7 below zero, zero, 8 above
  nf4: [-1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1],
  levels(method) {
    if (method === "nf4") return this.nf4;
    const most = method === "int8" ? 127 : 2 ** (parseInt(method, 10) - 1) - 1;
    return Array.from({ length: 2 * most + 1 }, (_, i) => (i - most) / most);
  },
  compute(v) {
    const x = guide.normals(256, v.seed);
    if (v.outlier) x[0] = v.outlier;
    const [levels, size] = [this.levels(v.method), 2 ** v.power];
    const read = [];
    for (let at = 0; at < 256; at += size) {
      const block = x.slice(at, at + size);
      const scale = Math.max(...block.map(Math.abs));
      for (const value of block) {
        let best = 0;
        levels.forEach((level, i) => {
          if (Math.abs(level - value / scale) < Math.abs(levels[best] - value / scale)) best = i;
        });
        read.push(levels[best] * scale);
      }
    }
    const square = (values) => guide.mean(values.map((y) => y * y));
    const bits = Math.ceil(Math.log2(levels.length)) + 32 / size;
    return { read, bits, error: Math.sqrt(square(read.map((y, i) => y - x[i])) / square(x)), largest: Math.max(...read.map((y, i) => Math.abs(y - x[i]))) };
  },
  show(f, v) {
    const x = guide.normals(256, v.seed);
    if (v.outlier) x[0] = v.outlier;
    const order = x.map((_, i) => i).slice(0, 64).sort((a, b) => x[a] - x[b]);
    const every = ["2 bits", "3 bits", "4 bits", "nf4", "int8"].map((method) => [method, this.compute({ ...v, method })]);
    return [
      guide.say(`${v.method}: ${guide.short(f.bits)} bits a number with its scale in float32; the error is ${guide.percent(f.error)} of the numbers' size, the largest ${guide.short(f.largest)} standard deviations.`),
      guide.plot("The first 64 numbers, sorted, before and after", "number", "value", [
        { name: "before", points: order.map((i, n) => [n, x[i]]) }, { name: v.method, points: order.map((i, n) => [n, f.read[i]]) }]),
      guide.table("Every method on the same numbers", ["method", "bits a number", "error"], every.map(([m, r]) => [m, r.bits, guide.percent(r.error)])),
    ];
  },
});
