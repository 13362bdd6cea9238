"""A picture that is drowned in noise step by step; generation goes the other way."""

import math

import numpy as np

from llmanac.guide.figures._draw import Drawing
from llmanac.guide.figures.patches import PICTURE

KEPT = (1.0, 0.8, 0.5, 0.2, 0.0)  # the share of the signal's variance
_noise = np.random.default_rng(5).normal(size=PICTURE.shape)
STEPS = [math.sqrt(a) * (2 * PICTURE - 1) + math.sqrt(1 - a) * _noise for a in KEPT]


def draw(made: Drawing) -> None:
    """Five pictures with arrows both ways."""
    for number, picture in enumerate(STEPS):
        x = 12 + 146 * number
        made.grid(x, 30, np.clip((picture + 1.5) / 3, 0, 1).tolist(), "", size=10, most=1.0)
        made.text(x + 60, 170, f"signal {KEPT[number]:.0%}", kind="small")
        if number:
            made.arrow((x - 24, 75), (x - 4, 75), kind="curve b")
            made.arrow((x - 4, 105), (x - 24, 105), kind="curve a")
