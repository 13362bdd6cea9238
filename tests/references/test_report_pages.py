"""Pages, tables and charts: what stands where its number is, what is cut and said, and what is escaped."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from llmanac.core.pages import (
    Chart,
    IntervalRow,
    Line,
    Section,
    axis_range,
    bar_chart,
    heat_map,
    interval_chart,
    line_chart,
    markdown_table,
    nice_number,
    picture_grid,
    render_page,
    table,
)

ODD = "a<b> & $x_1$ \u72d0"  # markup, what matplotlib takes for mathematics, and a letter its font lacks
POINTS = [(float(x), 2.0 + 1 / x) for x in range(1, 12)]
CHARTS: dict[str, Any] = {
    "lines": lambda label: line_chart([Line(label, POINTS, POINTS), Line("b", POINTS)], "x", "y", label),
    "dots": lambda label: line_chart([Line.of_replicates(label, {1.0: [1, 3], 9.0: [2]})], label, label, "c", log="x"),
    "points": lambda label: line_chart([Line(label, [(1.0, 1.0)]), Line("b", [(1e9, 1.0)])], "x", "y", "c", log="xy"),
    "intervals": lambda label: interval_chart(
        [IntervalRow(label, [1.0, 3.0], 2.0, (0.0, 4.0)), IntervalRow("b", [], 0.0)], "x", label
    ),
    "margin": lambda label: interval_chart([IntervalRow(label, [0.0], 0.0)], "x", "c", margin=0.0),
    "bars": lambda label: bar_chart({label: {label: {label: 2.0, "b": 0.5}, "empty": {}}}, "c"),
    "ours": lambda label: bar_chart({"x": {label: {"": 2.0}, "b": {"": 3.0}}}, label, ours=(label,)),
    "squares": lambda label: heat_map([label, "b"], ["c"], [[0.25, 1.0]], label, "y", label),
    "many squares": lambda label: heat_map([label] * 20, ["c"], [[-0.5] * 20], "x", "y", label),
    "pictures": lambda label: picture_grid(np.zeros((5, 4, 4, 3), np.uint8), [label] * 5, label),
}


def texts(chart: Chart) -> str:
    """The words of a chart, without breaks."""
    return "".join("".join(e.itertext()) for e in ElementTree.fromstring(chart.svg).iter() if e.tag.endswith("text"))


@pytest.mark.parametrize("kind", CHARTS)
@pytest.mark.filterwarnings("error")
def test_a_chart_is_one_valid_file_with_every_label_and_the_same_bytes(kind: str) -> None:
    chart = CHARTS[kind](ODD)
    root = ElementTree.fromstring(chart.svg)
    assert root.attrib["role"] == "img" and root.attrib["aria-label"] == chart.caption
    assert ODD in texts(chart) and "nan" not in chart.svg
    assert chart.svg == CHARTS[kind](ODD).svg and "matplotlib.org" not in chart.svg
    assert not re.search("(href|src)=.http", chart.svg)
    assert chart.png()[:4] == b"\x89PNG"
    assert "_private" in texts(CHARTS[kind]("_private"))  # which matplotlib would leave out of a legend


@pytest.mark.parametrize("kind", CHARTS)
def test_nothing_is_clipped(kind: str) -> None:
    """Every text, drawn as wide as the font makes it, is inside of the picture."""
    chart = CHARTS[kind]("a rather long label of an arm with several fields {width=4096,heads=16}")
    width, height = (float(v) for v in ElementTree.fromstring(chart.svg).attrib["viewBox"].split()[2:])
    figure = chart.figure
    figure.canvas.draw()
    outer = figure.get_tightbbox().padded(0.06 + 1e-6)  # what the file shows, in inches
    assert (outer.width * 72, outer.height * 72) == pytest.approx((width, height), rel=0.04)
    for axes in figure.axes:
        inner = axes.get_tightbbox().transformed(figure.dpi_scale_trans.inverted())
        assert outer.x0 <= inner.x0 and inner.x1 <= outer.x1 and outer.y0 <= inner.y0 and inner.y1 <= outer.y1
    assert 300 < width < 560


def test_intervals_and_dots_stand_where_their_numbers_are() -> None:
    (axes,) = interval_chart([IntervalRow("a", [1.0, 3.0], 2.0, (0.0, 4.0))], "x", "t").figure.axes
    interval, dots, centre = axes.lines
    assert list(interval.get_xdata()) == [0.0, 4.0] and list(dots.get_xdata()) == [1.0, 3.0]
    assert list(centre.get_xdata()) == [2.0]
    low, high = axes.get_xlim()
    assert low < 0.0 and high > 4.0


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([1.9, 1.95, 2.0, 50.0], (1.9, 2.0)),
        ([1.9, 1.95, 2.0, -50.0], (1.9, 2.0)),
        ([1.9, 1.95, 2.0, 3.3], (1.9, 3.3)),
        ([1.9, 2.0, 50.0], (1.9, 50.0)),  # two are only near each other
        ([2.0, 2.0, 2.0, 50.0], (2.0, 50.0)),  # nothing is flattened
        ([*range(10), 1e3, 2e3], (0, 9)),
        ([1.0, 2.0, float("inf")], (1.0, 2.0)),
    ],
)
def test_what_flattens_the_others_is_cut(values: list[float], shown: tuple[float, float]) -> None:
    assert axis_range(values) == shown


def test_the_axis_says_what_is_cut() -> None:
    lines = [Line("low", [(1, 1.9), (2, 2.0)]), Line("high", [(1, 60.0), (2, 1.95)])]
    for log in ("", "x"):
        assert "Beyond the axis: high 60" in texts(line_chart(lines, "x", "y", "c", log=log))
        assert "Beyond" not in texts(line_chart(lines[:1], "x", "y", "c", log=log))
    assert "Beyond" not in texts(line_chart(lines, "x", "y", "c", log="xy"))
    values = {"a": 1.0, "b": 1.1, "c": 1.2, "d": 99.0}
    rows = [IntervalRow(name, [], value) for name, value in values.items()]
    assert "Beyond the axis: d 99" in texts(interval_chart(rows, "x", "c"))
    bars = {name: {"": value} for name, value in values.items()}
    (axes,) = bar_chart({"x": bars | {"d": {"": 999.0}}}, "c").figure.axes
    assert axes.get_xlim()[0] == 0 and 1.2 < axes.get_xlim()[1] < 1.6
    assert "Beyond the axis: d 999" in axes.get_xlabel()


def test_a_value_that_has_no_logarithm_is_said() -> None:
    lines = [Line("a", [(1, 1.0), (2, 2.0)]), Line("b", [(1, 0.0), (2, 2.0)])]
    assert "Beyond the axis: b 0" in texts(line_chart(lines, "x", "y", "c", log="xy"))


def test_what_is_not_finite_is_said() -> None:
    line = Line("a", [(1, math.inf), (2, math.inf)])
    for log in ("", "xy"):
        assert "Beyond the axis: a inf" in texts(line_chart([line], "x", "y", "c", log=log))
    assert "Beyond the axis: a inf" in texts(interval_chart([IntervalRow("a", [math.inf], math.inf)], "x", "c"))


def test_an_outlying_dot_is_cut_and_no_interval_that_it_widens() -> None:
    row = IntervalRow("a", [0.0] * 7 + [-0.9], -0.1125, (-0.34, 0.0))
    chart = interval_chart([row], "x", "c", margin=0.004)
    (axes,) = chart.figure.axes
    assert -0.9 < axes.get_xlim()[0] < -0.34 and "Beyond the axis: a -0.9" in axes.get_xlabel()


def test_numbers() -> None:
    assert [nice_number(v) for v in (0.00213, 950, 12_345, 3.4e6, 5e12)] == ["0.00213", "950", "12.3k", "3.4M", "5T"]


def test_a_page_escapes_what_it_is_given() -> None:
    made = table([ODD, ODD], [[ODD, (ODD, "better")], ["short"]], 0, caption=ODD)
    answer = {"question": ODD, "answer": ODD, "verdict": ODD, "note": ODD, "citations": [{"title": ODD, "text": ODD}]}
    parts = [Section(ODD, [ODD], [made], [CHARTS["lines"](ODD)], [ODD], [answer]), None]
    page = render_page(ODD, ODD, [ODD], parts, warnings=[ODD], after="<hr>")
    assert "<b>" not in page.replace(f"<b>{ODD[:1]}", "") and page.count("a&lt;b&gt;") > 18 and "<hr>" in page
    assert 'class="n better"' in page and 'class="base"' in page
    assert page.count("<td") == 4  # the short row is filled up
    assert not re.search("<script|(src|href)=.http", page)


def test_a_table_in_markdown() -> None:
    lines = markdown_table(table(["", "a|b"], [["x", 1], ["y", ("2", "better")]]))
    assert lines == ["|  | a\\|b |", "| --- | --- |", "| x | 1 |", "| y | 2 |"]


def test_nothing_draws_until_a_chart_is_asked_for() -> None:
    code = "import sys, llmanac.core.pages; assert not {'matplotlib', 'jinja2', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (3.9690, 3.9707), (1_000_000.0, 1_000_300.0), (0.12340, 0.12346), (-5.00012, -5.00001), (0.0, 1.0),
        (12_300.0, 12_900.0), (-1e-7, 1e-7), (9.99e8, 1.001e9), (98.76, 98.77),
    ],
)  # fmt: skip
def test_ticks_of_a_narrow_axis_are_told_apart(low: float, high: float) -> None:
    axis = line_chart([Line("a", [(0.0, low), (1.0, high)])], "x", "y", "").figure.axes[0].yaxis
    labels = [axis.get_major_formatter()(value, None) for value in axis.get_majorticklocs()]
    assert len(labels) >= 3 and len(set(labels)) == len(labels), labels


@pytest.mark.parametrize(("centre", "said"), [(0.92, ""), (-0.92, ""), (40.0, "Beyond the axis")])
def test_what_the_margin_brings_back_is_not_beyond_the_axis(centre: float, said: str) -> None:
    """A dot between zero, which is always shown, and the others; and one that is far from both."""
    dots = [centre + 0.001 * n for n in range(12)]
    odd = 0.9 * centre if abs(centre) < 1 else 4000.0
    rows = [IntervalRow("a", [*dots, odd], centre), IntervalRow("b", dots, centre)]
    axes = interval_chart(rows, "x", "", margin=0.001).figure.axes[0]
    low, high = axes.get_xlim()
    assert (low <= odd <= high) == (not said) and ("Beyond the axis" in axes.get_xlabel()) == bool(said)
