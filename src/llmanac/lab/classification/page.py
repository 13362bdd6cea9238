"""The table of classifiers as a page and as lines, from its `table.json` alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmanac.core.pages import (
    Chart,
    Line,
    Row,
    Section,
    interval_chart,
    line_chart,
    markdown_table,
    render_page,
    table,
)
from llmanac.lab import words
from llmanac.lab.budget import format_duration
from llmanac.lab.stats import interval, mean

Result = Mapping[str, Any]
NONE = "-"


def learning_curves(result: Result) -> Chart:
    """Accuracy over training rows; what is not trained is a level line."""
    ends = (result["sizes"][0], result["sizes"][-1])
    lines = [
        Line.of_replicates(name, {float(size): values for size, values in row["curve"].items()})
        if row["trained"] else Line(name, [(size, row["accuracy"]) for size in ends], style="--")
        for name, row in result["methods"].items()
    ]  # fmt: skip
    caption = "Accuracy over training rows, a dot for each training; dashed: needs no training."
    return line_chart(lines, "training rows", "accuracy", caption, log="x")


def slice_chart(result: Result) -> Chart:
    """Accuracy on the changed sentences of each slice, a row a method."""
    rows = []
    for one in result["slices"]:
        for shade, (name, row) in enumerate(result["methods"].items()):
            if parts := row["slices"].get(one["name"]):
                plain, changed = mean(parts["plain"]), mean(parts["changed"])
                rows.append(Row(f"{one['name']}: {name}", [plain], changed, (plain, changed), shade))
    caption = "Square: accuracy on the changed sentences; dot: on the plain ones."
    return interval_chart(rows, "accuracy", caption)


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
    data, shown = result["data"], list(tables(result).values())
    about = (
        f"{data['train_rows']:,} training rows, {data['test_rows']:,} test rows, labels "
        f"{', '.join(data['labels'][:12])}; the most frequent label is right on {percent(data['chance'])}."
    )
    if any(row.get("above_rules") for row in result["methods"].values()):
        about += " The rules are beaten where the 95% interval of the difference over the same texts excludes 0."
    dots = "Every dot is one training on a random sample of the training rows; lines join the means."
    out = [
        Section("Rules and learned classifiers", [about], shown[:1]),
        Section("Learning curves", [dots], [_curve_table(result)], [learning_curves(result)]),
    ]
    if result["slices"]:
        said = [f"{one['name']}: {one['about']} ({one['example']['plain']!r} → {one['example']['changed']!r})"
                for one in result["slices"]]  # fmt: skip
        said[0] = f"Accuracy on plain sentences → on the changed ones. {said[0]}"
        out.append(Section("Where they fail", [". ".join(said)], shown[1:], [slice_chart(result)]))
    blocks = [f"{name}\n" + "\n".join(row["explained"]) for name, row in result["methods"].items()]
    out.append(Section("One text, explained by each method", blocks=blocks))
    if "command" in result:
        out.append(Section("How to make this page again", blocks=[result["command"]]))
    return out


def tables(result: Result) -> dict[str, dict[str, Any]]:
    """The table of methods, and where there are slices their table, each with its title."""
    out = {"rules and learned methods": table(HEADS, rows_of(result))}
    if result["slices"]:
        heads = ["method", *(one["name"] for one in result["slices"])]
        out["plain sentences → changed ones"] = table(heads, slice_rows(result))
    return out


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
    lines = (line for one in tables(result).values() for line in ["", *markdown_table(one)])
    return "\n".join([lead(result), *lines])
