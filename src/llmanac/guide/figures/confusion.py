"""Accuracy, precision and recall of one label, from a table of errors."""

from __future__ import annotations

from llmanac.guide.figures._draw import Drawing

RIGHT, MISSED, FALSE, REST = 8, 4, 2, 86
EXAMPLE = {
    "accuracy": (RIGHT + REST) / (RIGHT + MISSED + FALSE + REST), "precision": RIGHT / (RIGHT + FALSE),
    "recall": RIGHT / (RIGHT + MISSED), "frequent": (FALSE + REST) / (RIGHT + MISSED + FALSE + REST),
}  # fmt: skip


def draw() -> str:
    """The table and what is read from it."""
    made = Drawing(
        620, 170, "A table of errors",
        f"Rows are what is true, columns what was said. Accuracy is {EXAMPLE['accuracy']:.0%}, and always saying no "
        f"reaches {EXAMPLE['frequent']:.0%}; precision {EXAMPLE['precision']:.0%} and recall "
        f"{EXAMPLE['recall']:.0%} are of the label yes.",
    )  # fmt: skip
    made.grid(110, 40, [[RIGHT, MISSED], [FALSE, REST]], ".0f", rows=("is yes", "is no"),
              columns=("said yes", "said no"), size=56)  # fmt: skip
    for row, (name, what) in enumerate(
        (("precision", "first column"), ("recall", "first row"), ("accuracy", "diagonal"))
    ):
        made.text(300, 66 + 32 * row, f"{name}: {what}, {EXAMPLE[name]:.0%}", "start")
    return made.svg()
