"""`llmanac compare`: run a study and print it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmanac.cli.align import RewardName, read_rewards
from llmanac.cli.options import Patches
from llmanac.core.errors import SpecError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

LABEL, CELL = 28, 17  # width in characters of a cost's name, and of an arm's column with its border
STYLES = {
    "better": "green", "worse": "red", "equivalent": "cyan", "inconclusive": "yellow", "none": "yellow",
    "too few": "yellow", "loses text": "red",
}  # fmt: skip


def compare_command(
    kind: Annotated[str, typer.Argument(help="The kind to vary (position, ffn, ...), or the path of a study.toml.")],
    arms: Annotated[str | None, typer.Option(help="Comma-separated methods, e.g. rope,learned,none.")] = None,
    budget: Annotated[str | None, typer.Option(help="Total time, e.g. 5m [5m].")] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Paired seeds, at least 5 for a verdict; auto adds them until there is one [5].")
    ] = None,
    hold: Annotated[str | None, typer.Option(help="What to hold equal: params, flops, tokens or time.")] = None,
    tune: Annotated[str | None, typer.Option(help="Same sweep for every arm, e.g. lr=3.")] = None,
    margin: Annotated[float | None, typer.Option(help="Relative margin of equivalence [0.01].")] = None,
    baseline: Annotated[str | None, typer.Option(help="Arm that the others are compared with [the first].")] = None,
    base: Annotated[str | None, typer.Option(help="Recipe that all arms start from.")] = None,
    artefact: Annotated[
        str | None, typer.Option(help="Run, model or folder of documents that arms are applied to, or align.")
    ] = None,
    probe: Annotated[str | None, typer.Option(help="Labelled texts to probe different objectives with.")] = None,
    on: Annotated[str | None, typer.Option(help="Questions that retrievers find the documents of.")] = None,
    data: Annotated[str | None, typer.Option(help="Rows that objectives align --artefact on.")] = None,
    reward: RewardName = None,
    judge: Annotated[str | None, typer.Option(help="Model that scores what they write [a 5-gram].")] = None,
    set_: Patches = None,
    folder: Annotated[Path | None, typer.Option(help="Output folder [studies/<name>].")] = None,
) -> None:
    """Compare methods at equal budget over paired seeds, with intervals and verdicts."""
    from llmanac.core.spec import parse_patches
    from llmanac.lab.compare import compare, run_study, studies

    options: dict[str, Any] = {
        "budget": budget, "seeds": seeds, "hold": hold, "tune": tune, "margin": margin, "base": base,
        "artefact": artefact, "baseline": baseline, "folder": folder,
        "probe": probe, "judge": judge, "on": on, "data": data, "reward": read_rewards(reward),
    }  # fmt: skip
    given = {name: value for name, value in options.items() if value is not None}
    changes = parse_patches(set_ or ())
    try:
        if kind in studies() or kind.endswith(".toml"):
            done = run_study(kind, arms=arms, patches=changes, **given)
        elif arms is None:
            known = ", ".join(studies())
            raise SpecError(f"--arms: name the methods, for example --arms rope,learned; or run a study: {known}")
        else:
            done = compare(kind, arms, patches=changes, **given)
    except KeyboardInterrupt:
        print("\nStopped; every finished run is kept. Run the same command again to continue.", file=sys.stderr)
        raise SystemExit(130) from None
    print_study(done)
    if done.data.get("baseline") in done.data.get("failed", ()):
        raise SystemExit(1)  # the summary says that nothing can be compared


def print_study(done: Any, console: Console | None = None) -> None:
    """Print the verdicts, the costs, warnings and the path of the page."""
    from llmanac.cli import tables
    from llmanac.lab import words

    console = console or tables.Console()
    result = done.data
    for metric in result["metrics"]:
        console.print(_verdicts(result, metric, console))
    for costs in _costs(result, console):
        console.print(costs)
    for note in filter(None, [*words.warnings(result), words.worse_than_uniform(result), words.adjusted(result)]):
        console.print(f"note: {note}", markup=False)
    console.print(words.summary(result), markup=False)
    console.print(f"page: {done.page}", markup=False)


def _fits(table: Table, console: Console) -> bool:
    return console.measure(table, options=console.options.update(width=10_000)).maximum <= console.width


def _verdicts(result: Any, metric: Any, console: Console) -> Table:
    """The table of one metric; on a narrow terminal without p-values, and with long labels over several lines."""
    wide = _verdict_table(result, metric, wide=True)
    return wide if _fits(wide, console) else _verdict_table(result, metric, wide=False)


def _arm(label: str, wide: bool) -> str:
    """An arm's label; on a narrow terminal its fields are on lines of their own."""
    return label if wide else label.replace("{", "\n{").replace(",", ",\n ")


def _verdict_table(result: Any, metric: Any, *, wide: bool) -> Table:
    from llmanac.cli.tables import escape, make_table
    from llmanac.lab import words
    from llmanac.lab.stats import mean

    label = words.label(metric)
    heads = ("", "verdict", "mean", "difference", "95% interval", *(["p"] if wide else []))
    title = f"{label} ({metric['better']} is better), {words.held_words(result)}"
    table = make_table(title, heads, left=(0, 1))
    table.columns[0].overflow = "fold"  # labels may differ only at the end
    for column in table.columns[2:]:
        column.no_wrap = True
    compared = {c["arm"]: c for c in result["comparisons"][metric["name"]]}
    for arm, found in result["values"][metric["name"]].items():
        level = words.quantity(mean(found), metric["unit"])
        if arm not in compared:
            table.add_row(escape(_arm(arm, wide)), "baseline" if arm == result["baseline"] else "", level)
            continue
        c = compared[arm]
        cells = [words.verdict(c, result["replicate"]), level, words.difference(c), words.interval(c)]
        cells += [words.p_value(c["p"])] if wide else []
        table.add_row(escape(_arm(arm, wide)), *cells, style=STYLES[c["verdict"]])
    for arm in result["failed"]:
        table.add_row(escape(_arm(arm, wide)), "failed", style="red")
    return table


def _costs(result: Any, console: Console) -> list[Table]:
    """What each arm costs: one table, or several on a narrow terminal."""
    arms = list(result["costs"])
    whole = _cost_table(result, arms, wide=True)
    if _fits(whole, console):
        return [whole]
    at_once = max(1, (console.width - LABEL) // CELL)
    return [_cost_table(result, arms[at : at + at_once], wide=False) for at in range(0, len(arms), at_once)]


def _cost_table(result: Any, arms: list[str], *, wide: bool) -> Table:
    from llmanac.cli.tables import make_table
    from llmanac.lab import words

    table = make_table("costs, means over the runs", ["", *(_arm(arm, wide) for arm in arms)])
    for column in table.columns[1:]:
        column.overflow = "fold"
    for unit in result["cost_units"]:
        cells = [words.quantity(result["costs"][arm].get(unit["name"]), unit["unit"]) for arm in arms]
        table.add_row(words.label(unit), *cells)
    return table
