"""The items of `llmanac evaluate`: `items/NAME.A.jsonl` of its folder of results."""

from collections.abc import Iterator
from pathlib import Path

from llmanac.data.quarantine import Problems
from llmanac.data.readers import table_rows
from llmanac.evaluate.verdict.items import LogRow, Task

TITLE = "llmanac evaluate"
KEYS = ({"benchmark", "item", "prompt", "scores"},)


def read(path: Path, problems: Problems) -> tuple[Task, Iterator[LogRow]]:
    return Task("", path, TITLE), _rows(path, problems)


def _rows(path: Path, problems: Problems) -> Iterator[LogRow]:
    for row in table_rows(path, problems):
        values = row.values
        name = Path(str(values["item"])).name  # a file and its row; the folder may be another
        document = {"item": name, "choices": values.get("choices"), "references": values.get("references")}
        failed = "" if values["scores"] else "is left out by its benchmark"
        yield LogRow(row.line, name, document, values["scores"], target=values.get("references"), failed=failed,
                  prompts=(str(values["prompt"]),), answer=str(values.get("answer")),
                  fields={**(values.get("fields") or {}), **values},
                  task=str(values["benchmark"]))  # fmt: skip
