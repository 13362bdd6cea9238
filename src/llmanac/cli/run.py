"""`llmanac run`: run a recipe, show it, or go on with a run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmanac.cli.options import Patches

if TYPE_CHECKING:
    from llmanac.recipes.run import Run


def run_command(
    recipe: Annotated[str, typer.Argument(help="quickstart, or the path of a recipe.toml.")],
    set_: Patches = None,
    budget: Annotated[str | None, typer.Option(help="Time to spend, e.g. 60s, 5m, 2h.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Where the run goes [runs/<name>].")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Print the resolved recipe and stop.")] = False,
) -> None:
    """Run a recipe: text to a tokenizer, a model, an evaluation and a report."""
    began = time.monotonic()  # loading the libraries takes a part of the budget
    from llmanac.core import spec
    from llmanac.recipes.run import NothingKept, run
    from llmanac.recipes.spec import load_recipe, shown

    changes = spec.parse_patches(set_ or ())
    if budget is not None:
        changes["budget"] = budget
    if seed is not None:
        changes["seed"] = seed
    if show:
        print(shown(load_recipe(recipe, changes)), end="")
        return
    try:
        done = run(recipe, changes, folder=folder, resume=resume, began=began)
    except NothingKept:
        print("\nStopped before anything was kept; the same command starts again.")
        raise SystemExit(130) from None
    except KeyboardInterrupt:
        where = f" --folder {folder}" if folder else ""
        print(f"\nStopped; nothing is lost. Go on with: llmanac run {recipe}{where} --resume")
        raise SystemExit(130) from None
    print_run(done)


def print_run(done: Run) -> None:
    """The results as tables, and the commands that come next."""
    from llmanac.cli.tables import Console, make_table, print_table

    table = make_table(f"{done.recipe.name}: bits per byte on held-out documents", ["", "bits per byte"])
    for name, value in sorted(done.results["bits_per_byte"].items(), key=lambda item: item[1]):
        table.add_row(name, f"{value:.3f}", style="bold" if name == "this model" else "")
    Console().print(table)
    if answers := done.results.get("answers"):
        print_table(
            "answers on held-out modules, question forms never seen in training",
            ["", "F1", "exact", "questions"],
            [
                (name, f"{score['f1']:.3f}", f"{score['exact']:.3f}", str(score["questions"]))
                for name, score in answers["scores"].items()
            ],
        )
        print(f"refused: {answers['refused_unanswerable']:.0%} of the questions that cannot be answered, ", end="")
        print(f"{answers['refused_answerable']:.0%} of those that can")
        print("  " + ", ".join(f"{sort}: {share:.0%}" for sort, share in answers["refused"].items()))
    print(f"report: {done.folder / 'report.html'}")
    print("Next:\n  " + "\n  ".join(done.results["next"]))
