"""A row of weights in eight bits, in four, in one: what is stored and what comes back."""

import numpy as np

from llmanac.guide.figures._draw import Drawing

ROW = np.array([0.31, -0.12, 0.05, -0.44, 0.22, -0.03, 0.18, -0.27])


def _rounded(bits: int) -> np.ndarray:
    if bits == 1:
        return np.sign(ROW) * np.abs(ROW).mean()
    most = 2 ** (bits - 1) - 1
    scale = np.abs(ROW).max() / most
    return np.asarray(np.round(ROW / scale) * scale)


ROUNDED = {bits: _rounded(bits) for bits in (8, 4, 1)}


def draw(made: Drawing) -> None:
    """Four rows of numbers."""
    rows = [ROW, *ROUNDED.values()]
    made.grid(140, 24, [row.tolist() for row in rows], rows=("as it was", "8 bits", "4 bits", "1 bit"), size=42)
