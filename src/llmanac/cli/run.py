"""`llmanac run`: run a recipe, show it, or continue a run."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from llmanac.cli.options import Patches, Processes, Show, followed, on_processes, stopping
from llmanac.core.progress import time_without_once

if TYPE_CHECKING:
    from llmanac.recipes.spec import Run


def run_command(
    recipe: str, set_: Patches = None, budget: str | None = None, folder: Path | None = None, seed: int | None = None,
    resume: bool = False, processes: Processes = None, show: Show = False,
) -> None:  # fmt: skip
    """Run a recipe: text to a tokenizer, a model, an evaluation and a report; or a tuning, RL, images.

    Args:
        recipe: quickstart, rlhf, clip, llava, ..., or the path of a recipe.toml.
        budget: Time to spend, e.g. 60s, 5m, 2h; recipes in stages (rlhf) state steps.
        folder: Output folder [runs/<name>].
        seed: Random seed.
        resume: Continue an interrupted run.
    """
    began = time_without_once()  # the budget includes loading the libraries
    from llmanac.core import spec
    from llmanac.parallel import launch
    from llmanac.recipes.run import asked_for, run
    from llmanac.recipes.spec import read_recipe

    if followed():
        return
    changes = on_processes(spec.parse_patches(set_ or ()), processes, read_recipe(recipe))
    changes |= {name: value for name, value in (("budget", budget), ("seed", seed)) if value is not None}
    if show:
        print(asked_for(recipe, changes)[1].text(), end="")
        return
    chosen = folder or (Path("runs") / str(changes["name"]) if "name" in changes else None)
    where = f" --folder {quote(str(chosen))}" if chosen else ""
    where += f" --processes {processes}" if processes else ""
    with stopping(f"llmanac run {quote(recipe)}{where} --resume"), launch.processes(processes or 1):
        done = run(recipe, changes, folder=folder, resume=resume or launch.restarted(folder), began=began)
    print_run(done)


def print_run(done: Run) -> None:
    """Print the results as tables, and the next commands."""
    from llmanac.cli.pictures import print_pictures
    from llmanac.cli.rlhf import print_stages
    from llmanac.cli.tune import print_tuned

    forms = {"RecipeSpec": print_pretraining, "RlhfSpec": print_stages, "MultimodalRecipe": print_pictures}
    forms.get(type(done.recipe).__name__, print_tuned)(done)
    if (done.folder / "report.html").is_file():
        print(f"report: {done.folder / 'report.html'}")
    commands = done.results["next"]
    print(f"Next: {commands[0]}" if len(commands) == 1 else "\n  ".join(["Next:", *commands]))


def print_pretraining(done: Run) -> None:
    """Bits per byte next to the baselines; what an assistant answers; what a scaling law says of the size."""
    from llmanac.cli.tables import Console, make_table, print_table

    table = make_table(f"{done.recipe.name}: bits per byte on held-out documents", ["", "bits per byte"])
    for name, value in sorted(done.results["bits_per_byte"].items(), key=lambda item: item[1]):
        table.add_row(name, f"{value:.3f}", style="bold" if name == "this model" else "")
    Console().print(table)
    if answers := done.results.get("answers"):
        print_table(
            "answers on held-out modules, question forms not in the training data",
            ["", "F1", "exact", "questions"],
            [(k, f"{s['f1']:.3f}", f"{s['exact']:.3f}", str(s["questions"])) for k, s in answers["scores"].items()],
        )
        print(f"refused: {answers['refused_unanswerable']:.0%} of the questions that cannot be answered, ", end="")
        print(f"{answers['refused_answerable']:.0%} of those that can")
        print("  " + ", ".join(f"{sort}: {share:.0%}" for sort, share in answers["refused"].items()))
    if planned := done.results.get("pretrain"):
        from llmanac.lab.scaling.planning import for_a_run

        train, model = planned["train"], done.results["model"]
        read = train["steps"] * train["batch_tokens"]
        if words := for_a_run(done.recipe, done.results["tokens"]["vocabulary"], model["parameters"], read):
            print(words)
