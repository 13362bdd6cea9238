"""Names in questions: known under another name, misspelt, in the wrong module, or unknown.

A name is compared in a plain form (`move_to_end`, `moveToEnd` and `movetoend` are one); then by the edit distance:
letters inserted, dropped, changed or swapped. A candidate's score is the likeness of its last part times that of
its module or class in the question. From `CERTAIN` it is taken for what was meant; below, it is only shown as near.
"""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

CERTAIN = 0.78  # of a name that is taken for what was meant
SHOWN = 0.45  # of one that is shown as near
CLOSEST = 48  # spellings that are compared letter by letter
MISPLACED = 0.85  # likeness of a module that exists and is not where the name is
MODULE_LEVEL = 2  # parts of a name that is defined in a module itself
SHORTEST_MISPLACED = 5  # letters of a name that is known without its module


@dataclass(frozen=True)
class Known:
    """A name that programs write.

    Attributes:
        entry: the number of the entry that documents it; -1 where it has no docstring.
        signature: of a name without a docstring.
        relative: the number of the nearest documented entry of one without, or -1.
    """

    name: str
    entry: int = -1
    signature: str = ""
    relative: int = -1

    @property
    def parts(self) -> list[str]:
        """The name's parts in lower case."""
        return self.name.lower().split(".")


@functools.lru_cache(maxsize=100_000)
def squeezed(word: str) -> str:
    """`move_to_end`, `moveToEnd`, `move2end` -> `movetoend`."""
    word = word.lower()
    word = re.sub(r"(?<=[a-z])2(?=[a-z])", "to", word)
    return re.sub(r"(?<=[a-z])4(?=[a-z])", "for", word).replace("_", "") or word


def distance(a: str, b: str, most: int) -> int:
    """Letters to insert, drop, change or swap with their neighbour; `most` + 1 where there are more than `most`."""
    if abs(len(a) - len(b)) > most:
        return most + 1
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        older, before, row = before, row, [i]
        for j, y in enumerate(b, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                cost = min(cost, older[j - 2] + 1)
            row.append(cost)
        if min(row) > most:
            return most + 1
    return row[-1]


@functools.lru_cache(maxsize=200_000)
def likeness(a: str, b: str) -> float:
    """Between 0 and 1, of two parts of names."""
    if a == b:
        return 1.0
    first, second = squeezed(a), squeezed(b)
    if first == second:
        return 0.98
    longest = max(len(first), len(second))
    same = 1 - distance(first, second, max(1, longest // 2)) / longest
    shorter, longer = sorted((first, second), key=len)
    if longer.startswith(shorter) and len(shorter) >= 4:
        same = max(same, 0.5 + 0.5 * len(shorter) / longest)
    return max(0.0, same - 0.02)


class KnownNames:
    """Every name of the documentation, to look up by any spelling.

    Args:
        names: the first of several with one name counts.
    """

    def __init__(self, names: Iterable[Known]) -> None:
        self.full: dict[str, Known] = {}
        self.last: dict[str, list[Known]] = defaultdict(list)
        self.exact: dict[str, Known] = {}
        modules: set[str] = set()
        for known in names:
            if known.name in self.exact:
                continue
            self.exact[known.name] = known
            self.full.setdefault(known.name.lower(), known)
            *before, last = known.parts
            self.last[squeezed(last)].append(known)
            modules.update(before)
        self.modules = modules | {known.name.lower() for known in self.exact.values() if "." not in known.name}
        self._spellings = sorted(self.last)
        held: dict[str, list[int]] = defaultdict(list)
        for number, word in enumerate(self._spellings):
            for pair in _pairs(word):
                held[pair].append(number)
        self._held = {pair: np.array(numbers, np.int64) for pair, numbers in held.items()}
        self._sizes = np.array([len(_pairs(word)) for word in self._spellings], np.int64)

    def find(self, word: str, near: Sequence[str] = (), k: int = 8) -> list[tuple[float, Known]]:
        """`(score, name)` of the likeliest names for a word of a question, best first, one a documented entry.

        Args:
            near: other words of the question, which may name the module or class.
        """
        known = self.exact.get(word) or self.full.get(word.lower())
        *modules, last = word.lower().split(".")
        beside = {w.lower() for w in near}
        scored: dict[tuple[int, str], tuple[float, int, Known]] = {}
        for candidate in [known] if known and modules else self._candidates(last):
            score = 1.0 if candidate is known else self._score(modules, last, candidate)
            if not modules and set(candidate.parts[:-1]) & beside:
                score += 0.05
            key = (candidate.entry, "" if candidate.entry >= 0 else candidate.name)
            mine = (score, -len(candidate.parts), candidate)
            if key not in scored or mine[:2] > scored[key][:2]:
                scored[key] = mine
        order = sorted(scored.values(), key=lambda s: (-s[0], -s[1], s[2].entry < 0, len(s[2].name), s[2].name))
        return [(score, candidate) for score, _, candidate in order[:k] if score >= SHOWN]

    def _score(self, modules: Sequence[str], last: str, candidate: Known) -> float:
        *path, own = candidate.parts
        same = likeness(last, own)
        if not modules:
            return same
        inside = _alike(modules, path)
        if inside < 0.7 and same >= 0.98 and len(own) >= SHORTEST_MISPLACED and self.modules.issuperset(modules):
            inside = MISPLACED if self._only(candidate) else inside
        return same * inside

    def _only(self, candidate: Known) -> bool:
        """Whether a name's last part says alone which one is meant: all of that name document one entry, or it is the
        only one in a module (`shutil.copyfile`) and not in a class."""
        alike = [c for c in self.last[squeezed(candidate.parts[-1])] if c.entry >= 0]
        own = candidate.parts[-1]
        outside = [c for c in alike if len(c.parts) == MODULE_LEVEL and c.parts[-1] == own and own not in self.modules]
        return any(len({c.entry for c in some}) == 1 and candidate in some for some in (alike, outside))

    def _candidates(self, last: str) -> list[Known]:
        word = squeezed(last)
        numbers = [self._held[pair] for pair in _pairs(word) if pair in self._held]
        out = list(self.last.get(word, ()))
        if numbers:
            shared = np.bincount(np.concatenate(numbers), minlength=len(self._spellings))
            dice = 2 * shared / (self._sizes + len(_pairs(word)))
            for number in np.argsort(-dice, kind="stable")[:CLOSEST]:
                if self._spellings[number] != word and dice[number] > 0.25:
                    out += self.last[self._spellings[number]]
        return out

    def belongs(self, owner: str, word: str) -> bool:
        """Whether a word is the name of something in a class or module of that name."""
        inside = (known.parts[-2:] for known in self.last.get(squeezed(word), ()))
        return [owner.lower(), word.lower()] in inside


def _pairs(word: str) -> frozenset[str]:
    marked = f"^{word}$"
    return frozenset(marked[i : i + 2] for i in range(len(marked) - 1))


def _alike(parts: Sequence[str], path: Sequence[str]) -> float:
    """How well `parts` stand in `path` in their order: the product of their likenesses (`asyncio` in
    `asyncio.tasks`: 1)."""
    if not parts:
        return 1.0
    best = 0.0
    for at, part in enumerate(path):
        same = likeness(parts[0], part)
        if same > max(best, 0.6):
            best = max(best, same * _alike(parts[1:], path[at + 1 :]))
    return best
