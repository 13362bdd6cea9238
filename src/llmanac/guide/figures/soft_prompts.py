"""Trained vectors before the input: at the embeddings (prompt tuning) or in every layer (prefix tuning)."""

from llmanac.guide.figures._draw import Drawing


def draw(made: Drawing) -> None:
    """Two stacks of three layers."""
    for x, name, layers in ((20, "prompt tuning", {3}), (350, "prefix tuning", {0, 1, 2})):
        made.text(x + 140, 20, name, kind="strong")
        for row in range(4):
            y = 34 + 44 * row
            made.box(x + 100, y, 190, 32, "embeddings" if row == 3 else f"layer {3 - row}")
            if row in layers:
                made.box(x, y, 92, 32, "trained", "a")
