"use strict";
explorable({
  controls: [
    { name: "layers", label: "Layers", low: 1, high: 128, step: 1, value: 32 },
    { name: "kv", label: "Heads of keys and values", low: 1, high: 64, step: 1, value: 8 },
    { name: "size", label: "Width of a head", low: 32, high: 256, step: 32, value: 128 },
    { name: "length", label: "Tokens of a row, 2^", low: 8, high: 20, step: 1, value: 13, says: (v) => (2 ** v).toLocaleString("en-US") },
    { name: "rows", label: "Rows at a time", low: 1, high: 256, step: 1, value: 1 },
    { name: "dtype", label: "Numbers", options: ["float32", "bfloat16", "int8"], value: "bfloat16" },
  ],
  compute(v) {
    const each = { float32: 4, bfloat16: 2, int8: 1 }[v.dtype];
    const token = 2 * v.layers * v.kv * v.size * each;
    return { token, total: token * 2 ** v.length * v.rows };
  },
  show(f, v) {
    const lines = ["float32", "bfloat16", "int8"].map((dtype) => ({
      name: dtype,
      points: Array.from({ length: 13 }, (_, i) => [2 ** (8 + i), this.compute({ ...v, dtype, length: 8 + i }).total]),
    }));
    return [
      guide.say(`2 (keys and values) × ${v.layers} layers × ${v.kv} heads × ${v.size} numbers: ${guide.bytes(f.token)} a token, ${guide.bytes(f.total)} in all.`),
      guide.plot("Bytes of the cache over the tokens of a row", "tokens of a row", "bytes", lines, { logX: true, logY: true }),
    ];
  },
});
