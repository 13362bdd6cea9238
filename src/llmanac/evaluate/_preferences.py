"""The rows that `llmanac align` reads, from people's ratings."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llmanac.core import files
from llmanac.core.errors import DataError
from llmanac.metrics._battles import OUTCOMES

if TYPE_CHECKING:
    from llmanac.evaluate.ratings import Questions, Rating

PREFERENCES = "preferences.jsonl"


def latest(ratings: Sequence[Rating]) -> list[Rating]:
    """Without those that their rater replaced."""
    return list({(one.rater, *one.task): one for one in ratings}.values())


def _margins(ratings: Sequence[Rating]) -> Iterator[tuple[int, str, str]]:
    """`(item, preferred model, other model)` by the majority of raters; nothing where they are even."""
    compared: dict[tuple[int, str, str], float] = defaultdict(float)
    scored: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for one in latest(ratings):
        if len(one.models) == 1:
            scored[one.item][one.models[0]].append(int(one.value))
            continue
        won, (left, right) = OUTCOMES[str(one.value)] - 0.5, one.models
        low, high = sorted((left, right))
        compared[one.item, low, high] += won if low == left else -won
    for (item, low, high), margin in compared.items():
        if margin:
            yield (item, low, high) if margin > 0 else (item, high, low)
    for item, by_model in scored.items():
        for low, high in itertools.combinations(sorted(by_model), 2):
            margin = float(np.mean(by_model[low]) - np.mean(by_model[high]))
            if margin:
                yield (item, low, high) if margin > 0 else (item, high, low)


def preferences(questions: Questions, ratings: Sequence[Rating]) -> tuple[list[dict[str, str]], int]:
    """TRL's rows, one a pair that the majority prefers one of, and how many are left out: an answer is blank."""
    texts, found = questions.answers, sorted(_margins(ratings))
    for item, *models in found:
        if item >= len(questions.prompts) or not texts.keys() >= set(models):
            raise DataError(f"ratings: question {item} with answers of {', '.join(models)} is not in questions.jsonl")
    rows = [{"prompt": questions.prompts[i], "chosen": texts[one][i], "rejected": texts[other][i]}
            for i, one, other in found]  # fmt: skip
    kept = [row for row in rows if row["chosen"].strip() and row["rejected"].strip()]
    return kept, len(rows) - len(kept)


def write_preferences(folder: Path, questions: Questions, ratings: Sequence[Rating]) -> None:
    """Write `preferences`, in whole or not at all; a file that holds them already is left as it is."""
    path = folder / PREFERENCES
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in preferences(questions, ratings)[0]]
    data = "".join(lines).encode("utf-8", "backslashreplace")
    if (path.read_bytes() if path.is_file() else b"") != data or not path.exists():
        files.write_bytes(path, data)


def written(folder: Path) -> int:
    """How many rows the file has."""
    path = folder / PREFERENCES
    return path.read_bytes().count(b"\n") if path.is_file() else 0
