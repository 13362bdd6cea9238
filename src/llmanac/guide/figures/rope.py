"""The angles by which RoPE turns pairs of coordinates, by position, and the pair's wave length."""

import math

from llmanac.guide.figures._draw import Drawing

DIM, BASE = 8, 10_000.0
FREQUENCIES = [BASE ** (-2 * pair / DIM) for pair in range(DIM // 2)]
EXAMPLE = {"frequencies": FREQUENCIES, "lengths": [2 * math.pi / f for f in FREQUENCIES]}


def draw(made: Drawing) -> None:
    """A dial for each pair and each of six positions."""
    for position in range(7):
        made.text(150 + 70 * position, 22, f"position {position}" if not position else str(position), kind="small")
    for pair, frequency in enumerate(FREQUENCIES):
        y = 55 + 52 * pair
        made.text(100, y + 4, f"pair {pair}: {frequency:g} rad", "end", "small")
        for position in range(7):
            x, angle = 150 + 70 * position, position * frequency
            made.parts.append(f'<circle cx="{x}" cy="{y}" r="20" class="box soft"/>')
            made.arrow((x, y), (x + 18 * math.cos(angle), y - 18 * math.sin(angle)), kind="curve a")
