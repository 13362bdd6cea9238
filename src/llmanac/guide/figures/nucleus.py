"""What top-k and top-p keep of a sharp and of a flat distribution."""

import numpy as np

from llmanac.guide.figures._draw import Drawing

K, P = 4, 0.8
SHAPES = {"sure": 1.9, "unsure": 0.22}
_logits = -np.arange(12.0)
PROBABILITIES = {name: np.exp(_logits * s) / np.exp(_logits * s).sum() for name, s in SHAPES.items()}
KEPT = {name: int(np.searchsorted(np.cumsum(q), P) + 1) for name, q in PROBABILITIES.items()}
MASS = {name: float(q[:K].sum()) for name, q in PROBABILITIES.items()}
EXAMPLE = {"k": K, "p": P, "kept": KEPT, "mass": MASS}


def draw(made: Drawing) -> None:
    """Two rows of bars with both cuts."""
    for number, (name, values) in enumerate(PROBABILITIES.items()):
        x, top = 30 + 350 * number, float(values.max())
        made.text(x + 150, 18, f"a model that is {name}", kind="strong")
        for token, p in enumerate(values):
            height, kept = 110 * float(p) / top, token < KEPT[name]
            made.box(x + 25 * token, 145 - height, 20, height, kind="a" if kept else "soft")
        made.line((x + 25 * K - 2, 30), (x + 25 * K - 2, 150), kind="curve b dashed")
        made.text(x + 25 * K + 2, 40, "top-k", "start", "small")
        told = f"top-p keeps {KEPT[name]}; the first {K} hold {MASS[name]:.2f}"
        made.text(x, 168, told, "start", "small")
