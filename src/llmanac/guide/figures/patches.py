"""A picture as a sequence of patches."""

import numpy as np

from llmanac.guide.figures._draw import Drawing

SIDE, PATCH = 12, 4
_y, _x = np.mgrid[0:SIDE, 0:SIDE]
PICTURE = np.clip(1.2 - np.hypot(_x - 6.5, _y - 5.5) / 5, 0, 1)
EXAMPLE = {"side": SIDE, "patch": PATCH, "tokens": (SIDE // PATCH) ** 2, "numbers": PATCH * PATCH}


def draw(made: Drawing) -> None:
    """The picture with its patches, and the patches in a row."""
    made.grid(20, 20, PICTURE.tolist(), "", size=12)
    for cut in (1, 2):
        made.line((20 + 48 * cut, 16), (20 + 48 * cut, 168), kind="curve b")
        made.line((16, 20 + 48 * cut), (168, 20 + 48 * cut), kind="curve b")
    made.arrow((180, 92), (210, 92))
    for number in range(EXAMPLE["tokens"]):
        row, column = divmod(number, SIDE // PATCH)
        part = PICTURE[PATCH * row : PATCH * row + PATCH, PATCH * column : PATCH * column + PATCH]
        made.grid(222 + 55 * number, 72, part.tolist(), "", size=11, most=1.0)
        made.text(244 + 55 * number, 134, str(number), kind="small")
