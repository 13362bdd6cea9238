"""What BLEU and ROUGE count in a candidate and a reference."""

from llmanac.guide.figures._draw import Drawing

REFERENCE = ["the", "cat", "lay", "on", "the", "warm", "mat"]
CANDIDATE = ["the", "cat", "sat", "on", "a", "mat"]
_shared = [w for w in CANDIDATE if w in REFERENCE]
EXAMPLE = {
    "shared": len(_shared), "precision": len(_shared) / len(CANDIDATE), "recall": len(_shared) / len(REFERENCE),
    "candidate": len(CANDIDATE), "reference": len(REFERENCE),
}  # fmt: skip


def draw(made: Drawing) -> None:
    """Two rows of words; shared ones are filled and joined."""
    places: dict[str, float] = {}
    for row, (name, words) in enumerate((("reference", REFERENCE), ("candidate", CANDIDATE))):
        made.text(90, 40 + 70 * row, name, "end", "small")
        for number, word in enumerate(words):
            x, same = 100 + 72 * number, word in _shared
            made.box(x, 22 + 70 * row, 64, 28, word, "a" if same else "soft")
            if not row:
                places.setdefault(word, x + 32)
            elif same:
                made.line((places[word], 50), (x + 32, 92), kind="thin")
