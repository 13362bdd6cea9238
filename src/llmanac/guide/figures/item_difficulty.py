"""Adjusting a benchmark: items by how hard they are, and what they say about three models."""

import math

from llmanac.guide.figures._draw import Drawing

MODELS = {"weak": -1.0, "middle": 0.0, "strong": 1.5}


def right(skill: float, difficulty: float) -> float:
    """The chance to be right: a logistic function of skill less difficulty."""
    return 1 / (1 + math.exp(-2 * (skill - difficulty)))


def draw(made: Drawing) -> None:
    """Three curves over difficulty."""
    curves = [(name, lambda d, s=s: right(s, d), kind) for (name, s), kind in zip(MODELS.items(), "bac", strict=True)]
    made.plot(50, 24, 450, 180, curves, (-4.0, 4.0), (0.0, 1.0), label="difficulty of the item", side="right",
              marks=(-4, -2, 0, 2, 4))  # fmt: skip
