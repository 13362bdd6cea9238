"""A unit of input as documents: whatever cannot be read is set aside with its reason, and the rest is used."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llmanac.core.errors import DataError
from llmanac.data.documents import Document
from llmanac.data.pipeline.chain import Ledger, Limit, PendingDocument, TimeLimit
from llmanac.data.pipeline.inputs import is_same, prefixes
from llmanac.data.pipeline.recipe import BuildSpec
from llmanac.data.pipeline.records import encoded
from llmanac.data.quarantine import Problems
from llmanac.data.sources.files import documents_of
from llmanac.data.unpack import Span

KEY = "00-read"


class _Recorder(Problems):
    """Puts every problem on the list of dropped documents."""

    def __init__(self, reader: UnitReader, path: str, shown: str) -> None:
        super().__init__("skip", None, reader.recipe.limits.bounds())
        self.reader, self.path, self.shown = reader, path, shown

    def report(self, file: object, line: int | None, reason: str, raw: str = "", *, code: str = "unreadable") -> None:
        if self.reader.recipe.on_error == "fatal":
            where = f"{file}{'' if line is None else f':{line}'}"
            raise DataError(f'{where}: {reason}; fix it, or set on_error="skip" to set such input aside')
        self.counts[str(file)] += 1
        self.reader.leave_out(self._name(file, line), code, reason, raw)

    def blank(self, file: object, line: int | None) -> None:
        self.counts[str(file)] += 1
        self.reader.leave_out(self._name(file, line), "empty", "there is no text in it")

    def pass_over(self, file: object, detail: str, *, code: str) -> None:
        self.reader.leave_out(self._name(file, None), code, detail)

    def _name(self, file: object, line: int | None) -> str:
        inside = str(file).removeprefix(self.path) if str(file).startswith(f"{self.path}/") else ""
        if not self.path:  # a source that reads files of its own
            inside = f"/{Path(str(file)).name}"
        return f"{self.shown}{inside}" if line is None else f"{self.shown}{inside}:{line}"


class UnitReader:
    """Reads one unit.

    Args:
        task: has `input` (its number), `parts`, and perhaps `skip`.
    """

    def __init__(
        self,
        recipe: BuildSpec,
        task: dict[str, Any],
        ledger: Ledger,
        limit: Limit,
        beat: Callable[[str, int, int, str], None],
    ) -> None:
        self.recipe, self.task, self.ledger, self.limit, self.beat = recipe, task, ledger, limit, beat
        self.input = recipe.inputs[task["input"]]
        self.prefix = prefixes(recipe)[task["input"]]
        self.skip = {index for key, index in task.get("skip", ()) if key == KEY}

    def leave_out(self, name: str, reason: str, detail: str, text: str | None = None) -> None:
        """Input that does not become a document."""
        self.ledger.of(KEY).documents_in += 1
        self.ledger.drop(KEY, self.prefix + name, reason, detail, text)

    def items(self) -> Iterator[PendingDocument]:
        """The unit's documents."""
        index = 0
        for number, part in enumerate(self.task["parts"]):
            if number in self.skip:
                self.leave_out(part["shown"], "timeout", f"reading it {self._late()}")
                continue
            for document in self._part(number, part):
                if item := self._item(index, document):
                    yield item
                    index += 1

    def _late(self) -> str:
        return f"took more than {self.limit.seconds:g} s of CPU (limits.timeout)"

    def _part(self, number: int, part: dict[str, Any]) -> Iterator[Document]:
        shown = part["shown"]
        if "aside" in part:
            if self.recipe.on_error == "fatal" and part["aside"][0] == "unreadable":
                raise DataError(f"{part['path']}: {part['aside'][1]}; fix its permissions, or take it out of the input")
            self.leave_out(shown, *part["aside"])
            return
        problems = _Recorder(self, part["path"], shown)
        if not part["path"]:
            documents = self.input.source.documents(problems)
        else:
            path = Path(part["path"])
            span = Span(*part["span"]) if part["span"] else None
            documents = documents_of(path, shown, self.input.source, problems, span)
        # one document of a source that is no file has no limit: it reads a library, or a network
        limit: contextlib.AbstractContextManager[Any] = self.limit if part["path"] else contextlib.nullcontext()
        while True:
            self.beat(KEY, number, 1 if part["path"] else 0, shown)
            try:
                with limit:
                    document = next(documents, None)
            except TimeLimit:
                if self.recipe.on_error == "fatal":
                    raise DataError(f"{shown}: reading it {self._late()}; raise it, or take the file out") from None
                self.leave_out(shown, "timeout", f"reading it {self._late()}; the rest of it is left out")
                break
            except DataError as error:
                if not part["path"] or self.recipe.on_error == "fatal":  # a source that fails is for the user to fix
                    raise
                self.leave_out(shown, error.code or "unreadable", error.reason if error.place else str(error))
                break
            except (MemoryError, RecursionError, ValueError, OSError) as error:
                if self.recipe.on_error == "fatal":
                    raise DataError(f"{shown}: cannot read it ({type(error).__name__}: {error})") from error
                self.leave_out(shown, "unreadable", f"{type(error).__name__}: {error}")
                break
            if document is None:
                break
            yield document
        if part["path"] and not is_same(part):
            raise DataError(f"{part['path']}: it changed while the build read it; build anew when it is finished")

    def _item(self, index: int, document: Document) -> PendingDocument | None:
        counts, limit, data = self.ledger.of(KEY), self.recipe.limits.max_bytes, encoded(document)
        if data is None:
            self.leave_out(document.id, "not-unicode", "its text holds half a surrogate pair")
            return None
        if len(data) > limit:
            detail = f"{len(data):,} bytes of text, more than {limit:,} (limits.max_bytes)"
            self.leave_out(document.id, "too-large", detail)
            return None
        if not data:
            self.leave_out(document.id, "empty", "there is no text in it")
            return None
        counts.enter(len(data))
        counts.leave(len(data))
        meta = dict(document.meta)
        if self.input.domain:
            meta["domain"] = self.input.domain
        return PendingDocument(index, Document(self.prefix + document.id, document.text, document.group, meta), data)
