"""The table of classifiers as a page and as lines, from its `table.json` alone."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from llmanac.lab import words
from llmanac.lab._svg import BOTTOM, RIGHT, WIDTH, Frame, colour, padded
from llmanac.lab.budget import format_duration
from llmanac.lab.report import Section, markdown_table, render_page, table
from llmanac.lab.stats import interval, mean

Result = Mapping[str, Any]
NONE = "-"


def curve_chart(
    lines: Mapping[str, Mapping[float, Sequence[float]]],
    x_label: str,
    y_label: str,
    title: str,
    level: Mapping[str, float] | None = None,
) -> str:
    """Curves over a logarithmic axis: the mean of each point's values, and dots for the values themselves.

    Args:
        lines: values by x, by series. level: series that are the same everywhere, drawn as dashed lines.
    """
    levels = dict(level or {})
    xs = [x for points in lines.values() for x in points] or [1.0, 10.0]
    ys = [y for points in lines.values() for values in points.values() for y in values] + list(levels.values())
    frame = Frame((min(xs), max(max(xs), min(xs) * 1.01)), padded(ys), x_label, y_label, log_x=True)
    frame.axes()
    names = [*levels, *lines]
    for name, value in levels.items():
        at, shade = frame.y(value), colour(names.index(name))
        frame.add(
            f'<line x1="{frame.left}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="{shade}" '
            'stroke-width="1.8" stroke-dasharray="6 4"/>'
        )
    for name, points in lines.items():
        shade = colour(names.index(name))
        path = " ".join(f"{frame.x(x):.1f},{frame.y(mean(points[x])):.1f}" for x in sorted(points))
        frame.add(f'<polyline points="{path}" fill="none" stroke="{shade}" stroke-width="1.8"/>')
        for x, values in points.items():
            for y in values:
                place = f'cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}"'
                frame.add(f'<circle {place} r="2.2" fill="{shade}" opacity="0.5"/>')
    for index, name in enumerate(reversed(names)):
        y = frame.height - BOTTOM - 10 - 15 * index
        shade = colour(names.index(name))
        frame.add(f'<rect x="{WIDTH - RIGHT - 12}" y="{y - 8}" width="10" height="10" fill="{shade}"/>')
        frame.text(WIDTH - RIGHT - 18, y + 1, name, anchor="end")
    return frame.svg(title)


def learning_curves(result: Result) -> str:
    """Accuracy over training rows; what is not trained is a level line."""
    lines, level = {}, {}
    for name, row in result["methods"].items():
        if row["trained"]:
            lines[name] = {float(size): values for size, values in row["curve"].items()}
        else:
            level[name] = row["accuracy"]
    return curve_chart(lines, "training rows", "accuracy", "Accuracy over training rows", level)


def slice_chart(result: Result) -> str:
    """Accuracy on the changed sentences of each slice, a mark a method."""
    slices = result["slices"]
    if not slices:
        return ""
    names = list(result["methods"])
    left = 24 + 7 * max(len(one["name"]) for one in slices)
    frame = Frame((0.0, 1.0), (0, len(slices)), "accuracy on the changed sentences (grey: on the plain ones)", "",
                  height=70 + 18 * len(slices) * max(1, len(names) // 2), left=left)  # fmt: skip
    frame.axes(y_ticks=False)
    for index, one in enumerate(slices):
        frame.text(left - 8, frame.y(len(slices) - index - 0.5) + 4, one["name"], anchor="end")
        for number, name in enumerate(names):
            parts = result["methods"][name]["slices"].get(one["name"])
            if not parts:
                continue
            y = frame.y(len(slices) - index - (number + 1) / (len(names) + 1))
            at = {part: frame.x(mean(parts[part])) for part in ("plain", "changed")}
            frame.add(
                f'<line x1="{at["plain"]:.1f}" x2="{at["changed"]:.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="#bbb"/>'
            )
            frame.add(f'<circle cx="{at["plain"]:.1f}" cy="{y:.1f}" r="3" fill="#bbb"/>')
            title = f"<title>{html.escape(name)}</title>"
            frame.add(f'<circle cx="{at["changed"]:.1f}" cy="{y:.1f}" r="4" fill="{colour(number)}">{title}</circle>')
    for number, name in enumerate(names):
        frame.text(left + 6, 24 + 13 * number, name, anchor="start", extra=f'style="fill:{colour(number)}"')
    return frame.svg("Failure slices")


def rows_of(result: Result) -> list[list[str]]:
    """The table's cells."""
    out = []
    for name, row in result["methods"].items():
        beat = f"{row['rows_to_beat_rules']:,}" if row["rows_to_beat_rules"] else "not shown"
        if not row["trained"]:
            beat = "needs none"
        elif "rules" not in result["methods"]:
            beat = NONE
        out.append([
            name, percent(row["accuracy"]), spread(row["accuracies"]), between(row["interval_over_texts"]), beat,
            f"{row['rows_for_most']:,}", f"{row['seconds']:.1f} s" if row["trained"] else "0",
            f"{row['texts_per_second']:,.0f}", "exact sum" if row["exact"] else "by leaving out",
        ])  # fmt: skip
    return out


