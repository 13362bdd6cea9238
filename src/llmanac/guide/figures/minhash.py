"""MinHash: signatures of two texts agree as often as their sets of word sequences overlap."""

import numpy as np

from llmanac.guide.figures._draw import Drawing

TEXTS = ("the cat sat on the mat by the door", "the cat sat on the mat by a window")
SETS = [{" ".join(t.split()[i : i + 3]) for i in range(len(t.split()) - 2)} for t in TEXTS]
_every = sorted(SETS[0] | SETS[1])
_ranks = np.random.default_rng(2).permuted(np.tile(np.arange(10, 100), (10, 1)), axis=1)[:, : len(_every)]
SIGNATURES = [[int(min(row[i] for i, s in enumerate(_every) if s in one)) for row in _ranks] for one in SETS]
EXAMPLE = {
    "jaccard": len(SETS[0] & SETS[1]) / len(SETS[0] | SETS[1]), "both": len(SETS[0] & SETS[1]),
    "either": len(SETS[0] | SETS[1]), "agree": sum(a == b for a, b in zip(*SIGNATURES, strict=True)),
    "hashes": len(_ranks),
}  # fmt: skip


def draw(made: Drawing) -> None:
    """Two rows of minima, with the places where they agree."""
    for row, numbers in enumerate(SIGNATURES):
        made.text(80, 44 + 60 * row, f"text {row + 1}", "end", "small")
        for place, number in enumerate(numbers):
            same = SIGNATURES[0][place] == SIGNATURES[1][place]
            made.box(92 + 45 * place, 24 + 60 * row, 38, 30, str(number), "a" if same else "soft")
            if same and not row:
                made.line((111 + 45 * place, 54), (111 + 45 * place, 84))
