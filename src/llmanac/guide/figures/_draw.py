"""Boxes, arrows, grids of numbers and curves as SVG, in the colours of the page: light or dark follows the reader."""

import math
import re
from collections.abc import Callable, Sequence
from html import escape

CELL = 34


class Drawing:
    """A drawing of a width and height in pixels, with a title and a description for those who do not see it.

    Colours are classes of `style.css`: `a` to `d`, and `soft`.
    """

    def __init__(self, width: int, height: int, title: str, text: str) -> None:
        self.width, self.height, self.title, self.about = width, height, title, text
        self.tip = re.sub(r"\W+", "-", title.lower())
        self.parts: list[str] = []

    def text(self, x: float, y: float, words: str, anchor: str = "middle", kind: str = "") -> None:
        """Words at a place; `kind` is a class: small, strong."""
        self.parts.append(f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" class="{kind}">{escape(words)}</text>')

    def box(self, x: float, y: float, width: float, height: float, words: str = "", kind: str = "soft") -> None:
        """A box with lines of words in its middle."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5" class="box {kind}"/>'
        )
        lines = words.split("\n") if words else []
        for number, line in enumerate(lines):
            self.text(x + width / 2, y + height / 2 + 4.5 + 15 * (number - (len(lines) - 1) / 2), line)

    def line(self, *points: tuple[float, float], head: bool = False, kind: str = "") -> None:
        """A line through points; with `head` it is an arrow."""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        mark = f' marker-end="url(#{self.tip})"' if head else ""
        self.parts.append(f'<polyline points="{path}" class="line {kind}"{mark}/>')

    def arrow(self, *points: tuple[float, float], kind: str = "") -> None:
        self.line(*points, head=True, kind=kind)

    def grid(
        self,
        x: float,
        y: float,
        values: Sequence[Sequence[float | None]],
        form: str = ".2f",
        *,
        rows: Sequence[str] = (),
        columns: Sequence[str] = (),
        size: float = CELL,
        kind: str = "a",
        most: float | None = None,
    ) -> None:
        """A grid of numbers, the larger the fuller the colour; None is an empty, hatched cell."""
        most = most or max((abs(v) for row in values for v in row if v is not None), default=1.0) or 1.0
        self.parts.append(f'<g class="cell {kind}">')
        for i, row in enumerate(values):
            for j, value in enumerate(row):
                at = f'x="{x + j * size:g}" y="{y + i * size:g}" width="{size:g}" height="{size:g}"'
                full = 0.0 if value is None else 0.75 * min(1.0, abs(value) / most)
                self.parts.append(f'<rect {at} fill-opacity="{full:.2f}"/>')
        self.parts.append("</g>")
        for i, row in enumerate(values):
            for j, value in enumerate(row):
                if value is None:
                    self.line((x + j * size, y + (i + 1) * size), (x + (j + 1) * size, y + i * size), kind="thin")
                elif form:
                    self.text(x + (j + 0.5) * size, y + (i + 0.5) * size + 4, format(value, form), kind="small")
        for i, name in enumerate(rows):
            self.text(x - 6, y + (i + 0.5) * size + 4, name, "end", "small")
        for j, name in enumerate(columns):
            self.text(x + (j + 0.5) * size, y - 6, name, kind="small")

    def plot(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        curves: Sequence[tuple[str, Callable[[float], float], str]],
        across: tuple[float, float],
        up: tuple[float, float],
        *,
        label: str = "",
        side: str = "",
        marks: Sequence[float] = (),
        points: int = 120,
    ) -> None:
        """Curves (name, function, kind) over a range, with axes, marks on the lower one, and names at their ends."""

        def place(a: float, b: float) -> tuple[float, float]:
            return (
                x + width * (a - across[0]) / (across[1] - across[0]),
                y + height - height * (b - up[0]) / (up[1] - up[0]),
            )

        self.line((x, y), (x, y + height), (x + width, y + height))
        for mark in marks:
            self.text(place(mark, up[0])[0], y + height + 16, f"{mark:g}", kind="small")
        for end in up:
            self.text(x - 5, place(across[0], end)[1] + 4, f"{end:g}", "end", "small")
        self.text(x + width / 2, y + height + 32, label, kind="small")
        self.text(x, y - 8, side, "start", "small")
        ends = []
        for name, function, kind in curves:  # what lies outside of the axes is not drawn
            steps = [across[0] + (across[1] - across[0]) * i / points for i in range(points + 1)]
            seen = [place(a, b) for a in steps if up[0] <= (b := float(function(a))) <= up[1]]
            self.line(*seen, kind=f"curve {kind}")
            ends.append((seen[-1][1], seen[-1][0], name))
        lowest = -math.inf
        for end_y, end_x, name in sorted(ends):  # names from top to bottom, one below the other
            lowest = max(end_y, lowest + 12)
            self.text(end_x + 6, lowest + 4, name, "start", "small")

    def svg(self) -> str:
        """The drawing."""
        head = (
            f'<marker id="{self.tip}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="9" markerHeight="9" '
            'markerUnits="userSpaceOnUse" orient="auto">'
        )
        return (
            f'<svg class="figure" viewBox="0 0 {self.width} {self.height}" role="img" width="{self.width}" '
            f'aria-label="{escape(f"{self.title}. {self.about}")}">'
            f'<defs>{head}<path d="M0,0 L8,4 L0,8 z" class="tip"/></marker></defs>'
            f"{''.join(self.parts)}</svg><figcaption>{escape(self.title)}. {escape(self.about)}</figcaption>"
        )
