"""lm-eval's `samples_TASK_DATE.jsonl` (`--log_samples`), with the `results_DATE.json` next to it.

A row has doc_id, doc, target, the arguments of each request, the filter of the answers, and a key a metric.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llmanac.core.files import read_table
from llmanac.data.quarantine import Problems
from llmanac.data.readers import table_rows
from llmanac.evaluate.verdict.items import LogRow, Task

TITLE = "lm-eval"
KEYS = ({"doc_id", "resps"},)
NAME = re.compile(r"samples_(.+)_(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d[.\d]*)\.jsonl")


def read(path: Path, problems: Problems) -> tuple[Task, Iterator[LogRow]]:
    named = NAME.fullmatch(path.name)
    name, date = named.groups() if named else ("", "")
    beside = path.with_name(f"results_{date}.json")
    found = read_table(beside, most=1 << 28) if named and beside.is_file() else {}

    def of_task(table: str) -> Any:
        return (found.get(table) or {}).get(name)

    how = [(of_task("configs") or {}).get("generation_kwargs"), (found.get("config") or {}).get("gen_kwargs")]
    settings = {
        "version": str(of_task("versions")), "shots": str(of_task("n-shot")), "generation": json.dumps(how),
        "system prompt": str(found.get("system_instruction")), "template": str(found.get("chat_template_sha")),
    }  # fmt: skip
    higher = {metric: more for metric, more in (of_task("higher_is_better") or {}).items() if more is not None}
    task = Task(name, path, TITLE, settings if found else {}, higher, model=str(found.get("model_name") or ""))
    return task, _rows(path, problems)


def _rows(path: Path, problems: Problems) -> Iterator[LogRow]:
    for row in table_rows(path, problems):
        values = row.values
        names = values.get("metrics") or [key for key, one in values.items() if isinstance(one, float)]
        requests = values.get("arguments") or {}
        requests = requests.values() if isinstance(requests, Mapping) else requests
        pairs = [list(one.values()) if isinstance(one, Mapping) else list(one) for one in requests]
        # a request's second argument is the text of a choice, or how to generate
        prompts = [_prompt(part) for pair in pairs for part in pair[:2] if isinstance(part, str)]
        document = values.get("doc") or values.get("doc_hash")
        answers = values.get("filtered_resps") or values.get("resps")
        kind = values.get("filter") or "none"
        yield LogRow(
            row.line, str(values.get("doc_id")), document, {str(name): values.get(name) for name in names},
            target=values.get("target"), prompts=tuple(prompts), answer=json.dumps(answers, ensure_ascii=False),
            fields=document if isinstance(document, Mapping) else {}, filter="" if kind == "none" else str(kind),
        )  # fmt: skip


def _prompt(text: str) -> Any:
    """Messages, where the prompt of a chat server was logged as JSON."""
    if text.startswith('[{"role"'):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text
