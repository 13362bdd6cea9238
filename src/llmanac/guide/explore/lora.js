"use strict";
explorable({
  controls: [
    { name: "rank", label: "Rank", low: 1, high: 12, step: 1, value: 3 },
    { name: "decay", label: "Each singular value over the one before", low: 0.3, high: 1, step: 0.05, value: 0.7 },
    { name: "steps", label: "Steps of gradient descent", low: 0, high: 400, step: 10, value: 100 },
    { name: "seed", label: "Seed", low: 0, high: 99, step: 1, value: 0 },
  ],
  size: 12,
  product: (a, b) => a.map((row) => b[0].map((_, j) => guide.sum(row.map((x, k) => x * b[k][j])))),
  turn: (a) => a[0].map((_, j) => a.map((row) => row[j])),
  matrix(count, width, seed) {
    const x = guide.normals(count * width, seed);
    return Array.from({ length: count }, (_, i) => x.slice(i * width, (i + 1) * width));
  },
  basis(seed) {
    // Gram-Schmidt of a random matrix: rows of length one at right angles
    const found = [];
    for (let row of this.matrix(this.size, this.size, seed)) {
      for (const one of found) {
        const part = guide.dot(one, row);
        row = row.map((x, i) => x - part * one[i]);
      }
      const size = Math.hypot(...row);
      found.push(row.map((x) => x / size));
    }
    return found;
  },
  singular(matrix) {
    // One-sided Jacobi: columns are turned until all are at right angles; their lengths are the singular values.
    const a = this.turn(matrix).map((c) => [...c]);
    for (let sweep = 0; sweep < 30; sweep++)
      for (let p = 0; p < a.length; p++)
        for (let q = p + 1; q < a.length; q++) {
          const [x, y, z] = [guide.dot(a[p], a[p]), guide.dot(a[q], a[q]), guide.dot(a[p], a[q])];
          if (Math.abs(z) < 1e-14 * Math.sqrt(x * y)) continue;
          const t = (y - x) / (2 * z);
          const tangent = (t < 0 ? -1 : 1) / (Math.abs(t) + Math.sqrt(1 + t * t));
          const c = 1 / Math.sqrt(1 + tangent * tangent);
          const s = c * tangent;
          [a[p], a[q]] = [a[p].map((u, k) => c * u - s * a[q][k]), a[p].map((u, k) => s * u + c * a[q][k])];
        }
    return a.map((column) => Math.hypot(...column)).sort((x, y) => y - x);
  },
  compute(v) {
    const n = this.size;
    const values = Array.from({ length: n }, (_, i) => 4 * v.decay ** i);
    const left = this.basis(3 * v.seed + 1).map((row, i) => row.map((x) => x * values[i]));
    const change = this.product(this.turn(left), this.basis(3 * v.seed + 2));
    const found = this.singular(change);
    const whole = guide.sum(found.map((s) => s * s));
    const best = guide.sum(found.slice(v.rank).map((s) => s * s));
    let a = this.matrix(v.rank, n, 3 * v.seed + 3).map((row) => row.map((x) => x / Math.sqrt(n)));
    let b = Array.from({ length: n }, () => Array(v.rank).fill(0));
    const gap = () => this.product(b, a).map((row, i) => row.map((x, j) => x - change[i][j]));
    const path = [];
    for (let step = 0; step <= v.steps; step++) {
      const g = gap();
      path.push(guide.sum(g.map((row) => guide.sum(row.map((x) => x * x)))) / whole);
      const [down, up] = [this.product(g, this.turn(a)), this.product(this.turn(b), g)];
      b = b.map((row, i) => row.map((x, j) => x - 0.05 * down[i][j]));
      a = a.map((row, i) => row.map((x, j) => x - 0.05 * up[i][j]));
    }
    return { values: found, best: best / whole, reached: path.at(-1), path, parameters: 2 * v.rank * n };
  },
  show(f, v) {
    const points = f.path.map((y, x) => [x, y]);
    return [
      guide.say(`The change that a matrix of 12 × 12 needs is known here. Rank ${v.rank} has ${f.parameters} parameters of 144. The best change of that rank, cut from an SVD, misses ${guide.percent(f.best)} of it (squared); LoRA, trained with B = 0 at the start, misses ${guide.percent(f.reached)} after ${v.steps} steps.`),
      guide.plot("What LoRA still misses, over steps", "steps", "share missed", [{ name: "LoRA", points }, { name: "the best of this rank", points: [[0, f.best], [Math.max(1, v.steps), f.best]] }]),
      guide.bars("Singular values of the change", f.values.map((s, i) => [`${i + 1}`, s])),
    ];
  },
});
