"""How what was learned fades, and how reviews at growing distances hold it."""

from llmanac.guide.figures._draw import Drawing

REVIEWS = ((0, 3.0), (3, 8.0), (11, 22.0))  # day, and the days until nine of ten are left


def left(day: float) -> float:
    """What is remembered on a day: a power of time since the last review, by its stability."""
    begin, stability = next((b, s) for b, s in reversed(REVIEWS) if day >= b)
    return float((1 + 19 / 81 * (day - begin) / stability) ** -0.5)


def draw(made: Drawing) -> None:
    """One curve that falls between reviews."""
    made.plot(60, 24, 470, 170, [("known", left, "a")], (0.0, 30.0), (0.5, 1.0), label="days", side="share remembered",
              marks=[day for day, _ in REVIEWS], points=600)  # fmt: skip
