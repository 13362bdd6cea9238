"""The memory's file: one SQLite table of facts, each a text.

    with Memory("memory.sqlite") as memory:
        memory.read("Remember shoe size: 43")     # a chat's message; other messages change nothing without a reader
        memory.remember("My sister is called Ada.")
        memory.recall("What is my shoe size?", 3)  # the facts that a question means
        memory.prompt("What is my shoe size?")     # as text for the system message
        memory.forget("shoe size")

Deleted facts are gone from the file.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from llmanac.core.errors import UNSAFE, DataError, RequestError, shown
from llmanac.retrieve._words import plain_words
from llmanac.retrieve.dense import Encode
from llmanac.retrieve.folder.quotes import ORDERS
from llmanac.retrieve.memory.recall import Fact, Recall, content, key_of, key_words
from llmanac.retrieve.memory.vectors import Vectors

APPLICATION, VERSION = 0x6C6C6D65, 2  # marks the file as ours
MOST = 10_000  # facts of a file
LONGEST = 300  # characters of a fact
WAIT = 10.0  # seconds that a change waits for those of other chats
LEAD = "Facts that the user stated in earlier chats, as data (newest last):"
USE = "Use these facts in the answer."  # without it a small model says that it knows nothing of the user
_SCHEMA = """create table facts (id integer primary key autoincrement, text text not null, stated real not null,
 asked integer not null)"""
_RENEW = (  # from the version in which a fact had a subject and a value beside its text
    "alter table facts rename to old", _SCHEMA, "drop table if exists vectors",
    "insert into facts (text, stated, asked) select text, stated, 0 from old order by number, id", "drop table old",
)  # fmt: skip
_WISHES = ("remember", "forget")
_ROWS = {(int, str, stated, int) for stated in (int, float)}  # types of a fact's columns
_NO_TEXT = re.compile(r"[\udc80-\udcff]")  # bytes that are no UTF-8, as Python reads them from a pipe


def _clean(text: str) -> str:
    """Text in one line without characters that control a terminal, turn lines around, or are no characters."""
    return " ".join(UNSAFE.sub(" ", text).split())


class Done(NamedTuple):
    """What a message did: facts that are new, and facts that are deleted or replaced.

    unmet: where a wish to forget named no one fact: those that it may mean, or none; else None.
    """

    kept: list[Fact]
    forgot: list[Fact]
    unmet: list[Fact] | None = None


def wish_of(message: str) -> tuple[str, str] | None:
    """("remember" or "forget", what) of a message that begins with that word; None of a question and any other."""
    words = message.strip().removeprefix("/").split()
    if words and words[0].lower() == "please":
        words = words[1:]
    verb = words[0].lower().rstrip(":,") if words else ""
    if verb not in _WISHES or words[-1].endswith("?"):
        return None
    words = words[2:] if words[1:2] == ["that"] and len(words) > 2 else words[1:]
    return verb, " ".join(words)


Read = Callable[["Memory", str], Done]


class Memory:
    """An open memory; a context manager. The file is made where there is none.

    Args:
        encode: texts to vectors (N, D) of length 1, by which questions in other words find their facts.
        encoder: the name of what encodes; the file keeps the vectors with it.
        reader: takes facts from messages that are no explicit wish, as `extract.FactExtractor` does with a chat model.

    Raises:
        DataError: the file is something else, damaged, or cannot be written; the message names it.
    """

    def __init__(
        self, path: str | Path, encode: Encode | None = None, encoder: str = "", reader: Read | None = None
    ) -> None:
        self.path, self.reader = Path(path), reader
        self._known: tuple[list[Fact], Recall] | None = None
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
                with self.at_once():  # of two chats that make the file, the second finds it made
                    if not self._marked():
                        self._base.execute(f"pragma application_id={APPLICATION}")
                        self._base.execute(f"pragma user_version={VERSION}")
                        self._base.execute(_SCHEMA)
            if self._version() < VERSION:
                with self.at_once():
                    for statement in _RENEW if self._version() < VERSION else ():
                        self._base.execute(statement)
                    self._base.execute(f"pragma user_version={VERSION}")
            [(state,)] = self._base.execute("pragma quick_check(1)").fetchall()
        if state != "ok":
            raise DataError(f"{self.path}: damaged ({shown(state)}); name another file, or put back a copy")

    def _marked(self) -> bool:
        """Whether the file is a memory; False where it is empty. Raises DataError where it is something else."""
        [(mark,)] = self._base.execute("pragma application_id").fetchall()
        tables = self._base.execute("select count(*) from sqlite_master").fetchone()[0]
        if (tables or mark) and mark != APPLICATION:
            raise DataError(f"{self.path}: is a database of another program; name another file for the memory")
        if self._version() > VERSION:
            raise DataError(f"{self.path}: was written by a later version of llmanac; update llmanac to read it")
        return bool(tables)

    def _version(self) -> int:
        return int(self._base.execute("pragma user_version").fetchone()[0])

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
        rows = self._run("select id, text, stated, asked from facts order by id")
        for row in rows:
            if tuple(map(type, row)) not in _ROWS:
                raise DataError(f"{self.path}: damaged: fact {shown(row[0])} is no fact; name another file")
        return [Fact(*row) for row in rows]

    def read(self, message: str) -> Done:
        """Carry out a message: "remember ...", "forget ...", or what the reader takes from any other.

        All of it is carried out or nothing.

        Raises:
            RequestError: the message holds bytes that are no UTF-8, or the memory is full.
        """
        if found := _NO_TEXT.search(message):
            byte = ord(found[0]) - 0xDC00
            raise RequestError(
                f"message: byte {byte:#04x} at character {found.start() + 1} is not UTF-8; type it again"
            )
        if wish := wish_of(message):
            verb, text = wish
            return self.remember(text) if verb == "remember" else self.forget(text)
        return self.reader(self, message) if self.reader is not None else Done([], [])

    def remember(self, text: str, instead: Fact | None = None, *, asked: bool = True) -> Done:
        """Keep a text. The fact `instead`, equal ones, and of "KEY: VALUE" the one of the same key are replaced.

        Args:
            asked: whether the user asked for it; else it is kept only where it replaces nothing that they asked for.

        Raises:
            RequestError: no text or too long a one, one that gives a model orders, or the memory is full.
        """
        text = self._checked(text)
        with self.at_once():
            facts, key, words = self.facts(), key_of(text), key_words(text)
            old = [f for f in facts if f == instead or (key and f.key == key) or key_words(f.text) == words]
            if not asked and any(fact.asked for fact in old):
                return Done([], [])
            if len(facts) - len(old) >= MOST:
                raise RequestError(f"{self.path}: holds {MOST:,} facts, which is the most; delete some")
            self.delete(old)
            self._run("insert into facts (text, stated, asked) values (?, ?, ?)", text, time.time(), int(asked))
            new = self.facts()[-1]
        return Done([new], [fact for fact in old if key_words(fact.text) != words])

    def forget(self, text: str) -> Done:
        """Delete the fact that a text names: its number, its key, or words that it alone has; "everything" all.

        Where several or none have the words, nothing is deleted and `unmet` has them.
        """
        words = key_words(_clean(text))
        with self.at_once():
            facts = self.facts()
            if words in (["everything"], ["all"]):
                found = facts
            else:
                key = " ".join(words)
                named = set() if key.isdigit() else {*content(key)} and {*plain_words(key)}
                found = [f for f in facts if str(f.id) == key] or [f for f in facts if f.key and f.key == key]
                like = [f for f in facts if named and named <= {*plain_words(f.text)}]
                if not found and len(like) != 1:
                    return Done([], [], like)
                found = found[:1] or like
            return Done([], self.delete(found))

    def delete(self, facts: Sequence[Fact]) -> list[Fact]:
        """Delete facts; returns them."""
        with self.at_once():
            for fact in facts:
                self._run("delete from facts where id = ?", fact.id)
        return list(facts)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """One transaction, which waits for those of other chats on the same file; it may be within another."""
        if self._base.in_transaction:
            yield
            return
        with self._named():
            self._base.execute("begin immediate")
        try:
            yield
            with self._named():
                self._base.execute("commit")
        except BaseException:
            if self._base.in_transaction:  # a full disk has ended it; a commit that had to wait too long has not
                self._base.execute("rollback")
            raise

    def _run(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with self._named():
            return self._base.execute(statement, values).fetchall()

    def fact(self, id: int) -> Fact:
        """The fact of a number. Raises RequestError where there is none."""
        found = next((fact for fact in self.facts() if fact.id == id), None)
        if found is None:
            raise RequestError(f"{self.path}: holds no fact {id}; `llmanac memory list {self.path}` names them")
        return found

    def edit(self, id: int, text: str) -> Fact:
        """Give a fact another text; another one of its key is replaced. It is the user's from then on.

        Raises RequestError where there is none of this number, and as `remember`.
        """
        text = self._checked(text)
        with self.at_once():
            self.fact(id)
            self.delete([f for f in self.facts() if f.id != id and f.key and f.key == key_of(text)])
            self._run("update facts set text = ?, stated = ?, asked = 1 where id = ?", text, time.time(), id)
            return self.fact(id)

    def _checked(self, text: str) -> str:
        text = _clean(text)
        if not text or len(text) > LONGEST:
            raise RequestError(f"remember: give a text of 1 to {LONGEST} characters")
        if ORDERS.search(text):  # it would be told to the model in every later chat
            raise RequestError("remember: the text gives a model orders; say it as a fact")
        return text

    def recall(self, question: str, k: int = 5) -> list[Fact]:
        """The facts that a question means, best first; none where all are as near as chance."""
        return self.nearest(question, k, least=0.0)

    def nearest(self, question: str, k: int, least: float = -math.inf) -> list[Fact]:
        """The k facts that are nearest to a text, best first, more than `least` above chance."""
        facts, question = self.facts(), _clean(question)
        if not facts:
            return []
        with self._named():
            vector = None if self._vectors is None else self._vectors.encode([question])[0]
            if self._known is None or self._known[0] != facts:
                known = None if vector is None or self._vectors is None else self._vectors.of(facts, len(vector))
                self._known = facts, Recall(facts, known)
        return self._known[1].top(question, k, least, vector)

    def prompt(self, question: str, k: int = 5) -> str:
        """Text for a system message: the facts that the question means, the newest last; empty where there are none."""
        chosen = sorted(self.recall(question, k), key=lambda fact: fact.id)
        return "\n".join([LEAD, *(f"- {fact.text}" for fact in chosen), USE]) if chosen else ""
