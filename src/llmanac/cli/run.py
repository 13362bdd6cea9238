"""`llmanac run`: run a recipe, show it, or continue a run."""

import tomllib
from pathlib import Path
from shlex import quote
from typing import Any

from llmanac.cli.options import Patches, Processes, Show, followed, on_processes, stopping
from llmanac.core.progress import time_without_once


def run_command(
    recipe: str, set_: Patches = None, budget: str | None = None, folder: Path | None = None, seed: int | None = None,
    resume: bool = False, processes: Processes = None, show: Show = False,
) -> Any:  # fmt: skip
    """Run a recipe: text to a tokenizer, a model, an evaluation and a report; or a tuning, RL, images.

    Args:
        recipe: quickstart, rlhf, clip, llava, ..., or the path of a recipe.toml.
        budget: Time to spend, e.g. 60s, 5m, 2h; recipes in stages (rlhf) state steps.
        folder: Output folder [runs/<name>].
        seed: Random seed.
        resume: Continue an interrupted run.
    """
    began = time_without_once()  # the budget includes loading the libraries
    from llmanac.cli.results import print_run
    from llmanac.core import spec
    from llmanac.core.stores import kept
    from llmanac.parallel import launch
    from llmanac.recipes.run import asked_for, run
    from llmanac.recipes.spec import read_recipe

    if followed():
        return None
    changes = on_processes(spec.parse_patches(set_ or ()), processes, read_recipe(recipe))
    changes |= {name: value for name, value in (("budget", budget), ("seed", seed)) if value is not None}
    if show:
        text = asked_for(recipe, changes)[1].text()
        print(text, end="")
        return tomllib.loads(text)
    chosen = folder or (Path("runs") / str(changes["name"]) if "name" in changes else None)
    where = f" --folder {quote(str(chosen))}" if chosen else ""
    where += f" --processes {processes}" if processes else ""
    with (
        stopping(f"llmanac run {quote(recipe)}{where} --resume"), kept(folder) as folder,
        launch.processes(processes or 1),
    ):  # fmt: skip
        done = run(recipe, changes, folder=folder, resume=resume or launch.restarted(folder), began=began)
    return print_run(done)
