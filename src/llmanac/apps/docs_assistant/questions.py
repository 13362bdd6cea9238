"""Questions with answers made from real documentation, and questions it cannot answer.

A pair is a fact of the documentation (`facts`) put into one of many forms (`forms`), then made as rough as what people
type: lower case, no question mark, a greeting, a bare name, a typo in a small word. Pairs for evaluation use forms and
modules that training never shows.
"""

from __future__ import annotations

import functools
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from llmanac.apps.docs_assistant.facts import KINDS, Fact, Kind, facts_of, not_stated
from llmanac.apps.docs_assistant.forms import CLOSERS, FORMS, OFF_TOPIC, OPENERS, FormSet, expand, near_held_out
from llmanac.apps.docs_assistant.names import Known
from llmanac.apps.docs_assistant.passages import Passage, passages_of
from llmanac.apps.docs_assistant.prompt import REFUSAL
from llmanac.apps.docs_assistant.tables import words
from llmanac.core.rng import seed_of
from llmanac.data.sources._docstrings import Entry
from llmanac.data.sources._public import Name
from llmanac.retrieve._words import code_words

Unanswerable = Literal["unknown name", "not stated", "off topic"]
UNANSWERABLE: tuple[Unanswerable, ...] = ("unknown name", "not stated", "off topic")
BEARERS = 3  # of one last part of a name, up to which its calls count for each
_SMALL_WORDS = words("small")
_FILLERS = words("filler")


@dataclass(frozen=True)
class Pair:
    """One question with its answer.

    Attributes:
        sort: a kind of fact, or why the documentation cannot answer.
        entry, passage: where the answer is; -1 where there is none.
        asks: the kind of fact in question, also where the answer is a refusal; empty off topic.
        name: the name that the question asks about, in full; of a wish, the function that fulfils it.
        subject: the parameter that is asked about.
    """

    question: str
    answer: str
    sort: Kind | Unanswerable
    entry: int = -1
    passage: int = -1
    asks: str = ""
    name: str = ""
    subject: str = ""

    @property
    def query(self) -> str:
        """The kind of fact and the parameter: the question in its plainest form, without the name."""
        return " ".join(part for part in (self.asks or "nothing", self.subject) if part)


@functools.cache
def _read(entry: Entry, number: int) -> tuple[tuple[Fact, ...], tuple[tuple[Kind, str], ...]]:
    """The facts of an entry, and the questions that it leaves open; computed once."""
    passages = list(passages_of(entry, number))
    known = tuple(facts_of(entry, number, passages))
    return known, tuple(not_stated(entry, passages, known))


def _content(wish: str) -> frozenset[str]:
    return frozenset(code_words(wish)) - _FILLERS


@functools.lru_cache(maxsize=4)
def _wishes(entries: tuple[Entry, ...]) -> Counter[frozenset[str]]:
    """How many entries fulfil a wish, whatever the order of its words."""
    facts = (fact for number, entry in enumerate(entries) if not entry.private for fact in _read(entry, number)[0])
    return Counter(_content(fact.subject) for fact in facts if fact.kind == "which")


