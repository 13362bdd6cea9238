"""Three kinds of positions: waves, a table with an end, and terms by distance."""

import math

from llmanac.guide.figures._draw import Drawing

PLACES, TRAINED = 10, 6


def draw(made: Drawing) -> None:
    """A grid for each."""
    waves = [[math.sin(t / 4**i) for i in range(4)] for t in range(PLACES)]
    made.text(90, 18, "sinusoidal", kind="strong")
    made.grid(50, 26, waves, "", size=18, rows=[str(t) for t in range(PLACES)])
    table = [[math.cos(3.7 * t + 1.3 * i) if t < TRAINED else None for i in range(4)] for t in range(PLACES)]
    made.text(300, 18, "learned", kind="strong")
    made.grid(264, 26, table, "", size=18, kind="b", rows=[str(t) for t in range(PLACES)])
    bias = [[1 - (i - j) / PLACES if j <= i else None for j in range(PLACES)] for i in range(PLACES)]
    made.text(550, 18, "relative", kind="strong")
    made.grid(460, 26, bias, "", size=18, kind="c")
