"""A block with its norms after each part, as first published, and before each part, as today."""

from llmanac.guide.figures._draw import Drawing


def draw(made: Drawing) -> None:
    """Two columns of boxes beside their residual path."""
    for x, name, order in (
        (60, "post-norm", ("attention", "+", "norm", "feed-forward", "+", "norm")),
        (340, "pre-norm", ("norm", "attention", "+", "norm", "feed-forward", "+")),
    ):
        made.text(x + 80, 20, name, kind="strong")
        made.arrow((x + 80, 310), (x + 80, 296))
        y, begin = 262.0, 303.0
        for what in order:
            if what == "+":
                made.text(x + 80, y + 21, "+", kind="strong")
                made.arrow((x + 80, begin), (x + 180, begin), (x + 180, y + 16), (x + 92, y + 16), kind="curve c")
                begin = y + 4
            else:
                made.box(x, y, 160, 30, what, "b" if what == "norm" else "a")
            made.arrow((x + 80, y), (x + 80, y - 12))
            y -= 42
