"use strict";
explorable({
  controls: [{ name: "logits", label: "Logits, the best first or in any order", text: "4 3.2 2.5 2.4 1 0.5 0 -1 -1 -3" }, ...guide.cuts],
  compute(v) {
    const logits = guide.numbers(v.logits, -100, 100, 40);
    const before = guide.softmax(logits);
    const after = guide.kept(logits, v);
    const entropy = (p) => guide.sum(p.filter((x) => x > 0).map((x) => -x * Math.log2(x)));
    return { before, after, kept: after.filter((p) => p > 0).length, bits: [entropy(before), entropy(after)] };
  },
  show(f) {
    const rows = f.after.map((p, i) => [`token ${i + 1}`, guide.percent(f.before[i]), p ? guide.percent(p) : "cut"]);
    return [
      guide.say(`${f.kept} of ${f.before.length} tokens can be drawn; the choice has ${guide.short(f.bits[1])} bits, before it ${guide.short(f.bits[0])}.`),
      guide.bars("Probability after the cuts", f.after.map((p, i) => [`token ${i + 1}`, p])),
      guide.table("Before and after", ["", "softmax", "after"], rows),
    ];
  },
});
