"""Finding the passages that a question is about: names first, then words.

1. A name in the question (`shutil.copytree`, `copytree()`, "the copytree function in shutil") is looked up exactly.
   The full name replaces it, so that the model need not match spellings.
2. BM25 ranks passages by the question's words; passages of a named entry come first.
3. How much of the question the best passage covers, weighted by rarity, decides whether anything was found; the
   threshold is calibrated on training questions.
"""

from __future__ import annotations

import builtins
import functools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from llmanac.apps.docs_assistant import documents
from llmanac.apps.docs_assistant.forms import asking_words, form_words
from llmanac.apps.docs_assistant.names import Known, KnownNames
from llmanac.apps.docs_assistant.passages import Passage
from llmanac.apps.docs_assistant.prompt import Asked
from llmanac.apps.docs_assistant.ranking import EntryRanking, Found, Served, summary
from llmanac.apps.docs_assistant.tables import words
from llmanac.apps.docs_assistant.words import stems
from llmanac.core import files
from llmanac.core.errors import CheckpointError, DataError
from llmanac.retrieve._words import code_words
from llmanac.retrieve.bm25 import BM25, Spec
from llmanac.retrieve.dense import Dense
from llmanac.retrieve.folder import FolderIndex

_NAME = re.compile(r"`?([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)(\(\))?`?")
_CODE = re.compile(r"[._\d]|[a-z][A-Z]|^[A-Z][a-z]+[A-Z]")
_TOPIC = re.compile(r"(?i)\btopic (\S+?)[?.!,]?(?:\s|$)|\bthe [`'\"]?([\w-]+)[`'\"]? (?:statement|topic|keyword)\b")
_CERTAIN = 2.8  # strength from which a name counts even next to an unknown one
_SENTENCE = re.compile(r"(?<![^ (])[a-z]+(?=[ ,;:)]|[.?!](?: |$))")  # a word that is not written as code
_EMPTY = words("empty")
_SAID_TO_BE = re.compile(r"(?i) (?:function|method|class|attribute) (?:of|in|from) ")
_ARTICLE = re.compile(r"(?i)\b(?:an?|any|some|all|each|every|its|his|their|my|your|this|these) $")
LONGEST_ARTICLE = 8  # characters that end with an article and a blank, the one before them too
_PLACE = "\x00"  # a placeholder for the name while the words around it are examined
DISTANCE = 6  # words between a bare name and the module that it is said to be in


