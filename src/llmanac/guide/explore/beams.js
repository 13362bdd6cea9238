"use strict";
explorable({
  controls: [
    { name: "text", label: "Prompt", lines: 2, most: 300, text: "The loss of a model" },
    { name: "beams", label: "Beams", low: 1, high: 6, step: 1, value: 3 },
    { name: "steps", label: "Tokens", low: 1, high: 8, step: 1, value: 5 },
  ],
  search(v, beams) {
    // every kept text with every token; the best few stay. Tokens that end a text are left out, so all are equally long.
    const { state, logits } = guide.prompt(v.text);
    let kept = [{ ids: [], score: 0, state, logits, parent: 0 }];
    const layers = [];
    for (let step = 0; step < v.steps; step++) {
      const found = kept.flatMap((one, parent) => {
        const top = Math.max(...one.logits);
        const total = top + Math.log(guide.sum(one.logits.map((x) => Math.exp(x - top))));
        return one.logits.map((x, id) => ({ parent, id, score: one.score + x - total })).slice(guideModel.special).sort((a, b) => b.score - a.score).slice(0, beams);
      });
      found.sort((a, b) => b.score - a.score);
      kept = found.slice(0, beams).map(({ parent, id, score }) => {
        const own = guide.branch(kept[parent].state);
        return { parent, score, ids: [...kept[parent].ids, id], state: own, logits: step + 1 < v.steps ? guide.read(own, id) : [] };
      });
      layers.push(kept.map((k) => ({ id: k.ids.at(-1), parent: k.parent, score: k.score })));
    }
    return { layers, ids: kept[0].ids, score: kept[0].score };
  },
  compute(v) {
    return { ...this.search(v, v.beams), greedy: this.search(v, 1).score };
  },
  show(f, v) {
    const best = [];
    for (let [level, at] = [f.layers.length - 1, 0]; level >= 0; at = f.layers[level--][at].parent) best[level] = at;
    const [across, down] = [104, 24];
    const parts = f.layers.flatMap((layer, l) => layer.flatMap((node, i) => {
      const [x, y, kind] = [6 + across * l, 18 + down * i, best[l] === i ? "best" : "kept"];
      const line = l ? [guide.make("line", { x1: x - 22, y1: 14 + down * node.parent, x2: x - 4, y2: y - 4, class: kind })] : [];
      return [...line, guide.text(x, y, guide.visible(guide.piece(node.id)).slice(0, 11), { class: kind })];
    }));
    return [
      guide.say(`${v.beams} beams reach a log-probability of ${guide.short(f.score)}, greedy ${guide.short(f.greedy)}: "${v.text}${guide.decode(f.ids)}"`),
      guide.svg(10 + across * v.steps, 8 + down * v.beams, "The kept texts at each step; the best path is bold", parts),
      guide.about(),
    ];
  },
});
