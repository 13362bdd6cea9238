"""A mixture of experts: each token goes to its two best experts."""

import numpy as np

from llmanac.guide.figures._draw import Drawing

TOKENS, EXPERTS, TOP = ("the", "cat", "sat", "down"), 4, 2
_exp = np.exp(np.random.default_rng(7).normal(size=(len(TOKENS), EXPERTS)))
GATES = _exp / _exp.sum(1, keepdims=True)
CHOSEN = np.argsort(-GATES, axis=1)[:, :TOP]
EXAMPLE = {"experts": EXPERTS, "top": TOP, "load": np.bincount(CHOSEN.ravel(), minlength=EXPERTS).tolist()}


def draw(made: Drawing) -> None:
    """Tokens on the left, experts on the right, a line for each choice."""
    for number, token in enumerate(TOKENS):
        made.box(20, 14 + 54 * number, 80, 34, token, "a")
        for expert in CHOSEN[number]:
            made.arrow((100, 31 + 54 * number), (360, 31 + 54 * int(expert)))
    for expert in range(EXPERTS):
        made.box(360, 14 + 54 * expert, 130, 34, f"expert {expert + 1}: {EXAMPLE['load'][expert]}", "b")