HEADS = (
    "method", "accuracy", "95% over seeds", "95% over texts", "rows to beat the rules", "rows for 95% of the way",
    "CPU time to train", "texts/s", "explained",
)  # fmt: skip


def percent(value: float) -> str:
    return f"{value:.1%}"


def between(pair: Sequence[float]) -> str:
    return f"{pair[0]:.1%} to {pair[1]:.1%}"


def spread(values: Sequence[float]) -> str:
    """The t interval of the mean over seeds."""
    if len(values) < 2:
        return NONE
    if max(values) == min(values):
        return "all equal"
    low, high = interval(values)
    return f"{low:.1%} to {high:.1%}"


def slice_rows(result: Result) -> list[list[str]]:
    """One row a method: the plain and the changed accuracy of each slice."""
    out = []
    for name, row in result["methods"].items():
        cells = [name]
        for one in result["slices"]:
            parts = row["slices"].get(one["name"])
            cells.append(f"{mean(parts['plain']):.0%} → {mean(parts['changed']):.0%}" if parts else NONE)
        out.append(cells)
    return out


def lead(result: Result) -> str:
    """The finding, in two sentences."""
    rows = result["methods"]
    top = max(rows, key=lambda name: rows[name]["accuracy"])
    said = [f"{top} is right on {percent(rows[top]['accuracy'])} of {result['data']['test_rows']:,} test texts"]
    if "rules" in rows and top != "rules":
        said.append(f"the rules, with no training data, on {percent(rows['rules']['accuracy'])}")
        needed = rows[top]["rows_to_beat_rules"]
        if needed:
            said.append(f"{top} needed {needed:,} labelled rows to pass them")
        elif gain := rows[top].get("above_rules"):
            low, high = (f"{100 * value:+.1f}" for value in gain[1:])
            said.append(f"the difference is not shown to be one ({low} to {high} points, 95% over texts, paired)")
    return "; ".join(said) + "."


def sections(result: Result) -> list[Section]:
    """The page's parts."""
    data, curves = result["data"], learning_curves(result)
    about = (
        f"{data['train_rows']:,} training rows, {data['test_rows']:,} test rows, labels "
        f"{', '.join(data['labels'][:12])}; the most frequent label is right on {percent(data['chance'])}."
    )
    if any(row.get("above_rules") for row in result["methods"].values()):
        about += " The rules are beaten where the 95% interval of the difference over the same texts excludes 0."
    dots = "Every dot is one training on a random sample of the training rows; lines join the means."
    chart = {"svg": curves, "caption": "Accuracy over training rows; dashed: needs no training."}
    out = [
        Section("Rules and learned classifiers", [about], [table(HEADS, rows_of(result))]),
        Section("Learning curves", [dots], [_curve_table(result)], [chart]),
    ]
    if result["slices"]:
        said = [f"{one['name']}: {one['about']} ({one['example']['plain']!r} → {one['example']['changed']!r})"
                for one in result["slices"]]  # fmt: skip
        said[0] = f"Accuracy on plain sentences → on the changed ones. {said[0]}"
        chart = {"svg": slice_chart(result), "caption": "Grey: the plain sentences."}
        out.append(Section("Where they fail", [". ".join(said)], [_slice_table(result)], [chart]))
    blocks = [f"{name}\n" + "\n".join(row["explained"]) for name, row in result["methods"].items()]
    out.append(Section("One text, explained by each method", blocks=blocks))
    if "command" in result:
        out.append(Section("How to make this page again", blocks=[result["command"]]))
    return out


def _slice_table(result: Result) -> dict[str, Any]:
    return table(["method", *(one["name"] for one in result["slices"])], slice_rows(result))


def _curve_table(result: Result) -> dict[str, Any]:
    sizes = [str(size) for size in result["sizes"]]
    curves = {name: row["curve"] for name, row in result["methods"].items() if row["trained"]}
    rows = [[name, *(percent(mean(c[size])) if size in c else NONE for size in sizes)] for name, c in curves.items()]
    return table(["rows", *(f"{int(size):,}" for size in sizes)], rows)


def render(result: Result) -> str:
    """The page as one HTML file."""
    about = result["machine"]
    subtitle = (
        f"{words.plural(result['seeds'], 'seed')}; {about.get('cpu', 'unknown machine')}, "
        f"{words.plural(about.get('threads', 0), 'thread')}; {result['started']}; {format_duration(result['seconds'])}."
    )
    return render_page("Rule-based and learned classifiers", subtitle, [lead(result)], sections(result))


def markdown(result: Result) -> str:
    """The tables as Markdown."""
    tables = [table(HEADS, rows_of(result)), *([_slice_table(result)] if result["slices"] else [])]
    return "\n".join([lead(result), *(line for one in tables for line in ["", *markdown_table(one)])])
