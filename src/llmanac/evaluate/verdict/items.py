"""The rows of an evaluation's log, held small: hashes, scores and the place of each item, not its prompt."""

import hashlib
import json
import math
import re
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from llmanac.core.errors import SpecError, nearest, shown
from llmanac.evaluate.verdict.aggregates import statistics_of

HASHES = ("name", "document", "target", "prompt", "plain", "turns")
# what chat templates put around a message
MARK = re.compile(
    r"<\|[^|<>\n]{1,40}\|>(?:(?:system|user|assistant|model|tool|human)\b)?|<｜[^｜<>\n]{1,40}｜>"
    r"|<(?:start|end)_of_turn>(?:user|model|system)?|\[/?INST\]|<</?SYS>>|</?s>|<(?:bos|eos)>|<think>\s*</think>"
)
SYSTEM = re.compile(
    r"(?P<open><\|im_start\|>\s*system\b|<\|start_header_id\|>\s*system\s*<\|end_header_id\|>|<\|system\|>|<<SYS>>)"
    r"|<\|im_end\|>|<\|eot_id\|>|<\|end\|>|<</SYS>>|</s>|<\|user\|>"
)


@dataclass(frozen=True)
class LogRow:
    """One answer, as its form reads it.

    Attributes:
        place: its line, row, element or member of the file, from 1.
        name: what the log calls the item.
        document: what was asked, before any template; None where the log has only the name.
        scores: by metric a number, or the pair that an aggregate is of; None where it is missing.
        target: the right answer; sample: what tells a repeated answer from the others.
        prompts: as the model got them, texts or lists of messages.
        answer: the model's.
        fields: what `--group` and `--slices` may name.
        task, filter: where the file holds several; failed: why it has no score.
    """

    place: int
    name: str
    document: Any
    scores: Mapping[str, Any]
    target: Any = None
    sample: Any = 1
    prompts: Sequence[Any] = ()
    answer: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    task: str | None = None
    filter: str = ""
    failed: str = ""


@dataclass(frozen=True)
class Task:
    """What a file of a log says of all its rows.

    Attributes:
        settings: version, shots, system prompt, template and others, as far as the log states them.
        higher: by metric whether more is better, where the log says so.
        members: names of a zip's members, in the order of places.
        model: as the log calls it; unfinished: what shows that the run did not end.
    """

    name: str
    path: Path
    form: str
    settings: Mapping[str, str] = field(default_factory=dict)
    higher: Mapping[str, bool] = field(default_factory=dict)
    members: Sequence[str] = ()
    model: str = ""
    unfinished: str = ""

    def where(self, place: int) -> str:
        """A place as messages name it."""
        return f"{self.path}:{self.members[place - 1] if self.members else place}"


def digest(value: Any) -> int:
    """A hash of 64 bits of a text or of JSON data; 0 of None."""
    if value is None:
        return 0
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=True, default=str)
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


FIRST = digest(1)  # of what is answered once


