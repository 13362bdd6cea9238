"""Speculative decoding: a draft of several tokens, checked in one pass."""

from __future__ import annotations

from llmanac.guide.figures._draw import Drawing

DRAFT = (("the", True), ("cat", True), ("sits", False), ("on", None))
RATE, TOKENS = 0.8, 4
EXAMPLE = {"rate": RATE, "tokens": TOKENS, "expected": (1 - RATE ** (TOKENS + 1)) / (1 - RATE)}


def draw() -> str:
    """The draft, the verdicts, what is kept."""
    made = Drawing(
        580, 190, "A draft that is checked in one pass",
        "A small model writes four tokens; the large one reads them all at once. They are kept up to the first "
        "that is refused, and in its place comes one drawn from what the large model has left over.",
    )  # fmt: skip
    for row, name in enumerate(("draft", "check", "kept")):
        made.text(80, 40 + 55 * row, name, "end", "strong")
    for number, (word, right) in enumerate(DRAFT):
        x = 100 + 112 * number
        made.box(x, 20, 96, 30, word, "b")
        made.box(x, 75, 96, 30, {True: "accepted", False: "refused", None: "not looked at"}[right],
                 {True: "c", False: "d", None: "soft"}[right])  # fmt: skip
        if right is not None:
            made.box(x, 130, 96, 30, word if right else "sat", "a")
    return made.svg()
