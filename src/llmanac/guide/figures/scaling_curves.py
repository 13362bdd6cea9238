"""A scaling law's loss over model size, one curve a budget, and where each has its lowest point."""

import math

from llmanac.guide.figures._draw import Drawing

A, B, ALPHA, BETA, FLOOR = 406.4, 410.7, 0.34, 0.28, 1.69  # Hoffmann et al. 2022, arXiv:2203.15556, approach 3
BUDGETS = (1e18, 1e19, 1e20)


def loss(parameters: float, flops: float) -> float:
    """Loss in nats of a model trained with a budget, with tokens = flops / (6 parameters)."""
    return FLOOR + A * parameters**-ALPHA + B * (flops / (6 * parameters)) ** -BETA


def best(flops: float) -> float:
    """The size of least loss at a budget, in closed form."""
    ratio = (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA))
    return float(ratio * (flops / 6) ** (BETA / (ALPHA + BETA)))


EXAMPLE = {
    "budgets": BUDGETS, "best": [best(c) for c in BUDGETS], "tokens": [c / 6 / best(c) for c in BUDGETS],
    "loss": [loss(best(c), c) for c in BUDGETS], "half": [loss(best(c) / 2, c) for c in BUDGETS],
    "power": BETA / (ALPHA + BETA),
}  # fmt: skip


def draw(made: Drawing) -> None:
    """Three valleys that move to the right and down."""
    curves = [
        (f"{c:.0e} FLOPs", lambda n, c=c: loss(10**n, c), kind) for c, kind in zip(BUDGETS, "abc", strict=True)
    ]  # fmt: skip
    made.plot(60, 30, 470, 210, curves, (7.0, 9.5), (2.2, 4.2), label="log10 of parameters", side="nats a token",
              marks=(7, 7.5, 8, 8.5, 9, 9.5))  # fmt: skip
    for c in BUDGETS:
        x = 60 + 470 * (math.log10(best(c)) - 7.0) / 2.5
        y = 240 - 210 * (loss(best(c), c) - 2.2) / 2.0
        made.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" class="box d"/>')
