"""HELM's `per_instance_stats.json`, with the `instances.json` and `run_spec.json` next to it.

An instance may have entries a trial and a perturbation; trials are repeated samples. The value of a statistic is its
mean. Instances are held as far as a row needs them: hashes of theirs, and one file's statistics.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llmanac.core.files import read_table
from llmanac.data.json_rows import array_rows
from llmanac.data.quarantine import Problems
from llmanac.evaluate.verdict.items import Row, Task

TITLE = "HELM"
KEYS = ({"instance_id", "train_trial_index", "stats"},)


def read(path: Path, problems: Problems) -> tuple[Task, Iterator[Row]]:
    beside = path.with_name("run_spec.json")
    spec = read_table(beside, most=1 << 26) if beside.is_file() else {}
    adapter = spec.get("adapter_spec") or {}
    name = str(spec.get("name") or path.parent.name)
    name = re.sub(r",?model=[^,]*|,?model_deployment=[^,]*", "", name).rstrip(":")
    settings = {
        "shots": str(adapter.get("max_train_instances")), "instructions": str(adapter.get("instructions")),
        "generation": json.dumps([adapter.get(key) for key in ("temperature", "max_tokens", "num_outputs")]),
    } if adapter else {}  # fmt: skip
    return Task(name, path, TITLE, settings, model=str(adapter.get("model") or "")), _rows(path, problems)


def _rows(path: Path, problems: Problems) -> Iterator[Row]:
    beside = path.with_name("instances.json")
    asked: dict[str, Mapping[str, Any]] = {}
    if beside.is_file():
        for row in array_rows(beside, problems):
            asked[_named(row.values, "id")] = row.values
    merged: dict[tuple[str, int], tuple[int, dict[str, float]]] = {}
    for row in array_rows(path, problems):
        key = (_named(row.values, "instance_id"), int(row.values.get("train_trial_index") or 0))
        scores = merged.setdefault(key, (row.line, {}))[1]
        for one in row.values.get("stats") or ():
            if one.get("count") and one["name"].get("split", "test") == "test":
                scores[str(one["name"]["name"])] = one.get("sum", one.get("mean", 0) * one["count"]) / one["count"]
    for (name, trial), (line, scores) in merged.items():
        found = asked.get(name, {})
        text = (found.get("input") or {}).get("text")
        right = [(one.get("output") or {}).get("text") for one in found.get("references", ()) if one.get("tags")]
        document = None if text is None else {"input": text, "name": name if "/" in name else ""}
        yield Row(line, name, document, scores, target=right or None, sample=trial + 1, prompts=(text,) if text else (),
                  fields={"id": name, "split": found.get("split"), **(found.get("extra_data") or {})})  # fmt: skip


def _named(values: Mapping[str, Any], key: str) -> str:
    """The instance, with its perturbation where it has one."""
    changed = values.get("perturbation")
    return f"{values.get(key)}" + (f"/{json.dumps(changed, sort_keys=True)}" if changed else "")
