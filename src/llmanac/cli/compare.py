"""`llmanac compare`: run a study and print it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmanac.cli.options import Patches
from llmanac.core.errors import SpecError

if TYPE_CHECKING:
    from rich.console import Console


def compare_command(
    kind: Annotated[str, typer.Argument(help="The kind to vary (position, ffn, ...), or the path of a study.toml.")],
    arms: Annotated[str | None, typer.Option(help="Comma-separated methods, e.g. rope,learned,none.")] = None,
    budget: Annotated[str | None, typer.Option(help="Total time, e.g. 3m [3m].")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Paired seeds; fewer than 3 give no verdict [3].")] = None,
    hold: Annotated[str | None, typer.Option(help="What to hold equal: params, flops, tokens or time.")] = None,
    tune: Annotated[str | None, typer.Option(help="Same sweep for every arm, e.g. lr=3.")] = None,
    margin: Annotated[float | None, typer.Option(help="Relative margin of equivalence [0.005].")] = None,
    baseline: Annotated[str | None, typer.Option(help="Arm that the others are compared with [the first].")] = None,
    base: Annotated[str | None, typer.Option(help="Recipe that all arms start from.")] = None,
    artefact: Annotated[str | None, typer.Option(help="Run that post-hoc arms are applied to.")] = None,
    probe: Annotated[str | None, typer.Option(help="Labelled texts to probe different objectives with.")] = None,
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
        "probe": probe, "judge": judge,
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
    from llmanac.lab import report, words

    console = console or tables.Console()
    result = done.data
    for metric in result["metrics"]:
        title = f"{words.label(metric)} ({metric['better']} is better), {words.held_words(result)}"
        tables.print_page_table(report.verdict_table(result, metric), title, console)
    tables.print_page_table(report.cost_table(result), "costs, means over the runs", console)
    for note in filter(None, [*words.warnings(result), words.worse_than_uniform(result), words.adjusted(result)]):
        console.print(f"note: {note}", markup=False)
    console.print(words.summary(result), markup=False)
    console.print(f"page: {done.page}", markup=False)
