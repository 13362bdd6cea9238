"""Accuracy, precision and recall of one label, from a table of errors."""

from llmanac.guide.figures._draw import Drawing

RIGHT, MISSED, FALSE, REST = 8, 4, 2, 86
EXAMPLE = {
    "accuracy": (RIGHT + REST) / (RIGHT + MISSED + FALSE + REST), "precision": RIGHT / (RIGHT + FALSE),
    "recall": RIGHT / (RIGHT + MISSED), "frequent": (FALSE + REST) / (RIGHT + MISSED + FALSE + REST),
}  # fmt: skip


def draw(made: Drawing) -> None:
    """The table and what is read from it."""
    made.grid(110, 40, [[RIGHT, MISSED], [FALSE, REST]], ".0f", rows=("is yes", "is no"),
              columns=("said yes", "said no"), size=56)  # fmt: skip
    for row, (name, what) in enumerate(
        (("precision", "first column"), ("recall", "first row"), ("accuracy", "diagonal"))
    ):
        made.text(300, 66 + 32 * row, f"{name}: {what}, {EXAMPLE[name]:.0%}", "start")
