"""Which keys each query reads: full, window, window with global tokens."""

from llmanac.guide.figures._draw import Drawing

LENGTH, WINDOW = 10, 3
PATTERNS = {
    "full": {(i, j) for i in range(LENGTH) for j in range(i + 1)},
    "window": {(i, j) for i in range(LENGTH) for j in range(max(0, i - WINDOW + 1), i + 1)},
    "window and global": {(i, j) for i in range(LENGTH) for j in range(i + 1) if i - j < WINDOW or j == 0},
}
READ = {name: len(seen) for name, seen in PATTERNS.items()}
EXAMPLE = {"length": LENGTH, "window": WINDOW, "read": READ}


def draw(made: Drawing) -> None:
    """Three grids."""
    for number, (name, seen) in enumerate(PATTERNS.items()):
        x = 16 + 220 * number
        made.text(x + 90, 18, name, kind="strong")
        made.grid(x, 30, [[1.0 if (i, j) in seen else 0.0 for j in range(LENGTH)] for i in range(LENGTH)], "", size=18)
