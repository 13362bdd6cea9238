"""What rules, prompting and fine-tuning need and give, on one line from no data to much."""

from llmanac.guide.figures._draw import Drawing


def draw(made: Drawing) -> None:
    """Three boxes along an arrow of labelled data."""
    parts = (
        ("rules\na person's time", "b"),
        ("prompting\na language model", "c"),
        ("fine-tuning\nlabelled pairs", "a"),
    )
    for number, (words, kind) in enumerate(parts):
        made.box(30 + 220 * number, 24, 180, 56, words, kind)
    made.arrow((30, 110), (650, 110))
    made.text(340, 134, "labelled data", kind="small")