def message_text(content: Any) -> str:
    """The text of a message; other parts as JSON."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    texts = (part.get("text", part) if isinstance(part, Mapping) else part for part in parts)
    return "".join(text if isinstance(text, str) else json.dumps(text, sort_keys=True, default=str) for text in texts)


def without_template(prompt: Any) -> tuple[str, str]:
    """`(text, turns)` of a prompt without what a chat template puts around messages.

    A template also adds and takes away white space: each run of it is a space. `turns` is the text without that of the
    system's turn.
    """
    if not isinstance(prompt, str):  # messages: no template wrote a turn of its own
        text = " ".join("\n".join(message_text(turn.get("content", "")) for turn in prompt).split())
        return text, text
    rest, end, opened = [], 0, None
    for mark in SYSTEM.finditer(prompt) if "<" in prompt else ():
        if mark["open"]:
            opened = opened or mark
        elif opened:
            rest.append(prompt[end : opened.start()])
            end, opened = mark.end(), None
    rest.append(prompt[end:])
    return " ".join(MARK.sub(" ", prompt).split()), " ".join(MARK.sub(" ", " ".join(rest)).split())


def number(value: Any) -> float | None:
    """A score as a number, which true and false are; None for anything else."""
    if isinstance(value, str):
        value = {"true": 1, "false": 0}.get(value.lower(), value)
    try:
        return float(value) if isinstance(value, (int, float, str)) else None
    except ValueError:
        return None


def looked_up(row: LogRow, path: str) -> str | None:
    """The value of a dotted field of a row, as text; None where it has none."""
    value: Any = row.fields
    for step in path.split("."):
        if not isinstance(value, Mapping) or step not in value:
            return None
        value = value[step]
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)


class Items:
    """The rows of one task, and of one filter of answers, in columns.

    Attributes:
        hashes: by name of HASHES a number a row, 0 where the log has no such thing, and of `sample`; empty as long as
            documents are the names, each is answered once, or there is no such thing. places: one a row. scores:
            by metric (rows, K) numbers, NaN where a row has none.
        labels: `--group` and `--slices`: a number a row, and the texts they number.
        marked: whether a prompt is messages, or has a template's marks.
        failed: rows without a score, and why; bad: the first score of each metric that is no finite number.
    """

    def __init__(self, task: Task, name: str, filter: str, fields: Sequence[str]) -> None:
        self.task, self.name, self.filter = task, name, filter
        self.hashes = {each: array("Q") for each in (*HASHES, "sample")}
        self.places = array("q")
        self.columns: dict[str, array[float]] = {}
        self.widths: dict[str, int] = {}
        self.labels: dict[str, tuple[array[int], dict[str, int]]] = {each: (array("q"), {}) for each in fields}
        self.marked = False
        self.failed: list[tuple[int, str, str]] = []
        self.bad: dict[str, tuple[int, str]] = {}

    def __len__(self) -> int:
        return len(self.places)

    def add(self, row: LogRow) -> None:
        """Hold a row. Raises SpecError for a field of `--group` or `--slices` that it has not."""
        if row.failed:
            self.failed.append((row.place, row.name, row.failed))
            return
        self.places.append(row.place)
        texts = [without_template(prompt) for prompt in row.prompts]
        joined = ["\n".join(parts) if texts else None for parts in zip(*texts, strict=True)] or [None] * 2
        self.marked |= any(not isinstance(one, str) or MARK.search(one) is not None for one in row.prompts)
        document = row.name if row.document is None else row.document
        prompts = list(row.prompts) or None
        values = (row.name, document, row.target, prompts, joined[0], joined[1], row.sample)
        for each, value in zip(self.hashes, values, strict=True):
            self._hash(each, digest(value))
        for name, value in row.scores.items():
            self._score(name, value, row.place)
        for path, (codes, texts_of) in self.labels.items():
            label = looked_up(row, path)
            if label is None:
                known = ", ".join(row.fields)
                where = self.task.where(row.place)
                raise SpecError(f"{where}: has no field {path!r}{nearest(path, row.fields)} (has: {known})")
            codes.append(texts_of.setdefault(label, len(texts_of)))

    def _hash(self, name: str, value: int) -> None:
        column, before = self.hashes[name], len(self) - 1
        usual = self.hashes["name"][-1] if name == "document" else FIRST if name == "sample" else 0
        if name == "name" or column or value != usual:
            if len(column) < before:  # the rows until now were as usual
                column.frombytes(self.hashed(name)[:before].tobytes())
            column.append(value)

    def _score(self, name: str, value: Any, place: int) -> None:
        found = statistics_of(name, value)
        if found is None:
            one = number(value)
            found = (math.nan if one is None else one,)
            if not abs(found[0]) < 1e100:  # whose square is still a number
                found = (math.nan,)
                self.bad.setdefault(name, (place, shown(value)))
        width = self.widths.setdefault(name, len(found))
        column = self.columns.setdefault(name, array("d"))
        column.extend([math.nan] * (width * (len(self.places) - 1) - len(column)))  # rows before it without this score
        column.extend(found if len(found) == width else [math.nan] * width)

    def values(self, metric: str) -> np.ndarray:
        """(rows, K) what a metric is of."""
        width, column = self.widths[metric], np.frombuffer(self.columns[metric], np.float64)
        missing = width * len(self) - len(column)
        return np.concatenate([column, np.full(missing, np.nan)]).reshape(-1, width)

    def hashed(self, name: str) -> np.ndarray:
        """(rows,) uint64 of one of `hashes`."""
        if column := self.hashes[name]:
            return np.frombuffer(column, np.uint64)
        if name == "document":
            return self.hashed("name")
        return np.broadcast_to(np.uint64(FIRST if name == "sample" else 0), len(self))

    def named(self, path: str) -> tuple[np.ndarray, list[str]]:
        """(rows,) numbers of a field's values, and the values."""
        codes, texts = self.labels[path]
        return np.frombuffer(codes, np.int64), list(texts)

    def label(self, metric: str) -> str:
        """A metric with the filter that answers went through."""
        return f"{metric},{self.filter}" if self.filter else metric


@dataclass
class Log:
    """One system's log: its items by task and filter, and how to read rows of a file again."""

    label: str
    items: dict[tuple[str, str], Items] = field(default_factory=dict)
    readers: dict[Path, Callable[[], Any]] = field(default_factory=dict)

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(name for name, _ in self.items))
