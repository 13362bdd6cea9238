"use strict";
explorable({
  controls: [
    { name: "schedule", label: "Schedule", options: ["1f1b", "gpipe"], value: "1f1b" },
    { name: "ranks", label: "Ranks", low: 2, high: 8, step: 1, value: 4 },
    { name: "micro", label: "Micro-batches", low: 1, high: 24, step: 1, value: 8 },
  ],
  order(v, rank) {
    // what a rank does, one after the other: 1F1B fills the pipeline, then takes turns, then empties it
    const first = v.schedule === "gpipe" ? v.micro : Math.min(v.micro, v.ranks - rank);
    const found = [];
    let [f, b] = [0, 0];
    while (f < first) found.push(["F", f++]);
    while (b < v.micro) {
      found.push(["B", b++]);
      if (f < v.micro) found.push(["F", f++]);
    }
    return found;
  },
  compute(v) {
    const done = {};
    const rows = Array.from({ length: v.ranks }, (_, rank) => ({ todo: this.order(v, rank), free: 0, actions: [], kept: 0, most: 0 }));
    for (let moved = true; moved; ) {
      moved = false;
      rows.forEach((row, rank) => {
        for (; row.todo.length; moved = true) {
          const [kind, micro] = row.todo[0];
          const needs = kind === "F" ? (rank ? done[["F", rank - 1, micro]] : 0) : rank === v.ranks - 1 ? done[["F", rank, micro]] : done[["B", rank + 1, micro]];
          if (needs === undefined) break;
          row.todo.shift();
          const begin = Math.max(row.free, needs);
          row.free = done[[kind, rank, micro]] = begin + (kind === "F" ? 1 : 2);
          row.kept += kind === "F" ? 1 : -1;
          row.most = Math.max(row.most, row.kept);
          row.actions.push([kind, micro, begin, row.free]);
        }
      });
    }
    const end = Math.max(...rows.map((r) => r.free));
    return { end, bubble: 1 - (3 * v.micro) / end, formula: (v.ranks - 1) / (v.micro + v.ranks - 1), kept: rows.map((r) => r.most), actions: rows.map((r) => r.actions) };
  },
  show(f, v) {
    const step = Math.max(8, Math.min(20, 640 / f.end));
    const parts = f.actions.flatMap((row, rank) => [
      guide.text(0, 24 * rank + 15, `rank ${rank}`),
      ...row.map(([kind, micro, begin, end]) => guide.make("rect", { x: 50 + begin * step, y: 24 * rank + 2, width: (end - begin) * step - 1, height: 18, class: `mark ${kind === "F" ? "a" : "b"}` },
        guide.make("title", {}, `${kind} ${micro}: ${begin} to ${end}`))),
    ]);
    return [
      guide.say(`Ranks wait ${guide.percent(f.bubble)} of the step; (p - 1) / (m + p - 1) gives ${guide.percent(f.formula)}. Micro-batches whose activations a rank keeps, at most: ${f.kept.join(", ")}.`),
      guide.svg(52 + f.end * step, 24 * v.ranks, "What each rank does over time", parts),
      guide.make("p", { class: "key" }, guide.make("span", { class: "name a" }, "forward, 1 unit"), guide.make("span", { class: "name b" }, "backward, 2 units")),
      guide.say("Both schedules wait equally long. 1F1B begins backward passes early, so it keeps fewer activations."),
    ];
  },
});
