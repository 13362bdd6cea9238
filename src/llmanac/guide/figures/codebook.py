"""A VQ-VAE: each place of an encoded picture is replaced by the nearest entry of a codebook."""

import numpy as np

from llmanac.guide.figures._draw import Drawing

ENTRIES = np.array([[0.2, 0.8], [0.8, 0.7], [0.7, 0.2], [0.2, 0.2]])
POINTS = np.random.default_rng(6).uniform(0.05, 0.95, size=(9, 2))
CODES = np.linalg.norm(POINTS[:, None] - ENTRIES, axis=2).argmin(1)


def draw(made: Drawing) -> None:
    """Vectors with their nearest entries, and the grid of numbers."""
    for (x, y), code in zip(POINTS.tolist(), CODES.tolist(), strict=True):
        ex, ey = ENTRIES[code]
        made.line((20 + 260 * x, 200 - 190 * y), (20 + 260 * ex, 200 - 190 * ey), kind="thin")
        made.parts.append(f'<circle cx="{20 + 260 * x:.1f}" cy="{200 - 190 * y:.1f}" r="4" class="box b"/>')
    for number, (x, y) in enumerate(ENTRIES.tolist()):
        made.box(8 + 260 * x, 188 - 190 * y, 24, 24, str(number), "a")
    made.arrow((310, 105), (370, 105))
    made.grid(400, 50, CODES.reshape(3, 3).tolist(), ".0f", size=36, kind="c")
