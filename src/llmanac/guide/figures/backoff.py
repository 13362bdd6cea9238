"""How an n-gram model falls back from a long context that it has not seen to shorter ones."""

from llmanac.guide.figures._draw import Drawing

LEVELS = (("the black cat", 0, 3), ("black cat", 1, 8), ("cat", 14, 60), ("", 120, 10_000))
EXAMPLE = {"levels": LEVELS}


def draw(made: Drawing) -> None:
    """A row for each length of context, with counts."""
    for row, (context, hits, total) in enumerate(LEVELS):
        y = 16 + 50 * row
        made.box(40, y, 170, 32, context or "no context", "soft")
        made.box(250, y, 170, 32, f"{hits} of {total:,} times sat", "a" if hits else "b")
        made.text(440, y + 20, f"{hits / total:.3f}", "start", "small")
        if row + 1 < len(LEVELS):
            made.arrow((125, y + 32), (125, y + 50), kind="curve b")
            made.text(135, y + 46, "what is left over", "start", "small")
