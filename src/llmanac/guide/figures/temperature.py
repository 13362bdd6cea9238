"""The same logits at three temperatures."""

import numpy as np

from llmanac.guide.figures._draw import Drawing

LOGITS, TEMPERATURES = np.array([3.0, 2.0, 1.5, 0.5, 0.0, -1.0]), (0.5, 1.0, 2.0)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits."""
    exp = np.exp(logits - logits.max())
    return np.asarray(exp / exp.sum())


def draw(made: Drawing) -> None:
    """Three rows of bars."""
    for number, t in enumerate(TEMPERATURES):
        x = 20 + 210 * number
        made.text(x + 85, 18, f"T = {t:g}", kind="strong")
        for token, p in enumerate(softmax(LOGITS / t).tolist()):
            made.box(x + 29 * token, 160 - 130 * p, 24, 130 * p, kind="a")
