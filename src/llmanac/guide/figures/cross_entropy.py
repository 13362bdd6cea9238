"""The loss of one prediction by the probability of what came."""

import math

from llmanac.guide.figures._draw import Drawing


def draw(made: Drawing) -> None:
    """-log p for a label of one, and for a label of zero."""
    curves = [
        ("label 1", lambda p: -math.log(max(p, 1e-9)), "a"),
        ("label 0", lambda p: -math.log(max(1 - p, 1e-9)), "b"),
    ]
    made.plot(50, 24, 450, 180, curves, (0.0, 1.0), (0.0, 4.0), label="predicted probability of label 1", side="nats",
              marks=(0, 0.25, 0.5, 0.75, 1))  # fmt: skip
