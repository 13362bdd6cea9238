"""From what a model writes to right or wrong: extraction, normalization, comparison."""

from llmanac.guide.figures._draw import Drawing

WRITTEN, GOLD = "So the answer is $1,200.00.", "1200"


def draw(made: Drawing) -> None:
    """Four boxes in a row."""
    steps = ((WRITTEN, 220, "soft"), ("$1,200.00", 110, "a"), ("1200", 90, "a"), (f"equal to {GOLD}", 130, "c"))
    x = 10
    for number, (words, width, kind) in enumerate(steps):
        made.box(x, 30, width, 40, words, kind)
        if number:
            made.arrow((x - 44, 50), (x, 50))
            made.text(x - 24, 94, ("extract", "normalize", "compare")[number - 1], kind="small")
        x += width + 48
