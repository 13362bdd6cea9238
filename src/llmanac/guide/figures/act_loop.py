"""A model that acts: observation, call, result, again."""

from __future__ import annotations

from llmanac.guide.figures._draw import Drawing

SURE, STEPS = 0.9, 10


def draw() -> str:
    """A loop of four boxes."""
    made = Drawing(
        600, 170, "The loop of acting",
        "The model reads the task and what happened so far, writes a call, and reads the result. If each of "
        f"{STEPS} steps is right in {SURE:.0%} of cases, all of them are in {SURE**STEPS:.0%}.",
    )  # fmt: skip
    for number, (words, kind) in enumerate(
        (("task and\nhistory", "soft"), ("model", "a"), ("call", "b"), ("world", "c"))
    ):
        made.box(20 + 150 * number, 40, 100, 46, words, kind)
        if number:
            made.arrow((150 * number - 30, 63), (20 + 150 * number, 63))
    made.arrow((520, 86), (520, 130), (70, 130), (70, 86), kind="curve d")
    made.text(295, 148, "result", kind="small")
    return made.svg()
