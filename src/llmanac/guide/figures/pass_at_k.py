"""pass@k by the number of samples that may be tried, for problems of several difficulties."""

from llmanac.guide.figures._draw import Drawing
from llmanac.metrics.pass_at_k import estimates

SAMPLES, RIGHT = 100, (50, 10, 2)
EXAMPLE = {"samples": SAMPLES, "right": RIGHT, "ten": estimates(SAMPLES, RIGHT, 10).tolist()}


def draw(made: Drawing) -> None:
    """A curve for each number of right samples."""
    curves = [
        (f"{c} right", lambda k, c=c: float(estimates(SAMPLES, [c], round(k))[0]), kind)
        for c, kind in zip(RIGHT, "abc", strict=True)
    ]  # fmt: skip
    made.plot(50, 24, 470, 180, curves, (1.0, 10.0), (0.0, 1.0), label="k", side="pass@k", marks=range(1, 11), points=9)
