"""Documents through stages in small batches; each document is accounted for, and each stage has a time limit.

A batch goes through a stage in one call, which costs little. Where the stage fails on it or takes too long, the batch
goes through again document by document, so that one document is dropped and its neighbours are not. Batches never
change what comes out: what happens to a document does not depend on another.

The time one document may take: CPU seconds of this process, so that a busy machine changes nothing.

Python code, also `re`, stops at the limit. Compiled code that does not come back to Python cannot be stopped from
inside; the parent process ends it (`local.py`).
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from llmanac.core.errors import DataError, LlmanacError
from llmanac.data.documents import Document
from llmanac.data.pipeline.records import encoded, json_line
from llmanac.data.stages import Dropped, Stage

AGAIN = 1.0  # seconds after which a limit that was swallowed strikes again


class TimeLimit(BaseException):
    """Raised inside the work that took too long. Not an Exception, so that no stage mistakes it for its own."""


class Limit:
    """`with limit: work()` raises TimeLimit when the work has used `seconds` of CPU. Does not nest.

    Where the system has no such timer (Windows), or outside the main thread, it does nothing.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._armed = False
        self._works = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
        if self._works:
            signal.signal(signal.SIGPROF, self._strike)

    def _strike(self, number: int, frame: FrameType | None) -> None:
        if self._armed:
            raise TimeLimit

    def __enter__(self) -> Limit:
        if self._works:
            self._armed = True
            signal.setitimer(signal.ITIMER_PROF, self.seconds, AGAIN)
        return self

    def __exit__(self, *_: object) -> None:
        self._armed = False
        if self._works:
            signal.setitimer(signal.ITIMER_PROF, 0.0)


BATCH_DOCUMENTS = 64
BATCH_CHARACTERS = 1 << 20
DETAIL = 300  # characters of a detail that the lists keep
FAILING = 20  # failures of one stage in one shard that, with nothing but failures, stop the build


class PendingDocument(NamedTuple):
    """A document under way: its place in the task's input, and its text in UTF-8."""

    number: int
    document: Document
    data: bytes


@dataclass
class StageCounts:
    """What one stage did to one shard."""

    documents_in: int = 0
    documents_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    changed: int = 0
    dropped: dict[str, int] = field(default_factory=dict)

    def enter(self, size: int) -> None:
        """A document of `size` bytes came to the stage."""
        self.documents_in += 1
        self.bytes_in += size

    def leave(self, size: int) -> None:
        """A document of `size` bytes was let through."""
        self.documents_out += 1
        self.bytes_out += size

    def add(self, other: dict[str, Any]) -> None:
        """Add the counts of another shard, as JSON."""
        for name in ("documents_in", "documents_out", "bytes_in", "bytes_out", "changed"):
            setattr(self, name, getattr(self, name) + other[name])
        for reason, count in other["dropped"].items():
            self.dropped[reason] = self.dropped.get(reason, 0) + count

    def as_json(self) -> dict[str, Any]:
        """Plain data; reasons in alphabetical order."""
        return {**vars(self), "dropped": dict(sorted(self.dropped.items()))}


class Ledger:
    """Counts, and one file a stage with a line for each document it dropped, in `folder`."""

    def __init__(self, folder: Path, texts: bool) -> None:
        self.folder, self.texts = folder, texts
        self.counts: dict[str, StageCounts] = {}
        self._files = contextlib.ExitStack()
        self._handles: dict[str, Any] = {}

    def of(self, key: str) -> StageCounts:
        return self.counts.setdefault(key, StageCounts())

    def drop(self, key: str, name: str, reason: str, detail: str, text: str | None = None) -> None:
        """A document that stage `key` did not let through."""
        counts = self.of(key).dropped
        counts[reason] = counts.get(reason, 0) + 1
        if key not in self._handles:
            handle = open(self.folder / f"dropped-{key}.jsonl", "wb", buffering=1 << 16)  # noqa: SIM115
            self._handles[key] = self._files.enter_context(handle)
        line = {"id": name, "stage": key.partition("-")[2], "reason": reason, "detail": detail[:DETAIL]}
        if self.texts and text is not None:
            line["text"] = text
        self._handles[key].write(json_line(line))

    def passed(self, key: str, before: PendingDocument, after: Document) -> PendingDocument | None:
        """A document that stage `key` let through, perhaps changed; None when its new text is no Unicode."""
        counts = self.of(key)
        same = after.text is before.document.text or after.text == before.document.text
        data = before.data if same else encoded(after)
        if data is None:
            self.drop(key, after.id, "not-unicode", "its text holds half a surrogate pair")
            return None
        counts.leave(len(data))
        counts.changed += not same
        return PendingDocument(before.number, after, data)

    def close(self) -> None:
        self._files.close()


