"use strict";
explorable({
  controls: [
    { name: "text", label: "Text to count, a sentence a line", lines: 5, most: 4000, text: "the cat sat on the mat\nthe dog sat on the rug\na cat saw the dog\nthe dog saw a cat on the mat" },
    { name: "sentence", label: "Your sentence", text: "the cat saw the mat" },
    { name: "order", label: "Order", low: 1, high: 5, step: 1, value: 3 },
    { name: "smoothing", label: "Smoothing", options: ["kneser-ney", "add-k"], value: "kneser-ney" },
    { name: "k", label: "k, added to every count", low: 0.01, high: 2, step: 0.01, value: 0.1 },
  ],
  gap: "\u0001",
  model(v) {
    const lines = v.text.split("\n").map((l) => l.split(/\s+/).filter(Boolean)).filter((l) => l.length);
    if (!lines.length) throw new Error("a text to count is needed");
    const words = [...new Set(lines.flat())];
    const counts = Array.from({ length: v.order }, () => new Map()); // of n-grams by length
    for (const line of lines)
      for (let n = 1; n <= v.order; n++)
        for (let i = 0; i + n <= line.length; i++) {
          const gram = line.slice(i, i + n).join(this.gap);
          counts[n - 1].set(gram, (counts[n - 1].get(gram) || 0) + 1);
        }
    return { size: words.length + 1, known: new Set(words), levels: counts.map((own, n) => this.level(own, counts[n + 1], v)) };
  },
  level(own, above, v) {
    // contexts with their words: plain counts at the highest order, else how many different words come before
    let used = own;
    if (v.smoothing === "kneser-ney" && above) {
      used = new Map([...own.keys()].map((gram) => [gram, 0]));
      for (const longer of above.keys()) {
        const gram = longer.slice(longer.indexOf(this.gap) + 1);
        used.set(gram, used.get(gram) + 1);
      }
    }
    const [one, two] = [1, 2].map((n) => [...used.values()].filter((c) => c === n).length);
    const discount = one && two ? one / (one + 2 * two) : 0.5;
    const contexts = new Map();
    for (const [gram, count] of used) {
      const cut = gram.lastIndexOf(this.gap);
      const context = cut < 0 ? "" : gram.slice(0, cut);
      const found = contexts.get(context) || { total: 0, kinds: 0, words: new Map() };
      found.total += count;
      found.kinds += count > 0 ? 1 : 0;
      found.words.set(gram.slice(cut + 1), count);
      contexts.set(context, found);
    }
    return { discount, contexts };
  },
  probability(model, context, word, v) {
    const { discount, contexts } = model.levels[context.length];
    const here = contexts.get(context.join(this.gap));
    const count = here?.words.get(word) || 0;
    if (v.smoothing === "add-k") return here ? (count + v.k) / (here.total + v.k * model.size) : 1 / model.size;
    const lower = context.length ? this.probability(model, context.slice(1), word, v) : 1 / model.size;
    if (!here?.total) return lower;
    return (count ? count - discount : 0) / here.total + ((discount * here.kinds) / here.total) * lower;
  },
  compute(v) {
    const model = this.model(v);
    const words = v.sentence.split(/\s+/).filter(Boolean).map((w) => (model.known.has(w) ? w : "<unk>"));
    if (!words.length) throw new Error("a sentence is needed");
    const p = words.map((word, i) => this.probability(model, words.slice(Math.max(0, i - v.order + 1), i), word, v));
    const every = [...model.known, "<unk>"].map((w) => [w, this.probability(model, words.slice(-(v.order - 1) || words.length), w, v)]);
    return { words, p, perplexity: Math.exp(-guide.mean(p.map(Math.log))), vocabulary: model.size, next: every.sort((a, b) => b[1] - a[1]).slice(0, 8) };
  },
  show(f) {
    return [
      guide.say(`Perplexity of your sentence: ${guide.short(f.perplexity)}, of ${f.vocabulary} words (one of them stands for all others).`),
      guide.tokens(f.words.map((w, i) => [w + " ", guide.percent(f.p[i]), f.p[i]])),
      guide.table("Word by word", ["word", "probability", "nats"], f.words.map((w, i) => [w, guide.percent(f.p[i]), -Math.log(f.p[i])])),
      guide.bars("What would come next", f.next),
    ];
  },
});
