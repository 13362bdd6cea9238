"""`llmanac run` for recipes in three stages (`recipes/rlhf.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmanac.core import spec


def run_stages(name: str, data: Mapping[str, Any], changes: Mapping[str, Any], folder: Path | None, resume: bool,
               show: bool) -> None:  # fmt: skip
    """Run a recipe of this form, print what was measured, and the next commands."""
    from llmanac.core.errors import SpecError
    from llmanac.recipes.rlhf import RlhfSpec, run_rlhf

    asked = spec.patch(spec.make(RlhfSpec, data), changes)
    if show:
        print(spec.to_toml(spec.dump(asked)), end="")
        return
    if "budget" in changes:
        raise SpecError(
            "--budget: a recipe in stages states its steps; set rl.train.steps, sft.epochs, reward_model.epochs"
        )
    place = folder or Path("runs") / asked.name
    try:
        done = run_rlhf(asked, place, resume=resume)
    except KeyboardInterrupt:
        where = f" --folder {folder}" if folder else ""
        print(f"\nStopped; nothing is lost. Continue with: llmanac run {name}{where} --resume")
        raise SystemExit(130) from None
    print_stages(done.results, place)


def print_stages(results: Mapping[str, Any], place: Path) -> None:
    """Each policy on the held-out prompts."""
    from llmanac.cli.tables import print_table
    from llmanac.recipes.rlhf_results import COLUMNS

    held = results["held_out"]
    some = [key for key in COLUMNS if all(key in row for row in held["scores"].values())]
    rows = [(arm, *(f"{row[key]['mean']:.3f}" for key in some)) for arm, row in held["scores"].items()]
    print_table(f"{held['prompts']} held-out prompts", ("", *(COLUMNS[key] for key in some)), rows)
    print(f"report: {place / 'report.html'}")
    print("Next:\n  " + "\n  ".join(results["next"]))
