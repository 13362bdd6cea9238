"use strict";
explorable({
  controls: [
    { name: "dim", label: "Width D", low: 128, high: 16384, step: 128, value: 4096 },
    { name: "layers", label: "Layers", low: 1, high: 128, step: 1, value: 32 },
    { name: "ffn", label: "Inner width of the gated layer", low: 128, high: 65536, step: 128, value: 14336 },
    { name: "heads", label: "Heads, of 128 numbers", low: 1, high: 128, step: 1, value: 32 },
    { name: "kv", label: "Heads of keys and values", low: 1, high: 128, step: 1, value: 8 },
    { name: "vocab", label: "Vocabulary", low: 1024, high: 262144, step: 1024, value: 128256 - 256 },
    { name: "optimizer", label: "Optimizer", options: ["adamw", "lion", "none"], value: "adamw" },
  ],
  compute(v) {
    const attention = v.dim * 128 * (2 * v.heads + 2 * v.kv);
    const layer = attention + 3 * v.dim * v.ffn + 2 * v.dim;
    const parameters = v.layers * layer + 2 * v.vocab * v.dim + v.dim;
    const state = { adamw: 8, lion: 4, none: 0 }[v.optimizer];
    return { parameters, used: 2 * parameters, weights: 4 * parameters, gradients: 4 * parameters, optimizer: state * parameters };
  },
  show(f, v) {
    const training = f.weights + f.gradients + f.optimizer;
    const parts = [["in use, bfloat16", f.used], ["float32 weights", f.weights], ["gradients", f.gradients], [v.optimizer, f.optimizer]];
    return [
      guide.say(`${guide.short(f.parameters)} parameters. In use ${guide.bytes(f.used)}; training them all takes ${guide.bytes(training)} before activations, ${guide.short(training / f.parameters)} bytes a parameter. 6 N FLOPs a token: ${guide.short(6 * f.parameters)}.`),
      guide.bars("Bytes, in GiB", parts.map(([name, b]) => [name, b / 2 ** 30])),
      guide.say("The embedding and the head are two matrices; norms have a weight a number."),
    ];
  },
});
