"""A row of the embedding matrix, found by a one-hot vector or by its number."""

import numpy as np

from llmanac.guide.figures._draw import Drawing

WORDS = ("the", "cat", "dog", "runs")
TABLE = np.array([[0.1, -0.2, 0.0], [0.9, 0.4, -0.3], [0.8, 0.5, -0.2], [-0.5, 0.7, 0.6]])
_unit = TABLE / np.linalg.norm(TABLE, axis=1, keepdims=True)
EXAMPLE = {"cosines": _unit @ _unit.T, "width": TABLE.shape[1]}


def draw(made: Drawing) -> None:
    """One-hot row, table, and the row that comes out."""
    made.grid(50, 70, [[0, 1, 0, 0]], ".0f", columns=WORDS, kind="b")
    made.text(210, 92, "times")
    made.grid(290, 40, TABLE.tolist(), ".1f", rows=WORDS)
    made.arrow((400, 92), (430, 92))
    made.grid(440, 75, [TABLE[1].tolist()], ".1f", kind="c")
