"""`llmanac run` for recipes in three stages (`recipes/rlhf.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def print_stages(results: Mapping[str, Any], place: Path) -> None:
    """Each policy on the held-out prompts."""
    from llmanac.cli.tables import print_section
    from llmanac.recipes.rlhf_results import policies
    from llmanac.train._alarms import heard

    print_section(policies(results))
    for arm in results["held_out"]["scores"]:
        for text, count in heard(place / arm / "rollouts.jsonl").items():
            print(f"{arm}: alarm, {count} {'time' if count == 1 else 'times'}: {text}")
