"""`llmanac run`: run a recipe, show it, or continue a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmanac.cli.options import Patches, Processes, Show, followed, on_processes
from llmanac.cli.pictures import print_pictures
from llmanac.cli.rlhf import print_stages
from llmanac.cli.tune import run_tuning
from llmanac.core.errors import SpecError
from llmanac.core.progress import time_without_once

if TYPE_CHECKING:
    from llmanac.recipes.run import Run


def run_command(
    recipe: Annotated[str, typer.Argument(help="quickstart, rlhf, clip, llava, ..., or the path of a recipe.toml.")],
    set_: Patches = None,
    budget: Annotated[
        str | None, typer.Option(help="Time to spend, e.g. 60s, 5m, 2h; recipes in stages (rlhf) state steps.")
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="Output folder [runs/<name>].")] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    processes: Processes = None,
    show: Show = False,
) -> None:
    """Run a recipe: text to a tokenizer, a model, an evaluation and a report."""
    began = time_without_once()  # the budget includes loading the libraries
    from llmanac.core import spec
    from llmanac.parallel import launch
    from llmanac.recipes import multimodal, rlhf
    from llmanac.recipes.multimodal import is_multimodal
    from llmanac.recipes.rlhf import is_rlhf
    from llmanac.recipes.run import NothingKept, Run, run
    from llmanac.recipes.spec import load_recipe, read_recipe, shown
    from llmanac.recipes.tune import is_tuning

    if followed():
        return
    data = read_recipe(recipe)
    changes = on_processes(spec.parse_patches(set_ or ()), processes, data)
    changes |= {name: value for name, value in (("budget", budget), ("seed", seed)) if value is not None}
    alone = is_rlhf(data) or is_multimodal(data)
    if alone and any(path.startswith("parallel.") for path in changes):
        raise SpecError("parallel: RL and recipes of pictures train on one process; leave --processes out")
    if is_multimodal(data):
        run_stated(multimodal, print_pictures, recipe, data, changes, folder, resume, show)
        return
    if is_rlhf(data):
        run_stated(rlhf, print_stages, recipe, data, changes, folder, resume, show)
        return
    if is_tuning(data):
        run_tuning(data, changes, folder or Path("runs") / Path(recipe).stem, resume, show, processes)
        return
    if show:
        print(shown(load_recipe(recipe, changes)), end="")
        return
    try:
        with launch.processes(processes or 1):
            done = run(recipe, changes, folder=folder, resume=resume or launch.restarted(folder), began=began)
    except NothingKept:
        print("\nStopped before anything was kept; the same command starts again.")
        raise SystemExit(130) from None
    except KeyboardInterrupt:
        where = f" --folder {folder}" if folder else ""
        where += f" --processes {processes}" if processes else ""
        print(f"\nStopped; nothing is lost. Continue with: llmanac run {recipe}{where} --resume")
        raise SystemExit(130) from None
    assert isinstance(done, Run)  # the other form of recipe was run above
    print_run(done)


def run_stated(
    form: Any, print_results: Callable[[Any, Path], None], name: str, data: Mapping[str, Any],
    changes: Mapping[str, Any], folder: Path | None, resume: bool, show: bool,
) -> None:  # fmt: skip
    """Run a recipe that states its steps (`form` is its module), print what was measured, and the next commands."""
    from llmanac.core import spec

    if show:
        print(spec.to_toml(spec.dump(form.asked_of(data, changes))), end="")
        return
    try:
        done = form.run_named(data, changes, folder, resume=resume)
    except KeyboardInterrupt:
        chosen = folder or (Path("runs") / str(changes["name"]) if "name" in changes else None)
        where = f" --folder {quote(str(chosen))}" if chosen else ""
        print(f"\nStopped; nothing is lost. Continue with: llmanac run {quote(name)}{where} --resume")
        raise SystemExit(130) from None
    print_results(done.results, done.folder)
    print(f"report: {done.folder / 'report.html'}")
    print("Next:\n  " + "\n  ".join(done.results["next"]))


def print_run(done: Run) -> None:
    """Print the results as tables, and the next commands."""
    from llmanac.cli.tables import print_section
    from llmanac.recipes.report import measured

    for section in measured(done.results):
        print_section(section)
    if planned := done.results.get("pretrain"):
        from llmanac.lab.scaling.planning import for_a_run

        train, model = planned["train"], done.results["model"]
        read = train["steps"] * train["batch_tokens"]
        if words := for_a_run(done.recipe, done.results["tokens"]["vocabulary"], model["parameters"], read):
            print(words)
    print(f"report: {done.folder / 'report.html'}")
    print("Next:\n  " + "\n  ".join(done.results["next"]))