class DocumentationIndex:
    """Passages with the names they document, and an index over them.

    Args:
        passages: as `questions.entry_passages` gives them.
        kept: the index of the folder of documents that holds them; without it, one is made in memory.
        names: further names under which programs know entries, and names that have no docstring.
        calls: by entry, how often programs call it; entries with the same name split the calls of that name.
    """

    def __init__(
        self,
        passages: Sequence[Passage],
        kept: FolderIndex | None = None,
        *,
        names: Sequence[Known] = (),
        calls: Mapping[int, float] | None = None,
    ) -> None:
        self.passages, self.names, self.calls = list(passages), list(names), dict(calls or {})
        self.documents = kept
        self.bm25 = kept.retriever("bm25") if kept else BM25(map(documents.words_of, self.passages), Spec())
        self.dense: Dense | None = None  # vectors of the entries, in the order of `self._of`
        self.threshold = 0.0
        self.associations: dict[str, dict[str, float]] = {}
        self._of: dict[int, list[int]] = defaultdict(list)
        self._names: dict[str, int] = {}
        self._lower: dict[str, int] = {}
        self._last: dict[str, list[tuple[str, int]]] = defaultdict(list)
        for number, passage in enumerate(self.passages):
            self._of[passage.entry].append(number)
            if passage.first and not passage.title.startswith("topic "):
                self._names.setdefault(passage.name, passage.entry)
                self._lower.setdefault(passage.name.lower(), passage.entry)
                self._last[passage.name.rpartition(".")[2].lower()].append((passage.name, passage.entry))
        self._roots = {name.partition(".")[0] for name in self._lower}
        self._form_words, self._asking_words = form_words(), asking_words()
        self._topics = {p.name.lower(): p.entry for p in self.passages if p.first and p.title.startswith("topic ")}
        postings = np.diff(self.bm25.starts)
        self._share = {word: postings[i] / max(1, len(self.passages)) for word, i in self.bm25.vocabulary.items()}

    # ------------------------------------------------------------------ entries
    @functools.cached_property
    def known_names(self) -> KnownNames:
        """Every name that programs write for an entry, and those without docstring."""
        own = [Known(p.name, p.entry) for p in self.passages if p.first and not p.title.startswith("topic ")]
        return KnownNames([*own, *self.names])

    @functools.cached_property
    def ranking(self) -> EntryRanking:
        """Ranks the entries, in the order of `self._of`."""
        members = {entry: _member(self._name(entry)) for entry in self._of}
        for known in self.names:
            if known.entry in members:
                members[known.entry] &= _member(known.name)
        entries, calls = [self.of(entry) for entry in self._of], [self.calls.get(entry, 0.0) for entry in self._of]
        return EntryRanking(entries, list(members.values()), calls)

    def best(self, question: str, k: int) -> list[Served]:
        """The entries that serve the purpose in a question, best first."""
        entries = list(self._of)
        return [one._replace(entry=entries[one.entry]) for one in self.ranking.best(question, k, self.dense)]

    def known(self, entry: int) -> Known | None:
        """An entry under its own name; None for -1."""
        return Known(self._name(entry), entry) if entry in self._of else None

    def of(self, entry: int) -> list[Passage]:
        """An entry's passages, the first one first."""
        return [self.passages[number] for number in self._of[entry]]

    def stems_of(self, entry: int) -> frozenset[str]:
        """The stems of all words of an entry."""
        return frozenset(stem for passage in self.of(entry) for stem in stems(passage.text))

    @functools.cached_property
    def prose(self) -> frozenset[str]:
        """Words that sentences use outside the names they are part of."""
        found: set[str] = set()
        for passage in self.passages:
            own = set(re.findall(r"[a-z]+", passage.name.lower()))
            for line in passage.lines:
                found.update(word for word in _SENTENCE.findall(line.lower()) if word not in own)
        return frozenset(found)

    def ordinary(self, word: str) -> bool:
        """Whether a word is ordinary English, though it may be the last part of a name too."""
        lower = word.lower()
        return bool({lower, lower.removesuffix("s"), f"{lower}s"} & self.prose)

    def summaries(self) -> list[str]:
        """What an encoder reads of each entry."""
        return [summary(self.first_passage(entry)) for entry in self._of]

    def first_passage(self, entry: int) -> Passage:
        """The passage with an entry's full title."""
        return self.passages[self._of[entry][0]]

    # ------------------------------------------------------------------ names
    def named(self, question: str) -> tuple[int, str, tuple[int, int]] | None:
        """`(entry, its name, span of the name in the question)` of the name that the question asks about, if any."""
        found = [(m.group(1), m) for m in _NAME.finditer(question)]
        words = [word for word, _ in found]
        content = {word.lower() for word in words} - self._form_words
        bare = not content  # "what does print do": a word of questions is the name where there is no other
        candidates: list[tuple[float, int, str, tuple[int, int]]] = []
        for place, (word, match) in enumerate(found):
            near = set(words[max(0, place - DISTANCE) : place] + words[place + 1 : place + DISTANCE + 1])
            marked = match.group(0) != word or bool(_CODE.search(word))
            marked = marked or bool(_SAID_TO_BE.match(question, match.end()))
            if not marked and _ARTICLE.search(question, max(0, match.start() - LONGEST_ARTICLE), match.start()):
                continue  # "return an event": the word means what it says
            strength, entry, name = self._look_up(word, near, content - {word.lower()}, marked=marked, bare=bare)
            if strength > 0:
                candidates.append((strength, entry, name, match.span()))
        if topic := self._topic(question):
            candidates.append(topic)
        if any(self._unknown(word) for word in words):  # the name in the question does not exist; no other one will do
            candidates = [c for c in candidates if c[0] >= _CERTAIN]
        if not candidates:
            return None
        best = max(candidates, key=lambda c: (c[0], c[3][1] - c[3][0]))
        return best[1], best[2], best[3]

    def _look_up(
        self, word: str, near: set[str], others: set[str], *, marked: bool, bare: bool
    ) -> tuple[float, int, str]:
        """How surely a word is a name, and which: 0 where it is none.

        Args:
            near: the words around it; one may be the module it is said to be in.
            others: the question's other words that do not only say what is asked; a bare word that is not written as
                code is a name only where its signature holds all of them ("how do I join paths" is not about
                `str.join`).
            marked: it is written as code.
            bare: the question has no other words than those that say what is asked.
        """
        lower = word.lower()
        exact = self._names.get(word, self._lower.get(lower))
        if exact is not None and "." in word:
            return 4.0, exact, self._name(exact)
        last, modules = lower.rpartition(".")[2], lower.split(".")[:-1]
        inside = [(n, e) for n, e in self._last.get(last, ()) if _within(modules, n.lower().split(".")[:-1])]
        if modules:
            return (3.0, *self._shortest(inside)) if inside else (0.0, -1, "")
        if not inside or (not marked and lower in (self._asking_words if bare else self._form_words)):
            return 0.0, -1, ""
        beside = [(n, e) for n, e in inside if "." in n and _beside(n.rpartition(".")[0], near)]
        if beside:
            return 4.5, *self._shortest(beside)
        entry, name = (exact, self._name(exact)) if exact is not None else self._shortest(inside)
        if not marked and others and not self._speaks_of(entry, others):
            return 0.0, -1, ""
        return (2.0 if marked or not others else 1.0) - self._share.get(lower, 0.0), entry, name

    def _speaks_of(self, entry: int, words: set[str]) -> bool:
        there = set(code_words(self.passages[self._of[entry][0]].title))
        return all(set(code_words(word)) <= there for word in words)

    def _unknown(self, word: str) -> bool:
        """Whether a word is written as a name of this documentation and is none."""
        lower = word.lower()
        if lower in self.bm25.vocabulary or not _CODE.search(word):
            return False
        first, _, rest = lower.partition(".")
        if not rest:
            return len(word) > 3
        last = lower.rpartition(".")[2]
        inside = any(_within(lower.split(".")[:-1], n.lower().split(".")[:-1]) for n, _ in self._last.get(last, ()))
        return first in self._roots and not inside

    def _topic(self, question: str) -> tuple[float, int, str, tuple[int, int]] | None:
        match = _TOPIC.search(question)
        name = next((g for g in match.groups() if g), "") if match else ""
        entry = self._topics.get(name.lower())
        return None if entry is None or match is None else (2.8, entry, f"topic {self._name(entry)}", match.span())

    def _name(self, entry: int) -> str:
        return self.passages[self._of[entry][0]].name

    @staticmethod
    def _shortest(found: Sequence[tuple[str, int]]) -> tuple[int, str]:
        name, entry = min(found, key=lambda item: (item[0].count("."), len(item[0]), item[0]))
        return entry, name

    def understood(self, question: str) -> Asked:
        """The question with the name it asks about looked up."""
        named = self.named(question)
        if named is None:
            return Asked(question.strip())
        entry, name, (start, stop) = named
        around = _unwrapped(f"{question[:start]}{_PLACE}{question[stop:]}", name).strip()
        before, _, after = around.partition(_PLACE)
        return Asked(before, name, after, entry)

    # ------------------------------------------------------------------ passages
    def find(self, question: str, k: int = 3) -> Found:
        """The `k` passages to read, best first."""
        return self.find_asked(self.understood(question), k)

    def find_asked(self, asked: Asked, k: int = 3) -> Found:
        """The same for a question whose name is looked up."""
        full, entry = asked.text, asked.entry
        named = entry >= 0
        content = [word for word in code_words(full) if word not in self._asking_words]
        scores = self.bm25.scores(content or full)
        few = np.argpartition(-scores, min(len(scores) - 1, k + 16))[: k + 16] if len(scores) else np.zeros(0, np.int64)
        order = [hit for hit in few[np.lexsort((few, -scores[few]))].tolist() if scores[hit] > 0]
        own = self._own(full, entry, scores, max(1, k - 1)) if named else []
        chosen = own + [p for p in order if p not in own and (not named or self.passages[p].entry != entry)]
        coverage = 1.0 if named else self._coverage(full, order[:1])
        return Found(asked, tuple(chosen[:k]), coverage)

    def _own(self, question: str, entry: int, scores: np.ndarray, k: int) -> list[int]:
        """A named entry's passages: its first, then those that hold more of the question's words."""
        first, *rest = self._of[entry]
        wanted: dict[str, float] = {}
        for word in set(re.findall(r"[a-z]+", question.lower())):
            for other, lift in self.associations.get(word, {}).items():
                wanted[other] = max(wanted.get(other, 0.0), lift)
        value = {
            p: scores[p] / 4 + sum(wanted.get(w, 0.0) for w in set(code_words(self.passages[p].text))) for p in rest
        }
        return [first, *sorted(rest, key=lambda p: (-value[p], p))][:k]

    def _coverage(self, question: str, best: Sequence[int]) -> float:
        names = [word for word, _ in _NAME.findall(question)]
        words = {w for w in code_words(question) if w not in self._form_words and f"{w}s" not in self._form_words}
        if not best or not words or any(self._unknown(name) for name in names):
            return 0.0
        there = set(code_words(self.passages[best[0]].text))
        weights = {word: self.bm25.weight(word) for word in words}
        return sum(w for word, w in weights.items() if word in there) / max(1e-9, sum(weights.values()))

    # ------------------------------------------------------------------ learned from training questions
    def associate(self, examples: Iterable[tuple[str, str]]) -> None:
        """Learn which words of an answer go with which words of a question.

        `errors` and `throw` in a question then lead to a passage that says `raises`. A word pair counts where the
        answer's word is at least e times as common with the question's word as it is elsewhere.

        Args:
            examples: (question, answer) of training pairs.
        """
        pairs: Counter[tuple[str, str]] = Counter()
        asked: Counter[str] = Counter()
        answered: Counter[str] = Counter()
        total = 0
        for question, answer in examples:
            total += 1
            words = set(code_words(answer))
            answered.update(words)
            for word in set(re.findall(r"[a-z]+", question.lower())) & self._form_words - _EMPTY:
                asked[word] += 1
                pairs.update((word, other) for other in words)
        self.associations = {}
        for (word, other), count in pairs.items():
            lift = math.log(count * total / (asked[word] * answered[other]))
            if count >= 12 and count >= 0.1 * asked[word] and lift > 1:
                self.associations.setdefault(word, {})[other] = round(lift, 3)

    def calibrate(self, answerable: Iterable[str], unanswerable: Iterable[str]) -> float:
        """Set the coverage below which a question without a known name is refused, from training questions only.

        The lowest threshold within 0.02 of the best (fraction of answerable kept + fraction of unanswerable refused):
        people's own words cover a passage less than questions made from it do. Questions that name an entry do not
        count.
        """
        good = np.sort([f.coverage for f in map(self.find, answerable) if f.entry < 0])
        bad = np.sort([f.coverage for f in map(self.find, unanswerable) if f.entry < 0])
        if not len(good) or not len(bad):
            return self.threshold
        choices = np.unique(np.concatenate([[0.0], (bad + 1e-6), good]))
        value = 1 - np.searchsorted(good, choices) / len(good) + np.searchsorted(bad, choices) / len(bad)
        self.threshold = float(choices[np.flatnonzero(value >= value.max() - 0.02)[0]])
        return self.threshold

    # ------------------------------------------------------------------ files
    def save(self, folder: str | Path) -> None:
        """Write the passages as a folder of documents with its index, and `names.json`."""
        folder = Path(folder)
        self.documents = documents.write(self.passages, folder)
        data = {
            "format_version": 2,
            "threshold": self.threshold,
            "associations": self.associations,
            "names": [[k.name, k.entry, k.signature, k.relative] for k in self.names],
            "calls": [[entry, round(count, 2)] for entry, count in self.calls.items()],
            "entries": [passage.entry for passage in self.passages],
        }
        files.write_json(folder / "names.json", data, indent=None)

    @classmethod
    def load(cls, folder: str | Path) -> DocumentationIndex:
        """Read an index back. Raises CheckpointError that names the file which is missing or damaged."""
        path = Path(folder) / "names.json"
        try:
            data = files.read_table(path)
            kept = documents.opened(Path(folder))
            passages = documents.read(kept, data["entries"])
            names = [Known(*row) for row in data.get("names", ())]
            calls = dict(data.get("calls", ()))
        except DataError as error:
            raise CheckpointError(f"{error}; run the recipe again to build the index") from None
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{path}: not an index of passages ({error}); run the recipe again") from None
        index = cls(passages, kept, names=names, calls=calls)
        index.threshold, index.associations = float(data["threshold"]), data.get("associations", {})
        if (place := Path(folder) / documents.VECTORS).is_dir():
            index.dense = Dense.load(place)
            index.dense.spec = replace(index.dense.spec, model=str(Path(folder) / documents.ENCODER))
            if len(index.dense) != len(index._of):
                raise CheckpointError(f"{place}: of another documentation; remove it, and make it again")
        return index


