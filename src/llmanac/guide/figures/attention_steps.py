"""Attention step by step: scores, mask, softmax, weighted sum, of three tokens with two numbers a head."""

import numpy as np

from llmanac.guide.figures._draw import Drawing

TOKENS = ("the", "cat", "sat")
Q = np.array([[1.0, 0.2], [0.4, 1.2], [1.5, 1.0]])
K = np.array([[0.8, 0.1], [0.3, 1.4], [1.2, 0.9]])
V = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
SCORES = Q @ K.T / np.sqrt(Q.shape[1])
HIDDEN = np.triu(np.ones((3, 3), bool), 1)
_exp = np.where(HIDDEN, 0.0, np.exp(SCORES))
WEIGHTS = _exp / _exp.sum(1, keepdims=True)
OUT = WEIGHTS @ V
EXAMPLE = {"q": Q, "k": K, "v": V, "dots": Q @ K.T, "scores": SCORES, "weights": WEIGHTS, "out": OUT}


def draw(made: Drawing) -> None:
    """Four grids with what leads from one to the next."""
    scores = SCORES.tolist()
    masked = [[None if HIDDEN[i, j] else scores[i][j] for j in range(3)] for i in range(3)]
    steps = (
        (62, scores, "q kᵀ / √d", "a"), (250, masked, "mask", "a"), (438, WEIGHTS.tolist(), "softmax by row", "b"),
    )  # fmt: skip
    for x, values, name, kind in steps:
        made.text(x + 51, 22, name, kind="strong")
        made.grid(x, 52, values, rows=TOKENS if x == 62 else (), columns=TOKENS, kind=kind)
        made.arrow((x + 112, 103), (x + 152, 103))
    made.text(632, 22, "times v: output", kind="strong")
    made.grid(600, 52, OUT.tolist(), kind="c")
