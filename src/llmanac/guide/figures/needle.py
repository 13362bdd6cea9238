"""Answers by the place of the passage that holds them, as measured in the study of gold passages."""

from __future__ import annotations

import numpy as np

from llmanac.core import catalogue
from llmanac.guide.figures._draw import Drawing

PARTS = catalogue.evidence()["verdicts"]["context/lost-in-the-middle"]["parts"]


def draw() -> str:
    """A row of passages, and the two measured differences."""
    made = Drawing(
        660, 200, "A passage first, in the middle, and last",
        "The passage with the answer stands in one of the places, the others are filled with passages that do "
        "not help. The bars are the measured change in right answers from an end to the middle, with their "
        "intervals.",
    )  # fmt: skip
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
    return made.svg()
