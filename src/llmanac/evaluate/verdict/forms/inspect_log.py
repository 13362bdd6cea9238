"""Inspect's logs: `.eval` (a zip with a member a sample, its members packed by deflate or zstd) and `.json`.

A sample has id, epoch, input, target, the messages, and scores by scorer. C, I, P and N are 1, 0, 1/2 and 0.
"""

import itertools
import json
import zipfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from llmanac.data.json_rows import members
from llmanac.data.quarantine import Problems, Unreadable
from llmanac.evaluate.verdict.items import LogRow, Task, message_text

TITLE = "Inspect"
KEYS = ({"version", "status", "eval"},)
LETTERS = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}
MOST = 1 << 28  # bytes of a sample
ZSTD = 93  # the number of this method in zip files; Python's own reader knows it from 3.14 on


def read(path: Path, problems: Problems) -> tuple[Task, Iterator[LogRow]]:
    if path.suffix == ".eval":
        return _zipped(path)
    head: dict[str, Any] = {}
    for keys, value in members(path, problems, ("samples",)):
        if len(keys) > 1:
            break  # samples follow what is said of all of them
        head[str(keys[0])] = value
    every = members(path, problems, ("samples",))
    return _task(path, head), (_row(int(keys[1]), value) for keys, value in every if len(keys) > 1)


def _task(path: Path, head: Mapping[str, Any], names: Collection[str] = ()) -> Task:
    own, plan = head.get("eval") or {}, head.get("plan") or {}
    status = head.get("status", "started")
    settings = {
        "version": str(own.get("task_version")), "task arguments": json.dumps(own.get("task_args"), sort_keys=True),
        "solvers": json.dumps(plan.get("steps"), sort_keys=True),
        "generation": json.dumps([own.get("model_generate_config"), plan.get("config")], sort_keys=True),
    }  # fmt: skip
    unfinished = "" if status == "success" else f"its status is {status!r}, not 'success'"
    name = str(own.get("task", "")).rpartition("/")[2]
    return Task(name, path, TITLE, settings, {}, tuple(names), str(own.get("model", "")), unfinished)


def _zipped(path: Path) -> tuple[Task, Iterator[LogRow]]:
    file = zipfile.ZipFile(path)
    names = file.namelist()
    samples = [name for name in names if name.startswith("samples/") and name.endswith(".json")]
    head = _member(path, file, "header.json" if "header.json" in names else "_journal/start.json")
    rows = (_row(place, _member(path, file, name)) for place, name in enumerate(samples, 1))
    return _task(path, head, samples), rows


def _member(path: Path, file: zipfile.ZipFile, name: str) -> Any:
    info = file.getinfo(name)
    if info.file_size > MOST:
        raise Unreadable(f"{path}:{name}", f"{info.file_size:,} bytes, more than {MOST:,} for a sample", "too-large")
    return json.loads(_unpacked(path, file, info))


def _unpacked(path: Path, file: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    if info.compress_type != ZSTD:
        return file.read(info)
    import pyarrow

    with open(path, "rb") as raw:
        raw.seek(info.header_offset + 26)
        sizes = [int.from_bytes(raw.read(2), "little") for _ in range(2)]
        raw.seek(info.header_offset + 30 + sum(sizes))
        packed = raw.read(info.compress_size)
    with pyarrow.CompressedInputStream(pyarrow.BufferReader(packed), "zstd") as stream:
        found: bytes = stream.read(MOST)
    return found


def _row(place: int, sample: Mapping[str, Any]) -> LogRow:
    kept = sample.get("attachments") or {}

    def said(message: Mapping[str, Any]) -> dict[str, str]:
        return {"role": str(message.get("role")), "content": _resolved(message_text(message.get("content", "")), kept)}

    given = sample.get("input", "")
    asked = _resolved(given, kept) if isinstance(given, str) else [said(one) for one in given]
    turns = itertools.takewhile(lambda turn: turn.get("role") != "assistant", sample.get("messages") or ())
    before = [said(turn) for turn in turns]
    answer = ((sample.get("output") or {}).get("choices") or [{}])[0].get("message") or {}
    scores: dict[str, Any] = {}
    for scorer, found in (sample.get("scores") or {}).items():
        value = found.get("value") if isinstance(found, Mapping) else found
        named = {f"{scorer}/{key}": v for key, v in value.items()} if isinstance(value, Mapping) else {scorer: value}
        scores |= {key: LETTERS.get(v, v) if isinstance(v, str) else v for key, v in named.items()}
    error = (sample.get("error") or {}).get("message", "")
    failed = f"ended with an error ({str(error)[:80]})" if error else "" if scores else "has no score"
    fields = {"id": sample.get("id"), "metadata": sample.get("metadata") or {}, **(sample.get("metadata") or {})}
    return LogRow(
        place, str(sample.get("id")), {"input": asked, "choices": sample.get("choices")}, scores,
        target=sample.get("target"), sample=int(sample.get("epoch") or 1), prompts=(before or asked,),
        answer=_resolved(message_text(answer.get("content", "")), kept), fields=fields, failed=failed,
    )  # fmt: skip


def _resolved(text: str, kept: Mapping[str, str]) -> str:
    """Long texts are kept apart, once."""
    return kept.get(text.removeprefix("attachment://"), text) if text.startswith("attachment://") else text
