"""HELM's `per_instance_stats.json`, with the `scenario_state.json` and `run_spec.json` of its run next to it.

An instance may have entries for each trial, which are its repeated answers, and each perturbation. The value of a
statistic is its mean. The statistics are held while the prompts are read.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmanac.core.files import read_table
from llmanac.data.json_rows import array_rows, members
from llmanac.data.quarantine import Problems
from llmanac.evaluate.verdict.items import LogRow, Task

TITLE = "HELM"
KEYS = ({"instance_id", "train_trial_index", "stats"},)
COUNTS = re.compile("num_|max_prob|logprob|predicted_index|finish_reason|inference_|training_|prompt_|batch_")


def read(path: Path, problems: Problems) -> tuple[Task, Iterator[LogRow]]:
    beside = path.with_name("run_spec.json")
    spec = read_table(beside, most=1 << 26) if beside.is_file() else {}
    adapter = spec.get("adapter_spec") or {}
    name = str(spec.get("name") or "")
    name = re.sub(r",?model=[^,]*|,?model_deployment=[^,]*", "", name).rstrip(":")
    settings = {
        "shots": str(adapter.get("max_train_instances")), "instructions": str(adapter.get("instructions")),
        "generation": json.dumps([adapter.get(key) for key in ("temperature", "max_tokens", "num_outputs")]),
    } if adapter else {}  # fmt: skip
    main = [name for one in spec.get("metric_specs") or () for name in (one.get("args") or {}).get("names") or ()]
    task = Task(name, path, TITLE, settings, model=str(adapter.get("model") or ""))
    return task, _rows(path, problems, main)


def _rows(path: Path, problems: Problems, main: Sequence[str]) -> Iterator[LogRow]:
    merged: dict[tuple[str, int], tuple[int, dict[str, float]]] = {}
    for row in array_rows(path, problems):
        key = _named(row.values, row.values, row.values["instance_id"])
        scores = merged.setdefault(key, (row.line, {}))[1]
        for one in row.values["stats"]:
            if one.get("count"):
                value, name = one["sum"] / one["count"], str(one["name"]["name"])
                if name in scores and scores[name] != value:
                    problems.report(path, row.line, f"{name} of {key[0]} has another value in an earlier row")
                scores[name] = value
    beside = path.with_name("scenario_state.json")
    asked = members(beside, problems, ("request_states",)) if beside.is_file() else ()
    for keys, state in asked:
        found = state["instance"] if len(keys) > 1 else {}
        key = _named(found, state, str(found.get("id")))
        if key in merged:  # the first request of an instance: others are of its other references
            document = {"input": found["input"].get("text"), "perturbation": found.get("perturbation")}
            yield _row(
                key, merged.pop(key), main, document=document,
                target=[one["output"]["text"] for one in found.get("references", ()) if one.get("tags")] or None,
                answer=((state.get("result") or {}).get("completions") or [{}])[0].get("text", ""),
                prompts=(state["request"].get("prompt") or state["request"].get("messages") or (),),
                fields={"split": found.get("split"), **(found.get("extra_data") or {})},
            )  # fmt: skip
    yield from (_row(key, found, main, document=None) for key, found in merged.items())


def _row(key: tuple[str, int], found: tuple[int, dict[str, float]], main: Sequence[str], **more: Any) -> LogRow:
    """A row whose first scores are those that the run is about, and whose last are counts of tokens and times."""
    line, scores = found
    names = (*main, *sorted(scores, key=lambda name: COUNTS.match(name) is not None))
    ordered = {name: scores[name] for name in names if name in scores}
    return LogRow(line, key[0], scores=ordered, sample=key[1] + 1, **more)


def _named(instance: Mapping[str, Any], trial: Mapping[str, Any], name: str) -> tuple[str, int]:
    """The instance with its perturbation, where it has one, and the number of its trial."""
    changed = instance.get("perturbation")
    full = f"{name}/{json.dumps(changed, sort_keys=True)}" if changed else name
    return full, int(trial.get("train_trial_index") or 0)
