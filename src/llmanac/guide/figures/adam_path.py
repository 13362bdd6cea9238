"""Paths of gradient descent and of Adam in a narrow valley, both with the largest rate that stays in it."""

import math

from llmanac.guide.figures._draw import Drawing

STEEP, FLAT, STEPS, RATE_SGD, RATE_ADAM = 40.0, 1.0, 40, 0.045, 0.12
BEGIN = (-2.0, 0.6)


def _slope(x: float, y: float) -> tuple[float, float]:
    return FLAT * x, STEEP * y


def _sgd() -> list[tuple[float, float]]:
    path = [BEGIN]
    for _ in range(STEPS):
        x, y = path[-1]
        gx, gy = _slope(x, y)
        path.append((x - RATE_SGD * gx, y - RATE_SGD * gy))
    return path


def _adam() -> list[tuple[float, float]]:
    path, means, squares = [BEGIN], [0.0, 0.0], [0.0, 0.0]
    for step in range(1, STEPS + 1):
        at = list(path[-1])
        for i, g in enumerate(_slope(*path[-1])):
            means[i] = 0.9 * means[i] + 0.1 * g
            squares[i] = 0.999 * squares[i] + 0.001 * g * g
            at[i] -= RATE_ADAM * means[i] / (1 - 0.9**step) / math.sqrt(squares[i] / (1 - 0.999**step) + 1e-16)
        path.append((at[0], at[1]))
    return path


PATHS = {"SGD": _sgd(), "Adam": _adam()}
EXAMPLE = {
    "ratio": STEEP / FLAT, "steps": STEPS,
    "loss": {name: FLAT / 2 * p[-1][0] ** 2 + STEEP / 2 * p[-1][1] ** 2 for name, p in PATHS.items()},
}  # fmt: skip


def draw(made: Drawing) -> None:
    """The valley's ellipses and both paths."""

    def place(x: float, y: float) -> tuple[float, float]:
        return 430 + 190 * x, 120 + 130 * y

    for loss in (0.1, 0.5, 2.0, 6.0):
        made.parts.append(
            f'<ellipse cx="430" cy="120" rx="{190 * math.sqrt(2 * loss / FLAT):.0f}" '
            f'ry="{130 * math.sqrt(2 * loss / STEEP):.0f}" class="line thin"/>'
        )
    for (name, path), kind in zip(PATHS.items(), "ba", strict=True):
        made.line(*(place(*at) for at in path), kind=f"curve {kind}")
        x, y = place(*path[-1])
        made.text(x + 4, y - 10 if kind == "a" else y + 22, name, "start", "strong")
