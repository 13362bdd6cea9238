"""`llmanac run` for recipes in three stages (`recipes/rlhf.py`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmanac.recipes.spec import Run


def print_stages(done: Run) -> None:
    """Each policy on the held-out prompts."""
    from llmanac.cli.tables import print_table
    from llmanac.recipes.rlhf_results import COLUMNS
    from llmanac.train._alarms import heard

    held = done.results["held_out"]
    some = [key for key in COLUMNS if all(key in row for row in held["scores"].values())]
    rows = [(arm, *(f"{row[key]['mean']:.3f}" for key in some)) for arm, row in held["scores"].items()]
    print_table(f"{held['prompts']} held-out prompts", ("", *(COLUMNS[key] for key in some)), rows)
    for arm in held["scores"]:
        for text, count in heard(done.folder / arm / "rollouts.jsonl").items():
            print(f"{arm}: alarm, {count} {'time' if count == 1 else 'times'}: {text}")