class QuestionMaker:
    """Makes pairs about a set of entries.

    Args:
        entries: all entries, in the order of the index.
        use: the numbers of those to ask about (of the training modules, or of the held-out ones).
        forms: which set of forms to draw from.
    """

    def __init__(self, entries: Sequence[Entry], use: Iterable[int], forms: FormSet, *, seed: int = 0) -> None:
        self.entries, self.forms = entries, forms
        self.rng = random.Random(seed_of(seed, "questions", forms))
        self.facts: dict[Kind, list[Fact]] = defaultdict(list)
        self.open: dict[Kind, list[tuple[int, str]]] = defaultdict(list)
        self.about: dict[int, list[Fact]] = defaultdict(list)
        self.open_about: dict[int, list[tuple[Kind, str]]] = defaultdict(list)
        self.names = {entry.name for entry in entries}
        self._last_names = {name.rpartition(".")[2] for name in self.names}
        self._pieces: list[tuple[str, str]] = []
        wishes = _wishes(tuple(entries))
        for number in use:
            entry = entries[number]
            if entry.private:
                continue
            known, unsaid = _read(entry, number)
            for fact in known:
                if fact.kind == "which" and wishes[_content(fact.subject)] > 1:
                    continue  # several functions fulfil it: no answer is the right one
                self.facts[fact.kind].append(fact)
                self.about[number].append(fact)
            for kind, subject in unsaid:
                self.open[kind].append((number, subject))
                self.open_about[number].append((kind, subject))
            module, _, last = entry.name.rpartition(".")
            if module and entry.kind == "function":
                self._pieces.append((module, last))
        self.kinds: list[Kind] = [kind for kind in KINDS if self.facts[kind]]

    def answerable(self, count: int) -> list[Pair]:
        """`count` pairs, balanced over the kinds; a kind's facts repeat only when they have run out."""
        if not self.kinds:
            return []
        drawn = [self.kinds[i % len(self.kinds)] for i in range(count)]
        self.rng.shuffle(drawn)
        pools = {kind: self._endless(self.facts[kind]) for kind in self.kinds}
        return [self.ask(next(pools[kind])) for kind in drawn]

    def endless(self, weights: Mapping[str, float]) -> Iterator[Pair]:
        """Pairs without end, their kinds drawn by weight; none where nothing is documented."""
        pools = {kind: self._endless(self.facts[kind]) for kind in self.kinds}
        while pools:
            (kind,) = self.rng.choices(self.kinds, [weights.get(kind, 1.0) for kind in self.kinds])
            yield self.ask(next(pools[kind]))

    def examination(self, count: int, *, times: int = 2) -> list[Pair]:
        """`count` pairs, balanced over the kinds as far as asking no fact more often than `times` allows."""
        kinds = sorted(self.kinds, key=lambda kind: len(self.facts[kind]))
        pairs: list[Pair] = []
        for i, kind in enumerate(kinds):
            share = (count - len(pairs)) // (len(kinds) - i)
            pool = self._endless(self.facts[kind])
            pairs += [self.ask(next(pool)) for _ in range(min(share, times * len(self.facts[kind])))]
        self.rng.shuffle(pairs)
        return pairs

    def _endless(self, items: Sequence[Fact]) -> Iterator[Fact]:
        while True:
            order = list(items)
            self.rng.shuffle(order)
            yield from order

    def ask(self, fact: Fact) -> Pair:
        """A question for a fact."""
        form = self._form(FORMS[self.forms][fact.kind])
        name = self._spell(self.entries[fact.entry])
        subject = self._roughen_wish(fact.subject) if fact.kind == "which" else self._mark(fact.subject, 0.2)
        question = self._ask(form, n=name, p=subject, s=subject)
        name, about = written(self.entries[fact.entry]), "" if fact.kind == "which" else fact.subject
        return Pair(question, fact.answer, fact.kind, fact.entry, fact.passage, fact.kind, name, about)

    def unanswerable(self, count: int, sorts: Sequence[Unanswerable] = UNANSWERABLE) -> list[Pair]:
        """`count` pairs whose answer is the refusal, balanced over the sorts."""
        makers = {"unknown name": self._unknown, "not stated": self._not_stated, "off topic": self._off_topic}
        return [makers[sorts[i % len(sorts)]]() for i in range(count)]

    def _unknown(self) -> Pair:
        """A question about a name that looks right and is not there."""
        named: list[Kind] = [k for k in self.kinds if k != "which"] or ["what"]
        kind = self.rng.choice(named)
        form = self._form(FORMS[self.forms][kind])
        subject = self.rng.choice([f.subject for f in self.facts["default"]] or ["value"])
        name = self._invent()
        asked = self._ask(form, n=name, p=subject, s="")
        about = subject if kind in ("default", "parameter") else ""
        return Pair(asked, REFUSAL, "unknown name", asks=kind, name=name, subject=about)

    def _invent(self) -> str:
        """A module of one entry with the words of two others, or with a word that no documentation holds."""
        rng = self.rng
        while True:
            module = rng.choice(self._pieces)[0] if self._pieces else "module"
            words = [
                w
                for _, last in rng.choices(self._pieces or [("", "value")], k=2)
                for w in re.findall(r"[A-Z]?[a-z]+", last)
            ]
            if rng.random() < 0.5:
                words[rng.randrange(len(words)) if words else 0 :] = [_nonsense(rng)]
            rng.shuffle(words)
            name = rng.choice(["_", ""]).join(words[: rng.choice([1, 2, 2])])
            full = f"{module}.{name}" if rng.random() < 0.85 else name
            if len(name) > 3 and full not in self.names and name not in self._last_names:
                return full

    def _not_stated(self) -> Pair:
        kinds = [kind for kind in self.open if self.open[kind]]
        if not kinds:
            return self._unknown()
        kind = self.rng.choice(kinds)
        return self.ask_in_vain(*self.rng.choice(self.open[kind]), kind)

    def ask_in_vain(self, number: int, subject: str, kind: Kind) -> Pair:
        """A question for what the documentation of an entry does not say."""
        form = self._form(FORMS[self.forms][kind])
        question = self._ask(form, n=self._spell(self.entries[number]), p=self._mark(subject, 0.2), s="")
        name = written(self.entries[number])
        return Pair(question, REFUSAL, "not stated", number, asks=kind, name=name, subject=subject)

    def _off_topic(self) -> Pair:
        return Pair(self._ask(self._form(OFF_TOPIC[self.forms])), REFUSAL, "off topic")

    def _spell(self, entry: Entry) -> str:
        """A name as people write it: in full, called, in back quotes, bare with its module named, or just bare."""
        if entry.kind == "topic":
            return self.rng.choice([f"the {entry.name} statement", f"the topic {entry.name}", f"topic {entry.name}"])
        name, draw = entry.name, self.rng.random()
        module, _, last = name.rpartition(".")
        if draw < 0.15 and entry.kind == "function":
            return f"{name}()"
        if draw < 0.25:
            return f"`{name}`"
        if draw < 0.35 and module:
            what = {"function": "function", "class": "class"}.get(entry.kind, "attribute")
            return f"the {last} {what} {self.rng.choice(['of', 'in', 'from'])} {module}"
        return name

    def _mark(self, text: str, share: float) -> str:
        return f"`{text}`" if self.rng.random() < share else text

    def _roughen_wish(self, wish: str) -> str:
        """Leave out some of the small words, and at times one other, as a memory of the documentation would."""
        words = wish.split()
        content = [i for i, word in enumerate(words) if i and word.lower() not in _FILLERS]
        lost = self.rng.choice(content) if len(content) >= 4 and self.rng.random() < 0.25 else -1
        kept = [w for i, w in enumerate(words) if i != lost and (i in content or not i or self.rng.random() > 0.3)]
        return " ".join(kept)

    def _form(self, patterns: Sequence[str]) -> str:
        """One sentence of the patterns; in training, loosened, and never one for evaluation, give or take a word."""
        while True:
            form = expand(self.rng.choice(patterns), self.rng)
            if self.forms == "held_out":
                return form
            form = _loosen(form, self.rng)
            if not near_held_out(form):
                return form

    def _ask(self, form: str, **slots: str) -> str:
        rng = self.rng
        if rng.random() < 0.06:
            form = _slip(form, rng)
        if rng.random() < 0.25:
            form = form.rstrip("?.")
        if rng.random() < 0.3:
            form = form.lower()
        if rng.random() < 0.12:
            form = rng.choice(OPENERS[self.forms]) + form
        if rng.random() < 0.08:
            form = form + rng.choice(CLOSERS[self.forms])
        question = form.format(**slots) if slots else form
        if rng.random() < 0.5 and not slots.get("n", " ")[:1].islower():
            return question[:1].upper() + question[1:]
        return question


