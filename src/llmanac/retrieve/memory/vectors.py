"""Vectors of facts, kept in the memory's file: a fact whose text changed, or that is deleted, loses its vector."""

import hashlib
import sqlite3
from collections.abc import Sequence

import numpy as np

from llmanac.retrieve.dense import Encode, same
from llmanac.retrieve.memory.recall import Fact

_SCHEMA = """
create table if not exists vectors (id integer primary key, made text not null, vector blob not null);
create trigger if not exists vectors_of_deleted after delete on facts begin delete from vectors where id = old.id; end;
"""
_KEEP = "insert or replace into vectors select ?, ?, ? where exists (select 1 from facts where id = ?)"


class Vectors:
    """The vectors of one memory's facts by one encoder.

    Args:
        encode: texts to vectors (N, D) of length 1.
        name: of the encoder: vectors of another one are made again.
    """

    def __init__(self, base: sqlite3.Connection, encode: Encode, name: str) -> None:
        self._base, self.encode, self._name, self._checked = base, encode, name, False
        base.executescript(f"begin immediate; {_SCHEMA} commit;")

    def of(self, facts: Sequence[Fact], width: int) -> np.ndarray:
        """(N, width), those that the file lacks encoded and kept."""
        made = [hashlib.sha256(f"{self._name}\0{fact.text}".encode()).hexdigest() for fact in facts]
        held = {
            (id, key): np.frombuffer(data, np.float32)
            for id, key, data in self._base.execute("select id, made, vector from vectors")
            if isinstance(data, bytes) and len(data) == 4 * width
        }
        there = {i: held[fact.id, made[i]] for i, fact in enumerate(facts) if (fact.id, made[i]) in held}
        first = next(iter(there), None)
        if not self._checked and first is not None and not same(self.encode([facts[first].text])[0], there[first]):
            there = {}  # the encoder of this name has changed
        self._checked = True
        out = np.zeros((len(facts), width), np.float32)
        for i, vector in there.items():
            out[i] = vector
        new = [i for i in range(len(facts)) if i not in there]
        if new:
            out[new] = self.encode([facts[i].text for i in new])
            rows = [(facts[i].id, made[i], out[i].tobytes(), facts[i].id) for i in new]
            self._base.execute("begin immediate")
            with self._base:  # an error ends the transaction too
                self._base.executemany(_KEEP, rows)
        return np.nan_to_num(out)
