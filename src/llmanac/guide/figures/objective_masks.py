"""Which tokens each pretraining objective may look at, and which carry loss."""

from llmanac.guide.figures._draw import Drawing

LENGTH = 6
KINDS = {
    "masked": ({(i, j) for i in range(LENGTH) for j in range(LENGTH)}, {1, 4}),
    "autoregressive": ({(i, j) for i in range(LENGTH) for j in range(i + 1)}, set(range(LENGTH))),
    "prefix": ({(i, j) for i in range(LENGTH) for j in range(LENGTH) if j <= i or j < 3}, {3, 4, 5}),
}
EXAMPLE = {"length": LENGTH, "lossy": {name: len(loss) for name, (_, loss) in KINDS.items()}}


def draw(made: Drawing) -> None:
    """A grid for each objective: rows look at columns; rows with loss have a mark."""
    for number, (name, (seen, loss)) in enumerate(KINDS.items()):
        x = 30 + 240 * number
        made.text(x + 84, 20, name, kind="strong")
        made.grid(x, 34, [[1.0 if (i, j) in seen else 0.0 for j in range(LENGTH)] for i in range(LENGTH)], "", size=28)
        for row in loss:
            made.box(x + 176, 38 + 28 * row, 20, 20, "", "b")