def _loosen(form: str, rng: random.Random) -> str:
    """Leave a word out, or change the order of the words: few of them decide what the question asks for."""
    words = form.split(" ")
    plain = [i for i, word in enumerate(words) if "{" not in word and word.lower().strip("?.,") in _SMALL_WORDS]
    draw = rng.random()
    if draw < 0.15 and plain and len(words) > 3:
        del words[rng.choice(plain)]
    elif draw < 0.22 and len(words) > 3:
        cut = rng.randrange(1, len(words))
        words = words[cut:] + words[:cut]
    return " ".join(words)


def _slip(form: str, rng: random.Random) -> str:
    """Swap two letters of one small word."""
    words = form.split(" ")
    small = [i for i, word in enumerate(words) if len(word) > 1 and word.lower() in _SMALL_WORDS]
    if small:
        i = rng.choice(small)
        at = rng.randrange(len(words[i]) - 1)
        word = words[i].lower()
        words[i] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return " ".join(words)


def _nonsense(rng: random.Random) -> str:
    """A word that could be one."""
    return "".join(rng.choice("bdfgklmnprstvwz") + rng.choice("aeiou") for _ in range(rng.choice([2, 3]))) + rng.choice(
        "nrtlx"
    )


def written(entry: Entry) -> str:
    """An entry's name as questions and titles have it once it is written in full."""
    return f"topic {entry.name}" if entry.kind == "topic" else entry.name


def entry_passages(entries: Sequence[Entry], public: Mapping[str, str] | None = None) -> list[Passage]:
    """The passages of every public entry, in order; private names are not indexed, but under their public one.

    Args:
        public: by the name of an entry, the one that programs write (`_thread.allocate_lock`: `threading.Lock`).
    """
    public = public or {}
    shown = (
        (number, replace(entry, name=public.get(entry.name, entry.name)) if entry.private else entry)
        for number, entry in enumerate(entries)
    )
    return [p for number, entry in shown if not entry.private for p in passages_of(entry, number)]


def known_names(entries: Sequence[Entry], names: Sequence[Name]) -> list[Known]:
    """Further names as the index holds them: the entries they lead to as numbers."""
    numbers = {entry.name: number for number, entry in enumerate(entries) if entry.kind != "topic"}
    return [
        Known(name.name, numbers.get(name.entry, -1), name.signature, numbers.get(name.relative, -1))
        for name in names
        if not any(part.startswith("_") for part in name.name.split("."))
    ]


def entry_calls(entries: Sequence[Entry], names: Sequence[Name], calls: Mapping[str, int]) -> dict[int, float]:
    """How often programs call each entry: under a name of its own, or by its last part alone (`.append`), where no
    more than `BEARERS` entries have that."""
    own = {entry.name: number for number, entry in enumerate(entries) if entry.kind != "topic"}
    named = own | {name.name: own[name.entry] for name in names if name.entry in own}
    last: dict[str, list[int]] = defaultdict(list)
    for name, number in own.items():
        last[f".{name.rpartition('.')[2]}"].append(number)
    found: Counter[int] = Counter()
    for name, count in calls.items():
        bearers = [named[name]] if name in named else last.get(name, [])
        found.update(dict.fromkeys(bearers if len(bearers) <= BEARERS else [], count))
    return {number: float(count) for number, count in found.items()}
