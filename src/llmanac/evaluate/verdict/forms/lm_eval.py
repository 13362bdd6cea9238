"""lm-eval's `samples_TASK_DATE.jsonl` (`--log_samples`), with the `results_DATE.json` next to it.

A row has doc_id, doc, target, the arguments of each request, the filter of the answers, and a key a metric.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from llmanac.core.files import read_table
from llmanac.data.quarantine import Problems
from llmanac.data.readers import table_rows
from llmanac.evaluate.verdict.items import Row, Task

TITLE = "lm-eval"
NAME = re.compile(r"samples_(.+)_(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d[.\d]*)\.jsonl")
FIXED = {
    "doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics", "doc_hash", "prompt_hash",
    "target_hash",
}  # fmt: skip


def recognises(path: Path, keys: Collection[Any], first: Mapping[str, Any]) -> bool:
    return {"doc_id", "resps"} <= set(keys)


def read(path: Path, problems: Problems) -> tuple[Task, Iterator[Row]]:
    named = NAME.fullmatch(path.name)
    name, date = named.groups() if named else ("", "")
    beside = path.with_name(f"results_{date}.json")
    settings: dict[str, str] = {}
    higher: dict[str, bool] = {}
    model = ""
    if named and beside.is_file():
        found = read_table(beside, most=1 << 28)
        for label, table in (("version", "versions"), ("shots", "n-shot")):
            settings[label] = str((found.get(table) or {}).get(name))
        settings["system prompt"] = str(found.get("system_instruction"))
        settings["template"] = str(found.get("chat_template_sha"))
        config = (found.get("configs") or {}).get(name) or {}
        settings["generation"] = json.dumps(
            [config.get("generation_kwargs"), (found.get("config") or {}).get("gen_kwargs")]
        )
        higher = {k: v for k, v in ((found.get("higher_is_better") or {}).get(name) or {}).items() if v is not None}
        model = str(found.get("model_name") or "")
    return Task(name, path, TITLE, settings, higher, model=model), _rows(path, problems)


def _rows(path: Path, problems: Problems) -> Iterator[Row]:
    for row in table_rows(path, problems):
        values = row.values
        names = values.get("metrics") or [key for key in values if key not in FIXED]
        requests = values.get("arguments") or {}
        requests = requests.values() if isinstance(requests, Mapping) else requests
        pairs = [list(one.values()) if isinstance(one, Mapping) else list(one) for one in requests]
        # a request's second argument is the text of a choice, or how to generate
        prompts = [_prompt(part) for pair in pairs for part in pair[:2] if isinstance(part, str)]
        document = values.get("doc") or values.get("doc_hash")
        answers = values.get("filtered_resps") or values.get("resps")
        kind = values.get("filter") or "none"
        yield Row(
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
