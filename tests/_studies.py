"""Comparisons on a tiny model: the numbers are real, only the sizes are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmanac.lab.compare import StudyResult, compare

STEPS = 8


def ask(kind: str, arms: Any, recipe: dict[str, Any], folder: Path, cache: Path, **options: Any) -> StudyResult:
    settings = {"base": recipe, "budget": 600, "min_steps": 2, "report": lambda line: None}
    return compare(kind, arms, folder=folder, cache=cache, **(settings | options))
