"""A feed-forward layer with one function, and with a gate."""

import math

from llmanac.guide.figures._draw import Drawing


def silu(x: float) -> float:
    """x sigmoid(x)."""
    return x / (1 + math.exp(-x))


def draw(made: Drawing) -> None:
    """Both layers as boxes, and the two functions."""
    made.box(30, 180, 120, 30, "x")
    made.box(30, 120, 120, 30, "W up, ReLU", "a")
    made.box(30, 60, 120, 30, "W down", "a")
    made.arrow((90, 180), (90, 150))
    made.arrow((90, 120), (90, 90))
    made.box(230, 180, 150, 30, "x")
    made.box(200, 120, 100, 30, "W gate, SiLU", "b")
    made.box(310, 120, 100, 30, "W up", "a")
    made.box(285, 74, 40, 28, "times")
    made.box(245, 20, 120, 30, "W down", "a")
    for x, to in ((250, 295), (360, 315)):
        made.arrow((x, 180), (x, 150))
        made.arrow((x, 120), (to, 102))
    made.arrow((305, 74), (305, 50))
    made.plot(480, 30, 170, 140, [("ReLU", lambda x: max(x, 0.0), "a"), ("SiLU", silu, "b")], (-4.0, 4.0), (-1.0, 4.0),
              marks=(-4, 0, 4))  # fmt: skip
