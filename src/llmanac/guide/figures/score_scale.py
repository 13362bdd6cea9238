"""What the root of d does: the largest weight of a softmax over random scores, by width, with and without it."""

from functools import partial

import numpy as np

from llmanac.guide.figures._draw import Drawing

KEYS, WIDTHS = 64, (8, 16, 32, 64, 128, 256)
_draws = np.random.default_rng(0)


def _largest(width: int, scaled: bool) -> float:
    """Mean over 400 queries of the largest of the weights on 64 keys, all normal."""
    scores = np.einsum("nd,nkd->nk", _draws.normal(size=(400, width)), _draws.normal(size=(400, KEYS, width)))
    scores = scores / np.sqrt(width) if scaled else scores
    exp = np.exp(scores - scores.max(1, keepdims=True))
    return float((exp.max(1) / exp.sum(1)).mean())


EXAMPLE = {
    "keys": KEYS, "widths": WIDTHS, "plain": [_largest(w, False) for w in WIDTHS],
    "scaled": [_largest(w, True) for w in WIDTHS],
}  # fmt: skip


def draw(made: Drawing) -> None:
    """Two curves over the width."""
    across = np.log2(WIDTHS)
    made.plot(
        60, 40, 420, 150,
        [("plain", partial(np.interp, xp=across, fp=EXAMPLE["plain"]), "b"),
         ("scaled", partial(np.interp, xp=across, fp=EXAMPLE["scaled"]), "a")],
        (float(across[0]), float(across[-1])), (0.0, 1.0), label="log2 of the width d", side="largest weight",
        marks=across.tolist(),
    )  # fmt: skip
