"""A dialogue in its template: which tokens carry loss."""

from __future__ import annotations

from llmanac.guide.figures._draw import Drawing

TURNS = (("user", ("What", "is", "BPE", "?"), False), ("assistant", ("A", "tokenizer", "<end>"), True),
         ("user", ("Thanks",), False), ("assistant", ("Sure", "<end>"), True))  # fmt: skip
EXAMPLE = {"lossy": sum(len(words) for _, words, loss in TURNS if loss), "tokens": sum(len(w) + 1 for _, w, _ in TURNS)}


def draw() -> str:
    """Tokens in rows of turns; those with loss are filled."""
    made = Drawing(
        560, 190, "Loss on the assistant's tokens only",
        "The template marks the turns. The loss is on what the assistant says and on the token that ends its "
        "turn; the rest is read and not predicted.",
    )  # fmt: skip
    for row, (role, words, loss) in enumerate(TURNS):
        x, y = 20.0, 14 + 43 * row
        for number, word in enumerate((f"<{role}>", *words)):
            width = 20 + 8.2 * len(word)
            made.box(x, y, width, 28, word, "a" if loss and number else "soft")
            x += width + 6
    return made.svg()
