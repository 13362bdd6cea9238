"""LoRA: a frozen matrix and the product of two thin ones beside it."""

from llmanac.guide.figures._draw import Drawing

WIDTH, RANK = 4096, 16
EXAMPLE = {"width": WIDTH, "rank": RANK, "full": WIDTH * WIDTH, "thin": 2 * WIDTH * RANK, "share": 2 * RANK / WIDTH}


def draw(made: Drawing) -> None:
    """Input, both paths, sum."""
    made.box(230, 200, 100, 30, "x")
    made.box(60, 80, 160, 90, "W\nfrozen", "soft")
    made.box(380, 130, 120, 40, "A, rank by width", "a")
    made.box(380, 80, 120, 40, "B, width by rank", "a")
    made.arrow((230, 215), (140, 215), (140, 170))
    made.arrow((330, 215), (440, 215), (440, 170))
    made.arrow((440, 130), (440, 120))
    made.text(280, 40, "+", kind="strong")
    made.arrow((140, 80), (140, 36), (268, 36))
    made.arrow((440, 80), (440, 36), (292, 36), kind="curve a")
    made.text(280, 18, "W x + (alpha / r) B A x", kind="small")
