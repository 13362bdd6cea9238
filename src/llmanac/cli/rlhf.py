"""`llmanac run` for recipes in three stages (`recipes/rlhf.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmanac.core import spec


def run_stages(name: str, data: Mapping[str, Any], changes: Mapping[str, Any], folder: Path | None, resume: bool,
               show: bool) -> None:  # fmt: skip
    """Run a recipe of this form, print what was measured, and the next commands."""
    from llmanac.recipes.rlhf import asked_of, run_named

    if show:
        print(spec.to_toml(spec.dump(asked_of(data, changes))), end="")
        return
    try:
        done = run_named(data, changes, folder, resume=resume)
    except KeyboardInterrupt:
        where = f" --folder {folder}" if folder else ""
        print(f"\nStopped; nothing is lost. Continue with: llmanac run {name}{where} --resume")
        raise SystemExit(130) from None
    print_stages(done.results, done.folder)


def print_stages(results: Mapping[str, Any], place: Path) -> None:
    """Each policy on the held-out prompts."""
    from llmanac.cli.tables import print_table
    from llmanac.recipes.rlhf_results import COLUMNS
    from llmanac.train._alarms import heard

    held = results["held_out"]
    some = [key for key in COLUMNS if all(key in row for row in held["scores"].values())]
    rows = [(arm, *(f"{row[key]['mean']:.3f}" for key in some)) for arm, row in held["scores"].items()]
    print_table(f"{held['prompts']} held-out prompts", ("", *(COLUMNS[key] for key in some)), rows)
    for arm in held["scores"]:
        for text, count in heard(place / arm / "rollouts.jsonl").items():
            print(f"{arm}: alarm, {count} {'time' if count == 1 else 'times'}: {text}")
    print(f"report: {place / 'report.html'}")
    print("Next:\n  " + "\n  ".join(results["next"]))
