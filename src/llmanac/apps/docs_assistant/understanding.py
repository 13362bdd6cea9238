"""What a question is about: a name in it, whatever its spelling, else the name that the conversation was about."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from llmanac.apps.docs_assistant.choice import ASPECT
from llmanac.apps.docs_assistant.facts import parameters
from llmanac.apps.docs_assistant.index import DocumentationIndex
from llmanac.apps.docs_assistant.names import CERTAIN, Known
from llmanac.apps.docs_assistant.prompt import Asked
from llmanac.apps.docs_assistant.words import QUOTED, STOP, content, stems

_NAME = re.compile(r"`?(?<![\w.\\/@-])([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)(\()?")
_CODE = re.compile(r"[a-z]_[a-z]|[a-z][A-Z]|^[A-Z][a-z]+[A-Z]")
_ABBREVIATION = re.compile(r"(?i)^(?:e\.g|i\.e|a\.k\.a|vs|etc)$")
_BEFORE = re.compile(r"(?i)(?:^|\b(?:does|do|can|will|is|use|using|call|calling) )$")
_AFTER = re.compile(
    r"(?i) (?:of|with|without|on|in|for|to|from|when|if|and|over|return|returns|raise|raises)\b|:| ?\?*$"
)
_FILE = re.compile(r"(?i)\.(?:txt|csv|py|json|html?|xml|zip|gz|tar|log|ini|toml|cfg|png|jpe?g|pdf|exe|com|org|md)$")
_BACK = re.compile(r"(?i)\b(?:it|its|that|this|those|these|them|they|there|then|one|ones|and|ok|okay|so|else)\b")
_TASK = re.compile(
    r"(?i)^(?:so )?(?:how (?:do|can|would|should|could) (?:i|you|we)|how to|is there (?:a|an|some|any))\b"
)
_IT = re.compile(r"(?i)\b(?:does|do|did|can|will|would|could|should|is) (it|that|this)\b")
TWIN = 0.9  # likeness of a documented name that is taken for one without docstring
SHORT = 4  # letters of a name that is too short to be recognised by the word before it
FEW = 4  # words of content up to which a question in a conversation says too little to stand for itself
STANDS_ALONE, CLEARLY = 0.75, 2.0  # coverage of its words by another entry, and how many times that of the entry before

How = Literal["named", "spelt", "carried", "nothing"]


@dataclass(frozen=True)
class Understood:
    """What a question is about.

    Attributes:
        asked: the question taken apart at the name; for a name that was carried over, the name set before it.
        how: the name is in the question; is there in another spelling; is carried over; there is none.
        known: the name; None where there is none.
        unknown: a name in the question that is nowhere in the documentation.
        near: further names similar to the one in the question, the most similar first.
        wanted: the stems of the question, without the name.
    """

    asked: Asked
    how: How
    known: Known | None = None
    unknown: str = ""
    near: tuple[Known, ...] = ()
    wanted: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Mention:
    """A name in a question: its span, how certain it is that it is one, and the names that it resembles."""

    span: tuple[int, int]
    strength: float
    word: str
    score: float
    ranked: tuple[tuple[float, Known], ...]

    @property
    def known(self) -> Known | None:
        """The name it is taken for, where that is certain; for a name without docstring, its documented twin
        (`assertAlmostEquals`: `assertAlmostEqual`)."""
        if not self.ranked or self.score < CERTAIN:
            return None
        twins = (known for score, known in self.ranked if known.entry >= 0 and score >= TWIN)
        first = self.ranked[0][1]
        return first if first.entry >= 0 else next(twins, first)

    @property
    def near(self) -> tuple[Known, ...]:
        """What else it resembles."""
        return tuple(known for _, known in self.ranked if known is not self.known)

    @property
    def missing(self) -> bool:
        """Whether it is written as a name beyond doubt, and is none."""
        return self.known is None and self.strength >= 2


def understand(index: DocumentationIndex, question: str, history: Sequence[str] = ()) -> Understood:
    """What a question is about, given the user's earlier questions, oldest first."""
    question = question.strip()
    here = _mention(index, question)
    asked = index.understood(question)
    plain = index.known(asked.entry)
    before = _topic(index, history)
    if here and before and _parameter(index, here.word, before):
        return Understood(_carried(index, question, before), "carried", before, wanted=_wanted(index, question))
    if here and here.known and not _closer(plain, here.known, index):
        return _about(index, question, here)
    if here and here.missing:
        return Understood(Asked(question), "nothing", None, here.word, here.near, _wanted(index, question))
    if plain and (before is None or (here and here.known)):
        return Understood(asked, "named", plain, wanted=_wanted(index, f"{asked.before} {asked.after}", plain))
    wanted = _wanted(index, question)
    if before is None:
        return Understood(Asked(question), "nothing", wanted=wanted)
    if not _goes_on(index, question, wanted, before):
        return Understood(Asked(question), "nothing", wanted=wanted)
    return Understood(_carried(index, question, before), "carried", before, wanted=wanted)


def _parameter(index: DocumentationIndex, word: str, known: Known) -> bool:
    """Whether a word is a parameter of what the conversation is about, and no name of its own."""
    title = index.first_passage(known.entry).title if known.entry >= 0 else known.signature
    return "." not in word and word in parameters(title.removeprefix(known.name))


