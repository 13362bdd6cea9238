"use strict";
explorable({
  controls: [
    { name: "rewards", label: "Rewards of the answers to one prompt", text: "1 0 0 1 0 0 0 0" },
    { name: "kind", label: "Advantages", options: ["grpo", "dr-grpo", "rloo"], value: "grpo" },
  ],
  advantages(kind, rewards) {
    const n = rewards.length;
    if (n < 2) return rewards.map(() => 0);
    const mean = guide.mean(rewards);
    const away = rewards.map((r) => r - mean);
    if (kind === "rloo") return away.map((a) => (a * n) / (n - 1));
    const spread = Math.sqrt(guide.sum(away.map((a) => a * a)) / (n - 1));
    return kind === "grpo" ? away.map((a) => a / (spread + 1e-4)) : away;
  },
  compute(v) {
    const rewards = guide.numbers(v.rewards, -100, 100, 32);
    return { rewards, advantages: this.advantages(v.kind, rewards) };
  },
  show(f, v) {
    const shares = Array.from({ length: 15 }, (_, i) => i + 1);
    const lines = ["grpo", "dr-grpo", "rloo"].map((kind) => ({
      name: kind,
      points: shares.map((right) => [right, this.advantages(kind, Array.from({ length: 16 }, (_, i) => (i < right ? 1 : 0)))[0]]),
    }));
    const same = new Set(f.rewards).size === 1 ? " All rewards are equal, so no answer has an advantage and the prompt teaches nothing." : "";
    return [
      guide.say(`${v.kind}: the advantages add up to ${guide.short(Math.abs(guide.sum(f.advantages)) < 1e-9 ? 0 : guide.sum(f.advantages))}.${same}`),
      guide.bars("Advantage of each answer", f.advantages.map((a, i) => [`reward ${guide.short(f.rewards[i])}`, a])),
      guide.plot("Advantage of a right answer, by how many of 16 are right", "right answers of 16", "advantage", lines),
      guide.say("Dividing by the spread (grpo) makes prompts that are nearly always or nearly never solved count as much as others."),
    ];
  },
});
