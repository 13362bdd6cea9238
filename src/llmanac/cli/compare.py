"""`llmanac compare`: run a study and print it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmanac.cli.align import read_rewards
from llmanac.cli.options import Patches, stopping
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
    kind: str, arms: str | None = None, reward: list[str] | None = None, set_: Patches = None, *,
    changes: dict[str, Any],
) -> None:  # fmt: skip
    """Compare methods at equal budget over paired seeds, with intervals and verdicts.

    Args:
        kind: The kind to vary (position, ffn, ...), or the path of a study.toml.
        arms: Comma-separated methods, e.g. rope,learned,none.
        budget (text sets budget): Total time, e.g. 5m [5m].
        seeds (text sets seeds): Paired seeds, at least 5 for a verdict; auto adds them until there is one [5].
        hold (text sets hold): What to hold equal: params, flops, tokens or time.
        tune (text sets tune): Same sweep for every arm, e.g. lr=3.
        margin (float sets margin): Relative margin of equivalence [0.01].
        baseline (text sets baseline): Arm that the others are compared with [the first].
        base (text sets base): Recipe that all arms start from.
        artefact (text sets artefact): Run, model or folder of documents that arms are applied to, or align.
        probe (text sets probe): Labelled texts to probe different objectives with.
        on (text sets on): Questions that retrievers find the documents of.
        data (text sets data): Rows that objectives align --artefact on.
        reward: exact-match, FILE.py:function, a reward model's folder, ...; repeatable, with =WEIGHT.
        judge (text sets judge): Model that scores what they write [a 5-gram].
        folder (file sets folder): Output folder [studies/<name>].
    """
    from llmanac.core.spec import parse_patches
    from llmanac.lab.compare import compare, run_study, studies

    patches = parse_patches(set_ or ())
    rewards = read_rewards(reward)
    changes |= {} if rewards is None else {"reward": rewards}
    with stopping(kept="every finished run is kept"):
        if kind in studies() or kind.endswith(".toml"):
            done = run_study(kind, arms=arms, patches=patches, **changes)
        elif arms is None:
            known = ", ".join(studies())
            raise SpecError(f"--arms: name the methods, for example --arms rope,learned; or run a study: {known}")
        else:
            done = compare(kind, arms, patches=patches, **changes)
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