class Chain:
    """Consecutive stages as one pass.

    Args:
        stages: `(key, stage)` in order.
        fatal: stop at the first document that a stage fails on.
        skip: documents known to take too long: `{(key, index)}`.
        beat: called before each call with what is being worked on: `(key, index, count, id)`.
        batch: documents a call; 1 while the document that blocks a process is looked for.
    """

    def __init__(
        self,
        stages: Sequence[tuple[str, Stage]],
        ledger: Ledger,
        limit: Limit,
        *,
        fatal: bool,
        skip: frozenset[tuple[str, int]] = frozenset(),
        beat: Callable[[str, int, int, str], None] = lambda key, index, count, name: None,
        batch: int = BATCH_DOCUMENTS,
    ) -> None:
        self.stages, self.ledger, self.limit, self.fatal = stages, ledger, limit, fatal
        self.skip, self.beat, self.batch = skip, beat, batch
        self._failures: dict[str, int] = {}
        self._sizes = {key: batch for key, _ in stages}

    def run(self, items: Iterable[PendingDocument]) -> Iterator[PendingDocument]:
        """The documents that come through every stage."""
        if not self.stages:
            yield from items
            return
        for batch in self._batches(items):
            left = batch
            for key, stage in self.stages:
                left = self._stage(key, stage, left)
                if not left:
                    break
            yield from left

    def _batches(self, items: Iterable[PendingDocument]) -> Iterator[list[PendingDocument]]:
        batch: list[PendingDocument] = []
        held = 0
        for item in items:
            batch.append(item)
            held += len(item.data)
            if len(batch) >= self.batch or held >= BATCH_CHARACTERS:
                yield batch
                batch, held = [], 0
        if batch:
            yield batch

    def _stage(self, key: str, stage: Stage, batch: list[PendingDocument]) -> list[PendingDocument]:
        counts = self.ledger.of(key)
        for item in batch:
            counts.enter(len(item.data))
        out: list[PendingDocument] = []
        size = self._sizes[key]
        for start in range(0, len(batch), size):
            out += self._call(key, stage, batch[start : start + size])
        return out

    def _call(self, key: str, stage: Stage, batch: list[PendingDocument]) -> list[PendingDocument]:
        if self.skip and len(batch) == 1 and (key, batch[0].number) in self.skip:
            return self._fail(key, batch[0], "timeout", self._late())
        if self.skip and any((key, item.number) in self.skip for item in batch):
            return [kept for item in batch for kept in self._call(key, stage, [item])]
        self.beat(key, batch[0].number, len(batch), batch[0].document.id)
        late = False
        try:
            with self.limit:
                found = list(stage.apply([item.document for item in batch]))
        except LlmanacError:
            raise  # the stage itself cannot work: a library or a file is missing
        except TimeLimit:
            if len(batch) == 1:
                return self._fail(key, batch[0], "timeout", self._late())
            late = True
        except Exception as error:
            if len(batch) == 1:
                detail = f"{type(error).__name__}: {error}"
                return self._fail(key, batch[0], "error", detail)
        else:
            return self._sort(key, batch, found)
        out = [kept for item in batch for kept in self._call(key, stage, [item])]
        if late:  # smaller batches from here on: all of them together took longer than one may
            self._sizes[key] = max(1, self._sizes[key] // 2)
        return out

    def _late(self) -> str:
        return f"more than {self.limit.seconds:g} s of CPU (limits.timeout)"

    def _sort(self, key: str, batch: list[PendingDocument], found: list[Document | Dropped]) -> list[PendingDocument]:
        check_answers(key, [item.document.id for item in batch], [answer_id(answer) for answer in found])
        out: list[PendingDocument] = []
        for item, answer in zip(batch, found, strict=True):
            if isinstance(answer, Dropped):
                self.ledger.drop(key, answer.document.id, answer.reason, answer.detail, answer.document.text)
            elif kept := self.ledger.passed(key, item, answer):
                out.append(kept)
        self._failures[key] = -1  # something came through: the stage works
        return out

    def _fail(self, key: str, item: PendingDocument, reason: str, detail: str) -> list[PendingDocument]:
        if self.fatal:
            raise DataError(f"{key}: {item.document.id}: {detail}; fix it, or leave on_error at 'skip' to drop it")
        self.ledger.drop(key, item.document.id, reason, detail, item.document.text)
        if reason == "error" and self._failures.get(key, 0) >= 0:
            self._failures[key] = self._failures.get(key, 0) + 1
            if self._failures[key] >= FAILING:
                raise LlmanacError(
                    f"stage {key} failed on each of the first {FAILING} documents of a shard, the last time with "
                    f"{detail!r}; fix the stage or its fields"
                )
        return []


def answer_id(answer: Document | Dropped) -> str:
    """The id of the document that a stage's answer is about."""
    return answer.document.id if isinstance(answer, Dropped) else answer.id


def check_answers(key: str, asked: Sequence[str], given: Sequence[str]) -> None:
    """Hold a stage to its protocol: one answer a document, in order. Raises LlmanacError that names the stage."""
    if list(asked) != list(given):
        place = next((n for n, (a, b) in enumerate(zip(asked, given, strict=False)) if a != b), len(given))
        missing = asked[place] if place < len(asked) else "none"
        raise LlmanacError(
            f"stage {key} gave {len(given)} answers for {len(asked)} documents, or others (first at {missing!r}); "
            "a stage answers each document once, in order, and keeps its id"
        )
