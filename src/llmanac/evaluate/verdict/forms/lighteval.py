"""lighteval's `details_TASK_DATE.parquet` (from 0.10 on): columns doc, metric and model_response."""

import re
from collections.abc import Iterator
from pathlib import Path

from llmanac.data.quarantine import Problems
from llmanac.data.readers import table_rows
from llmanac.evaluate.verdict.items import LogRow, Task

TITLE = "lighteval"
KEYS = ({"doc", "metric"},)
NAME = re.compile(r"details_(.+)_(\d{4}-\d\d-\d\dT.+)\.parquet")
COLUMNS = ("doc", "metric")  # the third has the logits of all tokens


def read(path: Path, problems: Problems) -> tuple[Task, Iterator[LogRow]]:
    named = NAME.fullmatch(path.name)
    name, _, shots = named[1].rpartition("|") if named else ("", "", "")
    settings = {"shots": shots} if shots else {}
    return Task(name or (named[1] if named else ""), path, TITLE, settings), _rows(path, problems)


def _rows(path: Path, problems: Problems) -> Iterator[LogRow]:
    for row in table_rows(path, problems, columns=COLUMNS):
        doc, scores = row.values["doc"], row.values["metric"]
        own = {key: doc.get(key) for key in ("query", "choices", "specific")}
        prompts = [f"{one.get('query')}{one.get('choices')}" for one in doc.get("fewshot_samples") or ()]
        yield LogRow(
            row.line, str(doc.get("id") or row.line), own, {key: one for key, one in scores.items() if one is not None},
            target=doc.get("gold_index"), prompts=(str(doc.get("instruction")), *prompts, str(doc.get("query"))),
            fields={**own, **(doc.get("specific") or {})},
        )  # fmt: skip
