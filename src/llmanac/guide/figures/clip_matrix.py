"""CLIP's contrastive loss: similarities of each picture with each text, and the pairs on the diagonal."""

import numpy as np

from llmanac.guide.figures._draw import Drawing

TEXTS = ("a red circle", "a blue square", "a green star", "two dots")
_draws = np.random.default_rng(3)
SIMILARITY = np.clip(0.25 + 0.12 * _draws.normal(size=(4, 4)) + 0.55 * np.eye(4), 0, 1)
TEMPERATURE = 0.1
_exp = np.exp(SIMILARITY / TEMPERATURE)
EXAMPLE = {
    "temperature": TEMPERATURE,
    "pairs": len(TEXTS),
    "share": float((_exp / _exp.sum(1, keepdims=True)).diagonal().mean()),
}


def draw(made: Drawing) -> None:
    """A grid of similarities."""
    names = [f"picture {i + 1}" for i in range(4)]
    made.grid(120, 40, SIMILARITY.tolist(), rows=names, columns=[f"text {i + 1}" for i in range(4)], size=44, kind="a")
    for i in range(4):
        made.parts.append(f'<rect x="{120 + 44 * i}" y="{40 + 44 * i}" width="44" height="44" class="line curve b"/>')
