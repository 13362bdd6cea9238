"use strict";
explorable({
  controls: [
    { name: "output", label: "Output", text: "the cat sat on a mat in the sun", lines: 2 },
    { name: "reference", label: "Reference", text: "the cat sat on the mat and slept in the sun", lines: 2 },
    { name: "smoothing", label: "An order without a match", options: ["exp", "none"], value: "exp" },
  ],
  grams(words, n) {
    const found = new Map();
    for (let i = 0; i + n <= words.length; i++) {
      const gram = words.slice(i, i + n).join(" ");
      found.set(gram, (found.get(gram) || 0) + 1);
    }
    return found;
  },
  compute(v) {
    const [output, reference] = [v.output, v.reference].map((t) => t.split(/\s+/).filter(Boolean));
    if (!output.length || !reference.length) throw new Error("both texts are needed");
    let [halvings, any] = [1, 0]; // without any match BLEU is 0, and nothing is smoothed
    const orders = [1, 2, 3, 4].map((n) => {
      const theirs = this.grams(reference, n);
      const shared = [...this.grams(output, n)].map(([gram, count]) => [gram, Math.min(count, theirs.get(gram) || 0)]).filter((g) => g[1]);
      const [matches, total] = [guide.sum(shared.map((g) => g[1])), Math.max(0, output.length - n + 1)];
      any += matches;
      let precision = total ? matches / total : 0;
      if (any && total && !matches && v.smoothing === "exp") precision = 1 / ((halvings *= 2) * total);
      return { matches, total, precision, shared: shared.map((g) => g[0]) };
    });
    const brevity = output.length < reference.length ? Math.exp(1 - reference.length / output.length) : 1;
    const none = orders.every((o) => !o.matches) || orders.some((o) => !o.precision);
    return { brevity, orders, bleu: none ? 0 : 100 * brevity * Math.exp(guide.mean(orders.map((o) => Math.log(o.precision)))) };
  },
  show(f) {
    const rows = f.orders.map((o, i) => [`${i + 1} word${i ? "s" : ""}`, `${o.matches} of ${o.total}`, guide.percent(o.precision), o.shared.slice(0, 8).join(" | ")]);
    return [
      guide.say(`BLEU ${guide.short(f.bleu)}: the geometric mean of four precisions, times a penalty of ${guide.short(f.brevity)} for being shorter than the reference.`),
      guide.table("Step by step", ["n-grams of", "in the reference", "precision", "which"], rows),
      guide.say("Words are what stands between spaces. A word of the output counts as often as the reference has it, and no more."),
    ];
  },
});
