"""Answers by the place of the passage that holds them, as measured in the study of gold passages."""

import numpy as np

from llmanac.core import catalogue
from llmanac.guide.figures._draw import Drawing

PARTS = catalogue.evidence()["verdicts"]["context/lost-in-the-middle"]["parts"]


def draw(made: Drawing) -> None:
    """A row of passages, and the two measured differences."""
    for row, at in enumerate((0, 3, 6)):
        for place in range(7):
            made.box(20 + 42 * place, 24 + 46 * row, 36, 30, "", "b" if place == at else "soft")
    scale = 480.0
    made.line((560, 14), (560, 170), kind="thin")
    for row, (name, part) in enumerate(zip(("from first", "from last"), PARTS[:2], strict=True)):
        if "interval" not in part:
            continue
        y, (low, high) = 55 + 60 * row, part["interval"]
        ends = np.clip(560 + scale * np.array([low, part["effect"], high]), 360, 650)
        made.text(560, y - 14, name, kind="small")
        made.line((ends[0], y), (ends[2], y), kind="curve a")
        made.parts.append(f'<circle cx="{ends[1]:.1f}" cy="{y}" r="5" class="box a"/>')
    made.text(560, 190, "no change", kind="small")
