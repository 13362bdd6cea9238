"""lighteval's `details_TASK_DATE.parquet`: of 2025 the columns doc and metric, before them full_prompt and metrics."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from llmanac.data.quarantine import Problems
from llmanac.data.readers import table_rows
from llmanac.evaluate.verdict.items import Row, Task

TITLE = "lighteval"
NAME = re.compile(r"details_(.+)_(\d{4}-\d\d-\d\dT.+)\.parquet")
# answers hold the logits of all tokens: they are left out
COLUMNS = (
    "doc", "metric", "example", "full_prompt", "instruction", "choices", "gold", "gold_index", "metrics", "specifics",
    "num_asked_few_shots",
)  # fmt: skip


def recognises(path: Path, keys: Collection[Any], first: Mapping[str, Any]) -> bool:
    return {"doc", "metric"} <= set(keys) or {"full_prompt", "metrics"} <= set(keys)


def read(path: Path, problems: Problems) -> tuple[Task, Iterator[Row]]:
    named = NAME.fullmatch(path.name)
    name, _, shots = named[1].rpartition("|") if named else ("", "", "")
    settings = {"shots": shots} if shots else {}
    return Task(name or (named[1] if named else ""), path, TITLE, settings), _rows(path, problems)


def _rows(path: Path, problems: Problems) -> Iterator[Row]:
    for row in table_rows(path, problems, columns=COLUMNS):
        values = row.values
        doc = dict(values.get("doc") or {})
        if doc:
            own = {"query": doc.get("query"), "choices": doc.get("choices"), "specific": doc.get("specific")}
            gold, prompt, scores = doc.get("gold_index"), doc.get("query"), values["metric"]
            examples = doc.get("fewshot_samples") or ()
            prompts = (
                *(f"{one.get('query')}{one.get('choices')}" for one in examples if isinstance(one, Mapping)),
                prompt,
            )
        else:
            own = {"query": values.get("example"), "choices": values.get("choices")}
            gold, scores = values.get("gold_index") or values.get("gold"), values["metrics"]
            prompts = (str(values.get("full_prompt")),)
        scores = {name: value for name, value in scores.items() if value is not None}
        name = str(doc.get("id") or row.line)
        fields = {**own, **(doc.get("specific") or values.get("specifics") or {})}
        yield Row(row.line, name, own, scores, target=gold, prompts=tuple(map(str, prompts)), fields=fields)
