"""A dialogue in its template: which tokens carry loss."""

from llmanac.guide.figures._draw import Drawing

TURNS = (("user", ("What", "is", "BPE", "?"), False), ("assistant", ("A", "tokenizer", "<end>"), True),
         ("user", ("Thanks",), False), ("assistant", ("Sure", "<end>"), True))  # fmt: skip
EXAMPLE = {"lossy": sum(len(words) for _, words, loss in TURNS if loss), "tokens": sum(len(w) + 1 for _, w, _ in TURNS)}


def draw(made: Drawing) -> None:
    """Tokens in rows of turns; those with loss are filled."""
    for row, (role, words, loss) in enumerate(TURNS):
        x, y = 20.0, 14 + 43 * row
        for number, word in enumerate((f"<{role}>", *words)):
            width = 20 + 8.2 * len(word)
            made.box(x, y, width, 28, word, "a" if loss and number else "soft")
            x += width + 6
