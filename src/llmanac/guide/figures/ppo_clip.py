"""PPO's clipped objective by the ratio, for a good and a bad action."""

from llmanac.guide.figures._draw import Drawing

EPS = 0.2
EXAMPLE = {"eps": EPS}


def clipped(ratio: float, advantage: float) -> float:
    """min(r A, clip(r) A)."""
    return min(ratio * advantage, min(max(ratio, 1 - EPS), 1 + EPS) * advantage)


def draw(made: Drawing) -> None:
    """Two curves with their flat ends."""
    curves = [("A = 1", lambda r: clipped(r, 1.0), "a"), ("A = -1", lambda r: clipped(r, -1.0), "b")]
    made.plot(50, 24, 450, 180, curves, (0.4, 1.6), (-1.6, 1.6), label="ratio of new to old probability",
              side="objective", marks=(0.4, 0.8, 1.0, 1.2, 1.6))  # fmt: skip
