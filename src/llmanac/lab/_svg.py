"""Small charts as inline SVG, for a page that is one file: lines with bands, dots with intervals, labelled points.

Colours are Okabe and Ito's, which stay apart for the colour-blind; every series is labelled too.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#b8a200")
WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 68, 14, 14, 46


def colour(index: int) -> str:
    """The colour of a series."""
    return COLOURS[index % len(COLOURS)]


def nice_number(value: float) -> str:
    """A number for an axis or a table: 1.2k, 3.4M, 0.0021."""
    size = abs(value)
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= limit:
            divisor = 1e3 if unit == "k" else limit
            return f"{value / divisor:.3g}{unit}"
    return f"{value:.4g}"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that span an axis."""
    raw = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(raw)) if raw > 0 else 1.0
    step = next((m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw), 10 * power)
    first = math.ceil(low / step - 1e-9) * step
    return [first + i * step for i in range(int((high - first) / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers that span a logarithmic axis."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    inside = [m * 10.0**p for p in powers for m in (1, 2, 5) if low <= m * 10.0**p <= high]
    return inside if 2 <= len(inside) <= 7 else [m for m in inside if f"{m:e}"[0] == "1"] or [low, high]


@dataclass
class Frame:
    """Axes of one chart: data to pixels, and the pieces drawn so far."""

    x_range: tuple[float, float]
    y_range: tuple[float, float]
    x_label: str
    y_label: str
    log_x: bool = False
    log_y: bool = False
    height: int = HEIGHT
    left: int = LEFT
    parts: list[str] = field(default_factory=list)

    def x(self, value: float) -> float:
        low, high = self.x_range
        if self.log_x:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return self.left + (value - low) / ((high - low) or 1.0) * (WIDTH - self.left - RIGHT)

    def y(self, value: float) -> float:
        low, high = self.y_range
        if self.log_y:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return self.height - BOTTOM - (value - low) / ((high - low) or 1.0) * (self.height - TOP - BOTTOM)

    def add(self, piece: str) -> None:
        self.parts.append(piece)

    def text(self, x: float, y: float, words: str, *, anchor: str = "middle", extra: str = "") -> None:
        self.add(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {extra}>{html.escape(words)}</text>')

    def axes(self, *, y_ticks: bool = True) -> None:
        bottom = self.height - BOTTOM
        for value in log_ticks(*self.x_range) if self.log_x else ticks(*self.x_range):
            at = self.x(value)
            self.add(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{bottom}"/>')
            self.text(at, bottom + 15, nice_number(value))
        if y_ticks:
            for value in log_ticks(*self.y_range) if self.log_y else ticks(*self.y_range):
                at = self.y(value)
                self.add(f'<line class="grid" x1="{self.left}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
                self.text(self.left - 6, at + 4, nice_number(value), anchor="end")
            middle = (TOP + bottom) / 2
            self.text(14, middle, self.y_label, extra=f'transform="rotate(-90 14 {middle:.1f})"')
        self.text((self.left + WIDTH - RIGHT) / 2, self.height - 8, self.x_label)

    def svg(self, title: str) -> str:
        """The chart; `title` is what a screen reader says."""
        body = "".join(self.parts)
        words = html.escape(title)
        box = f'width="{WIDTH}" height="{self.height}" viewBox="0 0 {WIDTH} {self.height}"'
        return f'<svg {box} role="img" aria-label="{words}"><title>{words}</title>{body}</svg>'


STYLE = "<style>text{font:13px sans-serif;fill:#333}.grid{stroke:#e3e6e9}.axis{stroke:#444}</style>"


def standalone(svg: str) -> str:
    """An inline chart as a file of its own."""
    first, _, rest = svg.partition(">")
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {first.removeprefix("<svg ")}>'
    return f'{head}{STYLE}<rect width="100%" height="100%" fill="#fff"/>{rest}\n'


def padded(values: Sequence[float], fraction: float = 0.08) -> tuple[float, float]:
    """The range of values with some room on both sides."""
    low, high = min(values), max(values)
    room = (high - low) * fraction or abs(high) * fraction or 1.0
    return low - room, high + room


@dataclass(frozen=True)
class Line:
    """One series: its points, where there are intervals the band around them, and which colour it has."""

    label: str
    points: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float]] = ()
    shade: int = 0


def line_chart(lines: Sequence[Line], x_label: str, y_label: str, title: str, *, log: bool = False) -> str:
    """Curves, with bands where there are intervals; a series of one point is a dot. `log`: both axes logarithmic."""
    drawn = [line for line in lines if line.points]
    if not drawn:
        return ""
    xs = [x for line in drawn for x, _ in line.points]
    ys = [y for line in drawn for _, y in line.points]
    # Bands of three seeds can be far wider than the curves: they may be cut by the frame, the curves never are.
    low, high = (min(ys) / 1.3, max(ys) * 1.3) if log else padded(ys)
    x_range = (min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1)
    height = max(HEIGHT, TOP + BOTTOM + 15 * len(drawn))  # room for the legend
    frame = Frame(x_range, (low, high), x_label, y_label, log_x=log, log_y=log, height=height)
    frame.axes()
    for line in drawn:
        if line.band:
            clipped = [(max(low, a), min(high, b)) for a, b in line.band]
            upper = [(x, b) for (x, _), (_, b) in zip(line.points, clipped, strict=True)]
            lower = [(x, a) for (x, _), (a, _) in zip(line.points, clipped, strict=True)][::-1]
            corners = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in [*upper, *lower])
            frame.add(f'<polygon points="{corners}" fill="{colour(line.shade)}" opacity="0.15"/>')
        path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in line.points)
        dash = ' stroke-dasharray="6 3"' if log and line.shade >= len(COLOURS) else ""
        frame.add(f'<polyline points="{path}" fill="none" stroke="{colour(line.shade)}" stroke-width="1.8"{dash}/>')
        if len(line.points) == 1:
            frame.add(
                f'<circle cx="{path.split(",")[0]}" cy="{path.split(",")[1]}" r="4" fill="{colour(line.shade)}"/>'
            )
    _legend(frame, drawn)
    return frame.svg(title)


def _legend(frame: Frame, lines: Sequence[Line]) -> None:
    for index, line in enumerate(lines):
        y = TOP + 10 + 15 * index
        frame.add(f'<rect x="{WIDTH - RIGHT - 12}" y="{y - 8}" width="10" height="10" fill="{colour(line.shade)}"/>')
        frame.text(WIDTH - RIGHT - 18, y + 1, line.label, anchor="end")


@dataclass(frozen=True)
class Row:
    """One arm in a chart of dots: its replicates, and the interval around their centre."""

    label: str
    dots: Sequence[float]
    centre: float
    low: float | None
    high: float | None
    shade: int = 0


def interval_chart(
    rows: Sequence[Row], x_label: str, title: str, *, zero: bool = False, margin: float | None = None
) -> str:
    """One line an arm: every replicate a dot, and the interval; with `zero`, a line at 0 and the margin around it."""
    if not rows:
        return ""
    values = [v for r in rows for v in (*r.dots, r.centre)]
    ends = [v for r in rows for v in (r.low, r.high) if v is not None]
    extra = [0.0] + ([-margin, margin] if margin else []) if zero else []
    frame = Frame(
        padded([*values, *ends, *extra]), (0, len(rows)), x_label, "", height=TOP + BOTTOM + 34 * len(rows),
        left=min(230, 24 + 8 * max(len(r.label) for r in rows)),
    )  # fmt: skip
    if zero and margin:
        left, right = frame.x(-margin), frame.x(margin)
        frame.add(
            f'<rect x="{left:.1f}" width="{right - left:.1f}" y="{TOP}" height="{frame.height - TOP - BOTTOM}" '
            'fill="#888" opacity="0.13"/>'
        )
    frame.axes(y_ticks=False)
    if zero:
        at = frame.x(0.0)
        frame.add(f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{frame.height - BOTTOM}"/>')
    for index, row in enumerate(rows):
        y = frame.y(len(rows) - index - 0.5)
        frame.text(frame.left - 8, y + 4, row.label, anchor="end")
        if row.low is not None and row.high is not None:
            ends_px = f'x1="{frame.x(row.low):.1f}" x2="{frame.x(row.high):.1f}"'
            frame.add(f'<line {ends_px} y1="{y:.1f}" y2="{y:.1f}" stroke="{colour(row.shade)}" stroke-width="2"/>')
        for value in row.dots:
            place = f'cx="{frame.x(value):.1f}" cy="{y + 8:.1f}"'
            frame.add(f'<circle {place} r="2.6" fill="{colour(row.shade)}" opacity="0.55"/>')
        at = frame.x(row.centre)
        frame.add(f'<rect x="{at - 3.5:.1f}" y="{y - 3.5:.1f}" width="7" height="7" fill="{colour(row.shade)}"/>')
    return frame.svg(title)


def heat_map(
    columns: Sequence[str],
    rows: Sequence[str],
    values: Sequence[Sequence[float]],
    x_label: str,
    y_label: str,
    title: str,
) -> str:
    """Shares (0 to 1) as a grid of squares, `values` a row a list; each square holds its number."""
    height = TOP + BOTTOM + 34 * len(rows)
    frame = Frame((0, len(columns)), (0, len(rows)), x_label, y_label, height=height)
    for down, label in enumerate(rows):
        top, bottom = frame.y(len(rows) - down), frame.y(len(rows) - down - 1)
        frame.text(frame.left - 6, (top + bottom) / 2 + 4, label, anchor="end")
        for across, value in enumerate(values[down]):
            left, right = frame.x(across), frame.x(across + 1)
            shade = "#{:02x}{:02x}{:02x}".format(
                *(round(a + (b - a) * value) for a, b in zip((247, 239, 230), (0, 114, 178), strict=True))
            )
            box = f'x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}"'
            frame.add(f'<rect {box} fill="{shade}" stroke="#fff"/>')
            ink = 'style="fill:#fff"' if value > 0.6 else ""
            frame.text((left + right) / 2, (top + bottom) / 2 + 4, f"{value:.2f}", extra=ink)
    for across, label in enumerate(columns):
        frame.text((frame.x(across) + frame.x(across + 1)) / 2, height - BOTTOM + 15, label)
    frame.text((frame.left + WIDTH - RIGHT) / 2, height - 8, x_label)
    middle = (TOP + height - BOTTOM) / 2
    frame.text(14, middle, y_label, extra=f'transform="rotate(-90 14 {middle:.1f})"')
    return frame.svg(title)


def point_chart(points: Sequence[tuple[str, float, float, int]], x_label: str, y_label: str, title: str) -> str:
    """Labelled points (label, x, y, colour): quality against a cost; the x axis is logarithmic beyond a span of 4."""
    if not points:
        return ""
    xs, ys = [p[1] for p in points], [p[2] for p in points]
    log = min(xs) > 0 and max(xs) / min(xs) > 4
    span = (min(xs) / 1.3, max(xs) * 1.3) if log else padded(xs, 0.2)
    frame = Frame(span, padded(ys, 0.15), x_label, y_label, log_x=log)
    frame.axes()
    for label, x, y, shade in points:
        at_x, at_y = frame.x(x), frame.y(y)
        frame.add(f'<circle cx="{at_x:.1f}" cy="{at_y:.1f}" r="5" fill="{colour(shade)}"/>')
        right = at_x < WIDTH * 0.7
        frame.text(at_x + (8 if right else -8), at_y - 6, label, anchor="start" if right else "end")
    return frame.svg(title)