def _member(name: str) -> bool:
    """Whether a name is that of a member of a class, by how its owner is written (`Path`), or is a built-in type."""
    owner = name.rpartition(".")[0]
    return owner.rpartition(".")[2][:1].isupper() or isinstance(getattr(builtins, owner, None), type)


def _within(parts: Sequence[str], path: Sequence[str]) -> bool:
    """Whether `parts` stand in `path` in their order (`asyncio.run` names `asyncio.runners.run`)."""
    rest = iter(path)
    return all(part in rest for part in parts)


def _beside(module: str, near: set[str]) -> bool:
    """Whether a module is named close by: in full, or a class by its last part in its own case."""
    last = module.rpartition(".")[2]
    return (
        (not last.islower() and last in near)
        or module in near
        or ("." in module and module.lower() in {n.lower() for n in near})
    )


def _unwrapped(question: str, name: str) -> str:
    """`the <name> function of shutil` -> `<name>`: a name that was looked up needs its module no more."""
    kind = r"(?:function|method|class|attribute|call|module)"
    module = re.escape(name.rpartition(".")[0]) or "(?!)"
    wrapped = rf"(?i)\bthe {_PLACE} {kind} (?:of|in|from) `?{module}`?"
    return re.sub(wrapped, _PLACE, question) if f"the {_PLACE} " in question.lower() else question