def _closer(plain: Known | None, here: Known | None, index: DocumentationIndex) -> bool:
    """Whether the name as a whole question spells it (`the open function of tarfile`) is what was meant: the very entry
    that one word of it names, or a part of that."""
    if plain is None or here is None:
        return False
    own = index.known(here.entry)
    names = {here.name, own.name if own else here.name}
    return plain.entry == here.entry or any(plain.name.startswith(f"{name}.") for name in names)


def _about(index: DocumentationIndex, question: str, here: _Mention) -> Understood:
    known = here.known
    assert known is not None
    start, stop = here.span
    before, after = question[:start].rstrip("`"), question[stop:].lstrip("`").removeprefix("()").lstrip("`")
    own = index.known(known.entry)
    asked = Asked(before, own.name if own else known.name, after, known.entry)
    how: How = "named" if here.score >= 1 and known is here.ranked[0][1] else "spelt"
    return Understood(asked, how, known, "", here.near, _wanted(index, f"{before} {after}", known))


def _wanted(index: DocumentationIndex, text: str, known: Known | None = None) -> tuple[str, ...]:
    """What is asked, without the words of the name that it is asked of."""
    own = set(stems(known.name)) if known else set()
    return tuple(stem for stem in content(text, index.ranking.body.vocabulary) if stem not in own)


def _carried(index: DocumentationIndex, question: str, known: Known) -> Asked:
    """The question with the name in place of a pronoun, else before the question."""
    own = index.known(known.entry)
    name = own.name if own else known.name
    if match := _IT.search(question):
        return Asked(question[: match.start(1)], name, question[match.end(1) :], known.entry)
    return Asked("", name, f": {question}", known.entry)


def _named_before(index: DocumentationIndex, turn: str) -> Known | None:
    here = _mention(index, turn)
    if here:
        return here.known
    entry = index.understood(turn).entry
    return index.known(entry) if entry >= 0 else None


def _topic(index: DocumentationIndex, history: Sequence[str]) -> Known | None:
    """The name that a conversation is about: the last one named, as long as every question since goes on about it."""
    topic = None
    for turn in history:
        named, wanted = _named_before(index, turn), _wanted(index, turn)
        if named or (topic and wanted and not _goes_on(index, turn, wanted, topic)):
            topic = named
    return topic


def _goes_on(index: DocumentationIndex, question: str, wanted: Sequence[str], before: Known) -> bool:
    """Whether a question that names nothing is about the name before it: it refers back, asks for what entries say
    (what is returned, raised, a default), or no other entry speaks of it much better. A new task ("how do I ...") is
    not."""
    if not wanted or _TASK.search(question):
        return bool(_BACK.search(question) or ASPECT.search(question))
    own = index.ranking.coverage(wanted, index.stems_of(before.entry)) if before.entry >= 0 else 0.0
    best = max((one.share for one in index.ranking.best(question, 1)), default=0.0)
    stands_alone = best >= STANDS_ALONE and best > CLEARLY * own
    if _BACK.search(question):
        return not (stands_alone and len(wanted) > FEW)
    return bool(ASPECT.search(question)) or not stands_alone


def _mention(index: DocumentationIndex, question: str) -> _Mention | None:
    """The name that a question asks about: a dotted one before one that is called, before one written as code."""
    text = QUOTED.sub(lambda m: " " * len(m.group()), question)
    matches = [m for m in _NAME.finditer(text) if not _ABBREVIATION.match(m.group(1))]
    words = [m.group(1) for m in matches]
    found: list[_Mention] = []
    for place, match in enumerate(matches):
        word = words[place]
        strength = _strength(index, word, called=bool(match.group(2)), quoted=match.group().startswith("`"))
        if not strength and word in index.known_names.exact and word not in STOP:  # `max of ...`, `does sorted ...`
            strength = 1.5 * bool(_BEFORE.search(text[: match.start()]) and _AFTER.match(text, match.end()))
        if not strength or text[match.end(1) : match.end(1) + 1] in ("=", "/"):
            continue  # a word, an argument that is given by name, or a folder
        if place and not strength and len(word) > SHORT and index.known_names.belongs(words[place - 1], word):
            strength = 2.0  # `deque maxlen`
        near = [part for other in (*words[:place], *words[place + 1 :]) for part in other.split(".")]
        ranked = index.known_names.find(word, near)
        score = ranked[0][0] if ranked else 0.0
        if strength < 2 and score < 0.97:
            continue
        if "." in word and score < CERTAIN and _FILE.search(word):
            continue
        found.append(_Mention(match.span(1), strength, word, min(score, 1.0), tuple(ranked)))
    known = [m for m in found if m.known]
    return max(known or found, key=lambda m: (m.strength - _exception(m), -m.span[0]), default=None)


def _strength(index: DocumentationIndex, word: str, *, called: bool, quoted: bool) -> float:
    """How certainly a word is written as a name; 0 where it is an ordinary word."""
    if "." in word:
        return 4.0
    if called:
        return 3.0
    if quoted or _CODE.search(word):
        return 2.0
    return 1.0 if len(word) > 4 and word.lower() not in STOP and not index.ordinary(word) else 0.0


def _exception(mention: _Mention) -> float:
    """Exceptions are mostly mentioned as the result of a call, not as the subject."""
    return 1.5 if mention.word.endswith(("Error", "Exception", "Warning")) else 0.0
