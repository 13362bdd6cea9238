"""The memory's file: one SQLite table of facts; a subject has one value, the newest.

    with Memory("memory.sqlite") as memory:
        memory.read("My sister's name is Ada. I moved to Oslo.")     # a chat's message: facts by rule
        memory.recall("Where do I live?", 3)                          # the facts that a question means
        memory.prompt("Where do I live?")                             # as text for the system message

Recall ranks facts by the weighted share of the question's content words that a fact holds (its sentence and the words
that ask for it), equal ones by how recent they are. Deleted facts are gone from the file.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from llmanac.core.errors import UNSAFE, DataError, RequestError, shown
from llmanac.retrieve.dense import Encode
from llmanac.retrieve.memory.recall import LEAST, Fact, ended, ranked, replaced, unwanted
from llmanac.retrieve.memory.rules import LONGEST, Change, changes_in
from llmanac.retrieve.memory.speech import wants_deletion
from llmanac.retrieve.memory.vectors import Vectors

APPLICATION, VERSION = 0x6C6C6D65, 1  # marks the file as ours
MOST = 10_000  # facts of a file
WAIT = 10.0  # seconds that a change waits for those of other chats
LEAD = "Facts that the user stated in earlier chats, as data (newest last):"
USE = "Use these facts in the answer."  # without it a small model says that it knows nothing of the user
_SCHEMA = """create table facts (id integer primary key, subject text not null unique, value text not null,
 text text not null, cues text not null, stated real not null, number integer not null)"""

_ROWS = {(int, str, str, str, str, stated, int) for stated in (int, float)}  # types of a fact's columns


_NO_TEXT = re.compile(r"[\udc80-\udcff]")  # bytes that are no UTF-8, as Python reads them from a pipe


def _clean(text: str) -> str:
    """Text in one line without characters that control a terminal, turn lines around, or are no characters."""
    return " ".join(UNSAFE.sub(" ", text).split())


class Done(NamedTuple):
    """What a message did: facts that are new or have another value, and facts that are deleted."""

    kept: list[Fact]
    forgot: list[Fact]


class Memory:
    """An open memory; a context manager. The file is made where there is none.

    Args:
        encode: texts to vectors (N, D) of length 1, by which questions in other words find their facts.
        encoder: the name of what encodes; the file keeps the vectors with it.

    Attributes:
        unmet: all facts, where the last message asked to delete something, or told an end, and none was deleted or
            replaced; else None.

    Raises:
        DataError: the file is something else, damaged, or cannot be written; the message names it.
    """

    def __init__(self, path: str | Path, encode: Encode | None = None, encoder: str = "") -> None:
        self.path = Path(path)
        self.unmet: list[Fact] | None = None
        self._stated: set[str] = set()  # subjects of the chat's last message that stated something
        if not self.path.parent.is_dir():
            raise DataError(f"{self.path}: there is no folder {self.path.parent}; make it first")
        if self.path.exists() and not self.path.is_file():
            raise DataError(f"{self.path}: is no file; name another one for the memory")
        with self._named():
            with contextlib.suppress(FileExistsError):  # what is personal is for its owner alone
                os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            self._base = sqlite3.connect(self.path, timeout=WAIT, isolation_level=None)
        try:
            self._open()
            with self._named():
                self._vectors = Vectors(self._base, encode, encoder) if encode is not None else None
        except BaseException:
            self._base.close()
            raise

    def _open(self) -> None:
        with self._named():
            self._base.execute("pragma secure_delete=on")  # what is deleted is overwritten
            if not self._marked():
                with self._at_once():  # of two chats that make the file, the second finds it made
                    if not self._marked():
                        self._base.execute(f"pragma application_id={APPLICATION}")
                        self._base.execute(f"pragma user_version={VERSION}")
                        self._base.execute(_SCHEMA)
            [(state,)] = self._base.execute("pragma quick_check(1)").fetchall()
        if state != "ok":
            raise DataError(f"{self.path}: damaged ({shown(state)}); name another file, or put back a copy")

    def _marked(self) -> bool:
        """Whether the file is a memory; False where it is empty. Raises DataError where it is something else."""
        [(mark,)] = self._base.execute("pragma application_id").fetchall()
        tables = self._base.execute("select count(*) from sqlite_master").fetchone()[0]
        if (tables or mark) and mark != APPLICATION:
            raise DataError(f"{self.path}: is a database of another program; name another file for the memory")
        if self._base.execute("pragma user_version").fetchone()[0] > VERSION:
            raise DataError(f"{self.path}: was written by a later version of llmanac; update llmanac to read it")
        return bool(tables)

    def __enter__(self) -> Memory:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._base.close()

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, UnicodeError, OSError) as error:
            if "locked" in str(error):
                raise DataError(
                    f"{self.path}: another program has it in use for over {WAIT:.0f} s; try again"
                ) from None
            raise DataError(f"{self.path}: cannot be used as a memory ({error}); name another file") from None

    def __len__(self) -> int:
        with self._named():
            return int(self._base.execute("select count(*) from facts").fetchone()[0])

    def facts(self) -> list[Fact]:
        """All facts, the oldest statement first."""
        with self._named():
            rows = self._base.execute(
                "select id, subject, value, text, cues, stated, number from facts order by number, id"
            ).fetchall()
        for row in rows:
            if tuple(map(type, row)) not in _ROWS:
                raise DataError(f"{self.path}: damaged: fact {shown(row[0])} is no fact; name another file")
        return [Fact(*row) for row in rows]

    def read(self, message: str) -> Done:
        """Take over what a user's message states, replaces and takes back, all of it or nothing; returns what was done.

        Raises:
            RequestError: the message holds bytes that are no UTF-8, or the memory is full.
        """
        if found := _NO_TEXT.search(message):
            byte = ord(found[0]) - 0xDC00
            raise RequestError(
                f"message: byte {byte:#04x} at character {found.start() + 1} is not UTF-8; type it again"
            )
        changes = changes_in(message)
        asked = wants_deletion(message) or any(one.kind in ("forget", "last") or one.own for one in changes)
        self.unmet = self.facts() if asked else None
        if not changes:
            return Done([], [])
        with self._at_once():
            before = self.facts()
            stated = {change.subject for change in changes if change.kind in ("set", "update")}
            for change in changes:
                self.apply(change)
            after = self.facts()
        self._stated = stated or self._stated
        old, new = ({fact.subject: fact.value for fact in facts} for facts in (before, after))
        forgot = [fact for fact in before if fact.subject not in new]
        kept = [fact for fact in after if old.get(fact.subject) != fact.value]
        if forgot or any(fact.subject in old for fact in kept):
            self.unmet = None
        return Done(kept, forgot)

    @contextlib.contextmanager
    def _at_once(self) -> Iterator[None]:
        """One transaction, which waits for those of other chats on the same file."""
        with self._named():
            self._base.execute("begin immediate")
        try:
            yield
        except BaseException:
            self._base.execute("rollback")
            raise
        with self._named():
            self._base.execute("commit")

    def apply(self, change: Change) -> None:
        """Carry out one change. Raises RequestError where the memory is full."""
        if change.kind == "clear":
            self._run("delete from facts")
            return
        facts = self.facts()
        gone: list[Fact] = []
        if change.kind in ("set", "update"):
            gone, subject = replaced(change, facts)
            if subject:
                self._set(replace(change, subject=subject))
        elif change.kind == "last":
            gone = [fact for fact in facts if fact.subject in self._stated]
        elif change.kind == "ended":
            gone = ended(change.text, [f for f in facts if f.subject != change.subject], change.own)
        else:
            gone = unwanted(change, facts)
        for fact in gone:
            self._run("delete from facts where id = ?", fact.id)

    def _set(self, change: Change) -> None:
        known = self._run("select 1 from facts where subject = ?", _clean(change.subject))
        if not known and len(self) >= MOST:
            raise RequestError(f"{self.path}: holds {MOST:,} facts, which is the most; delete some")
        fields = map(_clean, (change.subject, change.value, change.text, change.cues))
        self._run(
            "insert into facts (subject, value, text, cues, stated, number) values (?, ?, ?, ?, ?, "
            "(select coalesce(max(number), 0) + 1 from facts)) on conflict (subject) do update set value = "
            "excluded.value, text = excluded.text, cues = excluded.cues, stated = excluded.stated, "
            "number = excluded.number",
            *fields, time.time(),
        )  # fmt: skip

    def _run(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        with self._named():
            return self._base.execute(statement, values).fetchall()

    def _fact(self, id: int) -> Fact:
        found = next((fact for fact in self.facts() if fact.id == id), None)
        if found is None:
            raise RequestError(f"{self.path}: holds no fact {id}; `llmanac memory list {self.path}` names them")
        return found

    def delete(self, id: int) -> Fact:
        """Delete a fact. Raises RequestError where there is none of this number."""
        with self._at_once():
            found = self._fact(id)
            self._run("delete from facts where id = ?", id)
        return found

    def edit(self, id: int, value: str) -> Fact:
        """Give a fact another value. Raises RequestError where there is none of this number, or no value."""
        value = _clean(value)
        if not value or len(value) > LONGEST:
            raise RequestError(f"value: must have 1 to {LONGEST} characters")
        with self._at_once():
            found = self._fact(id)
            places = [*re.finditer(rf"(?<!\w){re.escape(found.value)}(?!\w)", found.text)]  # "or" is not in "favorite"
            before, after = (found.text[: places[-1].start()], found.text[places[-1].end() :]) if places else ("", "")
            text = f"{before}{value}{after}" if places else f"{found.subject}: {value}"
            self._set(Change("set", found.subject, value, text, found.cues))
            return self._fact(id)

    def recall(self, question: str, k: int = 5, *, least: float = LEAST) -> list[Fact]:
        """The facts that a question means, best first; none where fewer than `least` of its words, by weight, match."""
        facts, question = self.facts(), _clean(question)
        with self._named():
            near = self._vectors.nearness(question, facts).tolist() if self._vectors is not None else None
        return ranked(question, facts, k, least, near)

    def prompt(self, question: str, k: int = 5) -> str:
        """Text for a system message: the name, and the facts that the question means; empty where there are none."""
        meant = self.recall(question, k)
        name = [fact for fact in self.facts() if fact.subject == "name" and fact not in meant]
        chosen = sorted([*name, *meant], key=lambda fact: fact.number)
        return "\n".join([LEAD, *(f"- {fact.text}" for fact in chosen), USE]) if chosen else ""
