"""A study on the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llmanac.lab import words
from llmanac.lab.stats import mean

STYLES = {
    "better": "green",
    "worse": "red",
    "equivalent": "cyan",
    "inconclusive": "yellow",
    "none": "yellow",
    "loses text": "red",
}


def print_study(done: Any, console: Console | None = None) -> None:
    """The verdicts, the costs, what to be warned of, and where the page is."""
    console = console or Console()
    result = done.data
    for metric in result["metrics"]:
        console.print(_verdicts(result, metric))
    console.print(_costs(result))
    for warning in words.warnings(result):
        console.print(f"note: {warning}", markup=False)
    if note := words.worse_than_uniform(result):
        console.print(f"note: {note}", markup=False)
    console.print(words.markdown(result), markup=False)
    console.print(f"page: {done.page}", markup=False)


def _verdicts(result: Any, metric: Any) -> Table:
    label = metric["title"] or metric["name"].replace("_", " ")
    table = Table(title=f"{label} ({metric['better']} is better), {words.held_words(result)}", title_justify="left")
    for head in ("", "mean", "difference", "95% interval", "p", "verdict"):
        table.add_column(head, justify="left" if head in ("", "verdict") else "right")
    compared = {c["arm"]: c for c in result["comparisons"][metric["name"]]}
    for arm, found in result["values"][metric["name"]].items():
        level = words.quantity(mean(found), metric["unit"])
        if arm not in compared:
            table.add_row(escape(arm), level, "baseline" if arm == result["baseline"] else "", "", "", "")
            continue
        c = compared[arm]
        table.add_row(
            escape(arm),
            level,
            words.difference(c),
            words.interval(c),
            words.p_value(c["p"]),
            words.verdict(c, result["replicate"]),
            style=STYLES[c["verdict"]],
        )
    for arm in result["failed"]:
        table.add_row(escape(arm), "failed", "", "", "", "", style="red")
    return table


def _costs(result: Any) -> Table:
    table = Table(title="costs, means over the runs", title_justify="left")
    table.add_column("")
    for arm in result["costs"]:
        table.add_column(escape(arm), justify="right")
    for unit in result["cost_units"]:
        cells = [words.quantity(found.get(unit["name"]), unit["unit"]) for found in result["costs"].values()]
        table.add_row(unit["title"] or unit["name"].replace("_", " "), *cells)
    return table
