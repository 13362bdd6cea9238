"""Two models on the same items: the difference by item says more than two averages."""

import numpy as np

from llmanac.guide.figures._draw import Drawing

ITEMS = 400
_draws = np.random.default_rng(4)
_ease = _draws.normal(size=ITEMS)
FIRST = (_ease + 0.25 * _draws.normal(size=ITEMS) > 0).astype(float)
SECOND = (_ease + 0.12 + 0.25 * _draws.normal(size=ITEMS) > 0).astype(float)
DIFFERENCE = SECOND - FIRST
EXAMPLE = {
    "items": ITEMS, "first": float(FIRST.mean()), "second": float(SECOND.mean()),
    "difference": float(DIFFERENCE.mean()),
    "paired": float(1.96 * DIFFERENCE.std(ddof=1) / ITEMS**0.5),
    "unpaired": float(1.96 * (FIRST.var(ddof=1) / ITEMS + SECOND.var(ddof=1) / ITEMS) ** 0.5),
}  # fmt: skip


def draw(made: Drawing) -> None:
    """Two intervals around one difference."""
    scale = 230 / 0.12
    zero = 290.0
    made.line((zero, 20), (zero, 120), kind="thin dashed")
    made.text(zero, 140, "no difference", kind="small")
    for row, (name, half, kind) in enumerate((("unpaired", "unpaired", "b"), ("paired", "paired", "a"))):
        y, middle, width = 45 + 45 * row, zero + scale * EXAMPLE["difference"], scale * EXAMPLE[half]
        made.text(110, y + 4, name, "end", "strong")
        made.line((middle - width, y), (middle + width, y), kind=f"curve {kind}")
        made.parts.append(f'<circle cx="{middle:.1f}" cy="{y}" r="5" class="box {kind}"/>')
