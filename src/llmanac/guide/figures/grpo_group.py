"""GRPO: rewards of a group of answers to one prompt become advantages."""

import statistics

from llmanac.guide.figures._draw import Drawing

REWARDS = (1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
MEAN, DEVIATION = statistics.mean(REWARDS), statistics.pstdev(REWARDS)
ADVANTAGES = [(r - MEAN) / DEVIATION for r in REWARDS]
EXAMPLE = {"mean": MEAN, "deviation": DEVIATION, "high": max(ADVANTAGES), "low": min(ADVANTAGES), "count": len(REWARDS)}


def draw(made: Drawing) -> None:
    """Bars up and down from a middle line."""
    made.line((60, 120), (580, 120))
    for number, (reward, advantage) in enumerate(zip(REWARDS, ADVANTAGES, strict=True)):
        x, height = 72 + 64 * number, 55 * abs(advantage)
        made.box(x, 120 - height if advantage > 0 else 120, 40, height, kind="a" if advantage > 0 else "b")
        made.text(x + 20, 20, f"{reward:g}", kind="small")
        made.text(x + 20, 115 - height if advantage > 0 else 134 + height, f"{advantage:+.2f}", kind="small")
    made.text(52, 20, "reward", "end", "small")
