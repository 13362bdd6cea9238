"""BPE on a few words: the merges in their order, and how they build one word."""

from collections import Counter
from itertools import pairwise

from llmanac.guide.figures._draw import Drawing

COUNTS = {"low": 5, "lower": 2, "newest": 6, "widest": 3}
WORD = "newest"


def _merged(pieces: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    out: list[str] = []
    for piece in pieces:
        if out and (out[-1], piece) == pair:
            out[-1] += piece
        else:
            out.append(piece)
    return tuple(out)


def _trained(merges: int) -> tuple[list[tuple[str, str, int]], list[tuple[str, ...]]]:
    """(left, right, count) of each merge, and the word's pieces before the first and after each."""
    words, found, seen = {word: tuple(word) for word in COUNTS}, [], [tuple(WORD)]
    for _ in range(merges):
        pairs: Counter[tuple[str, str]] = Counter()
        for word, pieces in words.items():
            for pair in pairwise(pieces):
                pairs[pair] += COUNTS[word]
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        found.append((*best, pairs[best]))
        words = {word: _merged(pieces, best) for word, pieces in words.items()}
        seen.append(words[WORD])
    return found, seen


MERGES, PIECES = _trained(6)
EXAMPLE = {"counts": COUNTS, "merges": MERGES, "pieces": PIECES, "word": WORD}


def draw(made: Drawing) -> None:
    """A row for each merge: its pair and count, and the pieces of the word after it."""
    for row, pieces in enumerate(PIECES):
        y = 14 + 36 * row
        what = "characters" if not row else "{} + {}: {} times".format(*MERGES[row - 1])
        made.text(170, y + 18, what, "end", "small")
        x = 190
        for piece in pieces:
            made.box(x, y, 34 * len(piece) + 6 * (len(piece) - 1), 26, piece, "a" if len(piece) > 1 else "soft")
            x += 40 * len(piece)
