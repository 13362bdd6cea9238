"""From pages to tokens: the stages of a data pipeline."""

from llmanac.guide.figures._draw import Drawing

STAGES = ("pages", "extraction", "filtering", "deduplication", "mixing", "tokens")
LOST = ("", "menus, advertising", "other languages, spam", "copies", "", "")


def draw(made: Drawing) -> None:
    """Boxes in a row; below each what it takes away."""
    for number, (stage, lost) in enumerate(zip(STAGES, LOST, strict=True)):
        x = 10 + 126 * number
        made.box(x, 20, 108, 34, stage, "a" if 0 < number < 5 else "soft")
        if number:
            made.arrow((x - 18, 37), (x, 37))
        if lost:
            made.arrow((x + 54, 54), (x + 54, 78), kind="curve b")
            made.text(x + 54, 94, lost, kind="small")
