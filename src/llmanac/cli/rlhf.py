"""`llmanac run` for recipes in three stages (`recipes/rlhf.py`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmanac.recipes.spec import Run


def print_stages(done: Run) -> None:
    """Each policy on the held-out prompts."""
    from llmanac.cli.tables import print_section
    from llmanac.recipes.rlhf_results import policies
    from llmanac.train._alarms import heard

    print_section(policies(done.results))
    for arm in done.results["held_out"]["scores"]:
        for text, count in heard(done.folder / arm / "rollouts.jsonl").items():
            print(f"{arm}: alarm, {count} {'time' if count == 1 else 'times'}: {text}")
