"""Voting, best of n and tree search: where more computing goes while a model answers."""

from llmanac.guide.figures._draw import Drawing


def draw(made: Drawing) -> None:
    """Three small diagrams."""
    for x, name, ends in ((20, "voting", ("7", "5", "7", "7")), (260, "best of n", ("0.2", "0.9", "0.4", "0.1"))):
        made.text(x + 95, 20, name, kind="strong")
        made.box(x, 90, 50, 30, "ask")
        for number, end in enumerate(ends):
            y = 34 + 42 * number
            made.line((x + 50, 105), (x + 120, y + 14))
            made.box(x + 120, y, 56, 28, end, "a" if end in ("7", "0.9") else "soft")
    x = 500
    made.text(x + 95, 20, "tree search", kind="strong")
    made.box(x, 90, 50, 30, "ask")
    for number, kept in enumerate((True, False, True)):
        y = 46 + 52 * number
        made.line((x + 50, 105), (x + 80, y + 12), kind="" if kept else "thin")
        made.box(x + 80, y, 34, 24, "", "a" if kept else "soft")
        for half in (0, 1) if kept else ():
            best = number == 2 and half == 0
            made.line((x + 114, y + 12), (x + 150, y + 2 + 24 * half - 4), kind="" if best else "thin")
            made.box(x + 150, y - 8 + 24 * half, 40, 18, "", "c" if best else "soft")
