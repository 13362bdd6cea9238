"""A model that acts: observation, call, result, again."""

from llmanac.guide.figures._draw import Drawing

SURE, STEPS = 0.9, 10
ALL = SURE**STEPS


def draw(made: Drawing) -> None:
    """A loop of four boxes."""
    for number, (words, kind) in enumerate(
        (("task and\nhistory", "soft"), ("model", "a"), ("call", "b"), ("world", "c"))
    ):
        made.box(20 + 150 * number, 40, 100, 46, words, kind)
        if number:
            made.arrow((150 * number - 30, 63), (20 + 150 * number, 63))
    made.arrow((520, 86), (520, 130), (70, 130), (70, 86), kind="curve d")
    made.text(295, 148, "result", kind="small")
