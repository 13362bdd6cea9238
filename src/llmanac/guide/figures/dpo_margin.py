"""DPO's loss of a pair by the margin between its answers, at three strengths."""

import math

from llmanac.guide.figures._draw import Drawing

BETAS = (0.05, 0.1, 0.5)


def loss(margin: float, beta: float) -> float:
    """-log sigmoid(beta margin)."""
    return math.log1p(math.exp(-beta * margin))


EXAMPLE = {"start": loss(0.0, 0.1), "slope": [b / 2 for b in BETAS]}


def draw(made: Drawing) -> None:
    """Three falling curves through one point."""
    curves = [(f"beta {b:g}", lambda m, b=b: loss(m, b), kind) for b, kind in zip(BETAS, "abc", strict=True)]
    made.plot(
        50, 24, 450, 180, curves, (-10.0, 20.0), (0.0, 5.2), label="margin, nats", side="loss", marks=(-10, 0, 10, 20)
    )
