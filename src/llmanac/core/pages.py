"""Pages, tables and charts: what shows a run, a study, a build or an evaluation is made of these.

A page is sections of paragraphs, tables, charts and blocks. A table has one form, from which HTML and Markdown are
written. A chart is drawn by matplotlib, which is imported with the first one; its SVG holds text as text, and the same
numbers give the same bytes. Series are told apart by Okabe and Ito's colours, which stay apart for the colour-blind,
and by a legend below the axes.

A linear axis shows all values, unless some would leave hardly any of it to the others (`axis_range`): these are cut at
the frame, and the axis says which.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from llmanac.core.charts import Chart as Chart
from llmanac.core.charts import drawn, styled

TEMPLATES = Path(__file__).with_name("templates")
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#b8a200")
OURS, OTHERS = "#0b6e6e", "#b9c4c9"  # bars of one series: the row that the page is about, and the others
WIDTH, LINE = 5.2, 0.19  # inches: of a chart, of a line of its text
FLAT = 15  # values are cut where the others span less than one part in so many of the axis


def nice_number(value: float, digits: int = 4) -> str:
    """A number for an axis or a table: 1.2k, 3.4M, 0.0021; with a unit it has a digit less."""
    size = abs(value)
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= limit:
            divisor = 1e3 if unit == "k" else limit
            return f"{value / divisor:.{digits - 1}g}{unit}"
    return f"{value:.{digits}g}"


@dataclass
class Section:
    """One part of a page; only the title is required. `answers` are a question, an answer, a verdict and sources."""

    title: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[Mapping[str, Any]] = ()
    charts: Sequence[Chart] = ()
    blocks: Sequence[str] = ()
    answers: Sequence[Mapping[str, Any]] = field(default=())


def table(
    head: Sequence[str], rows: Iterable[Sequence[Any]], base: int | None = None, caption: str = ""
) -> dict[str, Any]:
    """A table for a Section; a cell is a value, or `(text, class)`. Short rows are filled up, the row `base` is
    marked."""

    def cell(value: Any) -> dict[str, str]:
        text, word = value if isinstance(value, tuple) else (value, "")
        return {"text": str(text), "word": word}

    body = [
        {"cells": [cell(v) for v in (*row, *[""] * (len(head) - len(row)))], "base": index == base}
        for index, row in enumerate(rows)
    ]
    return {"head": list(head), "rows": body, "caption": caption}


def markdown_table(table: Mapping[str, Any]) -> list[str]:
    """The lines of a table in Markdown."""
    rows = [[cell["text"].replace("|", "\\|") for cell in row["cells"]] for row in table["rows"]]
    head = [name.replace("|", "\\|") for name in table["head"]]
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def render_page(
    title: str, subtitle: str, lead: Sequence[str], sections: Iterable[Section | None], *,
    warnings: Sequence[str] = (), after: str = "",
) -> str:  # fmt: skip
    """A page as one HTML file.

    Args:
        lead: the lines on top.
        sections: the page's parts; None is left out.
        after: HTML below the sections, put there as it is.
    """
    page = {"title": title, "subtitle": subtitle, "warnings": warnings, "lead": lead, "after": after}
    return render_template(TEMPLATES / "page.html", page=page | {"sections": [one for one in sections if one]})


def render_template(path: Path, **values: Any) -> str:
    """A Jinja template filled in; values are escaped in HTML."""
    from jinja2 import Environment, FileSystemLoader, select_autoescape

    made = Environment(
        loader=FileSystemLoader(path.parent), autoescape=select_autoescape(), trim_blocks=True, lstrip_blocks=True
    )
    return made.get_template(path.name).render(**values)


@dataclass(frozen=True)
class Line:
    """One series of a chart of lines.

    Attributes:
        points: (x, y); a single one is a dot. band: (low, high) at each point, or nothing.
        dots: further (x, y), such as the replicates whose mean a point is.
        shade: number of the colour, its place among the lines by default. style: matplotlib's, `-`, `--` or `o`.
    """

    label: str
    points: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float]] = ()
    shade: int | None = None
    dots: Sequence[tuple[float, float]] = ()
    style: str = "-"

    @classmethod
    def of_replicates(cls, label: str, values: Mapping[float, Sequence[float]], **more: Any) -> Line:
        """The means of replicates by x, and the replicates as dots."""
        dots = [(x, y) for x in sorted(values) for y in values[x]]
        return cls(label, [(x, math.fsum(values[x]) / len(values[x])) for x in sorted(values)], dots=dots, **more)


@dataclass(frozen=True)
class IntervalRow:
    """One row of a chart of intervals: its replicates, and the interval around their centre."""

    label: str
    dots: Sequence[float]
    centre: float
    interval: tuple[float, float] | None = None
    shade: int = 0


def axis_range(values: Iterable[float]) -> tuple[float, float]:
    """The ends of an axis: the least and the largest value, or without those that flatten the others: up to a third
    of the values, at one end, where the others, three or more, span less than one part in `FLAT`."""
    found = sorted(v for v in values if math.isfinite(v))
    low, high = found[0], found[-1]
    for count in range(1, min(len(found) // 3, len(found) - 3) + 1):
        for a, b in ((low, found[-1 - count]), (found[count], high)):
            if 0 < FLAT * (b - a) < high - low:
                return a, b
    return low, high


@drawn
def line_chart(
    lines: Sequence[Line], x_label: str, y_label: str, caption: str, *, log: Literal["", "x", "xy"] = ""
) -> Chart:
    """Curves over x, with bands where there are intervals; bands may be cut by the frame. `log`: logarithmic axes."""
    with styled():
        axes = _axes(2.7, [line.label for line in lines])
        values = {line.label: [y for _, y in (*line.points, *line.dots)] for line in lines}
        for number, line in enumerate(lines):
            shade = number if line.shade is None else line.shade
            colour, style = COLOURS[shade % len(COLOURS)], line.style
            if style == "-" and (len(line.points) == 1 or shade >= len(COLOURS)):
                style = "o" if len(line.points) == 1 else "--"
            axes.plot(*zip(*line.points, strict=True), style, color=colour, markersize=5, label=_folded(line.label, 60))
            if line.band:
                low, high = zip(*line.band, strict=True)
                axes.fill_between([x for x, _ in line.points], low, high, color=colour, alpha=0.15, linewidth=0)
            if line.dots:
                axes.plot(*zip(*line.dots, strict=True), "o", color=colour, alpha=0.5, markersize=3)
        for axis in log:
            getattr(axes, f"set_{axis}scale")("log")
        note = _limit(axes.yaxis, values, log="y" in log)
        _ticks(axes.xaxis, log="x" in log)
        axes.set_xlabel(_folded(x_label) + note)
        axes.set_ylabel(_folded(y_label, 38))
        return _finished(axes, caption)


@drawn
def interval_chart(rows: Sequence[IntervalRow], x_label: str, caption: str, *, margin: float | None = None) -> Chart:
    """A line a row: every replicate a dot, the centre a square, its interval; with `margin` a line at 0 and the margin
    around it."""
    with styled():
        axes = _axes(0.5 + 0.38 * len(rows), (), rows=[row.label for row in rows])
        values = {r.label: [*r.dots, r.centre, *(r.interval or ())] for r in rows}
        for place, row in enumerate(rows):
            colour = COLOURS[row.shade % len(COLOURS)]
            if row.interval is not None:
                axes.plot(row.interval, [place] * 2, color=colour)
            axes.plot(row.dots, [place + 0.24] * len(row.dots), "o", color=colour, alpha=0.55, markersize=3.5)
            axes.plot([row.centre], [place], "s", color=colour, markersize=5)
        # an outlying dot is cut, never the interval that it widens
        means = [v for row in rows for v in (row.centre, *(row.interval or ())) if math.isfinite(v)]
        always = axis_range(means) if means else ()
        note = _limit(axes.xaxis, values, extra=() if margin is None else (-margin, 0.0, margin), always=always)
        if margin is not None:
            axes.axvspan(-margin, margin, color="#888", alpha=0.13, linewidth=0)
            axes.axvline(0, color="#444", linewidth=0.8, linestyle="--")
        axes.set_xlabel(_folded(x_label) + note)
        return _finished(axes, caption)


@drawn
def bar_chart(
    panels: Mapping[str, Mapping[str, Mapping[str, float]]], caption: str, *, ours: Collection[str] = ()
) -> Chart:
    """Bars from zero: a row is a mapping of parts to values, one after the other; the first one's number is behind.

    Args:
        panels: rows by what the axis of the panel is called; panels are drawn one below the other.
        ours: rows that are highlighted; all have the colours of their parts where there is none.
    """
    with styled():
        parts = list(dict.fromkeys(part for rows in panels.values() for row in rows.values() for part in row))
        every = _panels([0.5 + 0.27 * len(rows) for rows in panels.values()], parts, list(map(list, panels.values())))
        for axes, (label, rows) in zip(every, panels.items(), strict=True):
            for place, (row, own) in enumerate(rows.items()):
                end = 0.0
                for part, value in own.items():
                    fill = COLOURS[parts.index(part) % len(COLOURS)]
                    fill = fill if not ours else OURS if row in ours else OTHERS
                    axes.barh(place, value, 0.72, end, color=fill, label=_folded(part, 60))
                    end += value
            axes.grid(axis="y", visible=False)
            ends = {row: [sum(own.values())] for row, own in rows.items()}
            axes.set_xlabel(_folded(label) + _limit(axes.xaxis, ends, extra=(0.0,)))
            for place, (row, own) in enumerate(rows.items()):
                at, text = (min(*ends[row], axes.get_xlim()[1]), place), "".join(map(nice_number, [*own.values()][:1]))
                axes.annotate(text, at, (3, 0), textcoords="offset points", va="center", fontsize=8)
        return _finished(every[0], caption)


@drawn
def heat_map(
    columns: Sequence[str], rows: Sequence[str], values: Sequence[Sequence[float]], x_label: str, y_label: str,
    caption: str,
) -> Chart:  # fmt: skip
    """Numbers as a grid of squares, `values` a row a list; few enough columns have their numbers in the squares."""
    with styled():
        axes = _axes(0.6 + max(0.24, min(0.36, 4 / len(columns))) * len(rows), ())
        few = len(columns) <= 12
        axes.imshow(values, cmap="Blues", aspect="auto", vmin=min(0.0, *map(min, values)), vmax=1.0)
        axes.set_xticks(range(len(columns)), columns, rotation=0 if few else 90, fontsize=9 if few else 6)
        axes.set_yticks(range(len(rows)), rows, fontsize=9 if few else 6)
        axes.grid(visible=False)
        for down, row in enumerate(values if few else ()):
            for across, value in enumerate(row):
                ink = "white" if value > 0.6 else "black"
                axes.text(across, down, f"{value:.2f}", ha="center", va="center", color=ink, fontsize=8)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        return _finished(axes, caption)


@drawn
def picture_grid(pictures: Iterable[Any], texts: Sequence[str], caption: str, columns: int = 4) -> Chart:
    """Pictures (H, W, 3) of bytes side by side, each with its text below."""
    with styled():
        from matplotlib.figure import Figure

        pictures, wide = list(pictures), 54 // columns + 4
        folded = [_folded(text, wide) for text in texts]
        lines = max((text.count("\n") + 1 for text in folded), default=1)
        down, side = -(-len(pictures) // columns), WIDTH * 1.4 / columns
        shape = max(one.shape[0] / one.shape[1] for one in pictures)
        tall = down * (side * shape + LINE * lines)
        figure = Figure(figsize=(side * columns, tall))
        for axes, picture, text in zip(
            figure.subplots(down, columns, squeeze=False).flat, pictures, folded, strict=False
        ):
            axes.imshow(picture, interpolation="nearest")
            axes.text(0, -0.04, text, transform=axes.transAxes, va="top", fontsize=8)
        for axes in figure.axes:
            axes.set_axis_off()
        return Chart(figure, caption)


def _folded(text: str, width: int = 64) -> str:
    """A text in lines of at most so many characters; matplotlib hides labels that begin with `_`."""
    text = f"\u200b{text}" if text.startswith("_") else text
    return "\n".join(part for line in text.split("\n") for part in textwrap.wrap(line, width) or [""])


def _axes(height: float, legend: Sequence[str], rows: Sequence[str] = ()) -> Any:
    """The axes of a new figure: `height` inches of them, with room for a legend; `rows` name places from the top."""
    return _panels([height], legend, [rows])[0]


def _panels(heights: Sequence[float], legend: Sequence[str], rows: Sequence[Sequence[str]]) -> list[Any]:
    from matplotlib.figure import Figure

    names = [[_folded(name, 30) for name in own] for own in rows]
    folds = [len(own) * max((name.count("\n") for name in own), default=0) for own in names]
    heights = [height + LINE * 0.7 * more for height, more in zip(heights, folds, strict=True)]
    lines = -(-len(legend) // _legend_columns(legend)) if len(legend) > 1 else 0
    figure = Figure(figsize=(WIDTH, sum(heights) + LINE * lines))
    out = list(figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights).flat)
    for axes, own in zip(out, names, strict=True):
        if own:
            axes.set_yticks(range(len(own)), own)
            axes.set_ylim(len(own) - 0.5, -0.5)
            axes.tick_params(axis="y", length=0)
            axes.grid(axis="y", visible=False)
    return out


def _legend_columns(names: Sequence[str]) -> int:
    longest = max((len(line) for name in names for line in _folded(name, 60).split("\n")), default=1)
    return max(1, min(len(names), int(WIDTH / (0.075 * longest + 0.5))))


def _limit(
    axis: Any, values: Mapping[str, Sequence[float]], extra: Sequence[float] = (), log: bool = False,
    always: Sequence[float] = (),
) -> str:  # fmt: skip
    """Set the ends and ticks of an axis; returns a line on what is cut by them, empty where nothing is."""
    scale = _log if log else float
    every = [v for own in values.values() for v in map(scale, own) if math.isfinite(v)] + list(extra)
    every = every or [0.0, 1.0]
    low, high = (min(every), max(every)) if log else axis_range(every)
    low, high = min((low, *extra, *always)), max((high, *extra, *always))  # what is shown anyway cuts nothing
    outside = {
        name: max(far, key=lambda v: abs(v - (low + high) / 2))
        for name, own in values.items() if (far := [v for v in map(scale, own) if not low <= v <= high])
    }  # fmt: skip
    room = 0.08 * (high - low) or 0.08 * abs(high) or 1.0
    ends = [low if extra and low == 0 else low - room, high + room * (1.6 if extra else 1)]
    axis.axes.set(**{f"{axis.axis_name}lim": [10**v for v in ends] if log else ends})
    _ticks(axis, log=log)
    back = [f"{name} {nice_number(10**v if log else v)}" for name, v in outside.items()]
    return "\n" + _folded(f"Beyond the axis: {', '.join(back)}") if back else ""


def _log(value: float) -> float:
    return math.log10(value) if value > 0 else -math.inf


def _ticks(axis: Any, log: bool) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1e3 * low else (1,)) if log and high > 10 * low
                           else MaxNLocator(5))  # fmt: skip
    largest, step = max(abs(low), abs(high)), (high - low) / 5  # as many digits as tell a step from the next
    digits = 4 if log or not 0 < step < largest else max(4, 2 + math.ceil(math.log10(largest / step)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: nice_number(value, digits)))
    axis.set_minor_formatter(NullFormatter())


def _finished(axes: Any, caption: str) -> Chart:
    """The chart of these axes, with a legend below where there are several series."""
    shown = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    if len(shown) > 1:
        axes.figure.legend(
            shown.values(), shown.keys(), loc="outside lower center", ncols=_legend_columns(list(shown)), fontsize=9
        )
    return Chart(axes.figure, caption)
