"""Speculative decoding: a draft of several tokens, checked in one pass."""

from llmanac.guide.figures._draw import Drawing

DRAFT = (("the", True), ("cat", True), ("sits", False), ("on", None))
RATE, TOKENS = 0.8, 4
EXAMPLE = {"rate": RATE, "tokens": TOKENS, "expected": (1 - RATE ** (TOKENS + 1)) / (1 - RATE)}


def draw(made: Drawing) -> None:
    """The draft, the verdicts, what is kept."""
    for row, name in enumerate(("draft", "check", "kept")):
        made.text(80, 40 + 55 * row, name, "end", "strong")
    for number, (word, right) in enumerate(DRAFT):
        x = 100 + 112 * number
        made.box(x, 20, 96, 30, word, "b")
        made.box(x, 75, 96, 30, {True: "accepted", False: "refused", None: "not looked at"}[right],
                 {True: "c", False: "d", None: "soft"}[right])  # fmt: skip
        if right is not None:
            made.box(x, 130, 96, 30, word if right else "sat", "a")
