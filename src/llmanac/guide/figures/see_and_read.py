"""Three ways to make a language model see."""

from llmanac.guide.figures._draw import Drawing


def draw(made: Drawing) -> None:
    """Three columns; what is trained is blue."""
    columns = (
        ("frozen encoder", (("language model", "a"), ("map", "a"), ("encoder", "soft"))),
        ("end to end", (("language model", "a"), ("map", "a"), ("encoder", "a"))),
        ("one stream", (("one model", "a"), ("patches and words", "a"), ("", ""))),
    )
    for number, (name, parts) in enumerate(columns):
        x = 20 + 240 * number
        made.text(x + 95, 20, name, kind="strong")
        for row, (words, kind) in enumerate(parts):
            if words:
                made.box(x, 34 + 56 * row, 190, 36, words, kind)
                if row:
                    made.arrow((x + 95, 34 + 56 * row), (x + 95, 14 + 56 * row))
