"""A table with an `id` and scores: CSV, JSON Lines, JSON or Parquet. Columns: id, score, and as many more as it has.

`task`, `sample` (of repeated answers), `prompt`, `target`, `answer` are read as such; every other column of numbers is
a metric, and each column may be named by `--group` and `--slices`.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llmanac.data.quarantine import Problems
from llmanac.data.readers import table_rows
from llmanac.evaluate.verdict.items import LogRow, Task, number

TITLE = "a table with columns id and score"
KEYS = ({"id", "score"},)
KNOWN = ("id", "task", "sample", "prompt", "target", "answer")


def _metrics(row: Mapping[str, Any]) -> list[str]:
    """`score`, and every column with a number or nothing in the first row, which says what all have."""
    others = (key for key, value in row.items() if number(value) is not None or value in ("", None))
    return ["score", *(key for key in others if key not in ("score", *KNOWN))]


def read(path: Path, problems: Problems) -> tuple[Task, Iterator[LogRow]]:
    return Task("", path, TITLE), _rows(path, problems)


def _rows(path: Path, problems: Problems) -> Iterator[LogRow]:
    metrics: list[str] = []
    for row in table_rows(path, problems):
        values = row.values
        metrics = metrics or _metrics(values)
        prompt = values.get("prompt")
        yield LogRow(
            row.line, str(values.get("id")), None, {name: values.get(name) for name in metrics},
            target=values.get("target"), sample=values.get("sample"),
            prompts=() if prompt is None else (prompt if isinstance(prompt, list) else str(prompt),),
            answer=str(values.get("answer", "")), fields=values, task=values.get("task"),
        )  # fmt: skip
