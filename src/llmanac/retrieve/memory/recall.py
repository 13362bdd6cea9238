"""Which facts a question means, and which ones a later statement replaces or ends.

A question's fact is found by the weighted share of the question's content words that it holds (its sentence and the
words that ask for it); among equal ones the newest is first.
"""

from __future__ import annotations

import functools
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from llmanac.evaluate._english import FUNCTION
from llmanac.metrics._porter import stem
from llmanac.retrieve._words import plain_words
from llmanac.retrieve.memory import forms, plain
from llmanac.retrieve.memory.rules import Change, subject_of

LEAST = 0.34  # of a question's words: below, no fact is meant
NEAR = 0.2  # cosine with the question from which a fact is meant
WORDS = 0.25  # weight of the words' share where there are cosines
PERSON = frozenset(forms.PERSON.split())
OTHERS = 0.2  # what a fact of somebody else loses where the question does not name them
NAMED = 0.5  # of a fact's subject or value, that a clause must name to end it
_ASKING = "what which who whom whose when where why how am is are was do does did user please tell said"
ASKING = frozenset(_ASKING.split())


_KIN = """mother mum mom mummy mama; father dad daddy papa; grandmother grandma gran granny nan; brother bro;
sister sis; grandfather grandpa grandad granddad; son boy; daughter girl; children kids child kid"""
KIN = {word: group.split()[0] for group in _KIN.split(";") for word in group.split()}


@dataclass(frozen=True)
class Fact:
    """id: as `llmanac memory` names it; stated: seconds since 1970; number: of the statement, from 1."""

    id: int
    subject: str
    value: str
    text: str
    cues: str
    stated: float
    number: int


_SHORT = re.compile(r"['’](?:m|ve|re|d|ll|s|t)\b")


@functools.lru_cache(maxsize=65536)
def content(text: str) -> frozenset[str]:
    """Stems of the words of a text by which facts are found."""
    words = [KIN.get(word, word) for word in plain_words(_SHORT.sub("", text))]
    return frozenset(stem(word) for word in words if word not in FUNCTION and word not in ASKING)


def owner(fact: Fact) -> frozenset[str]:
    """Whose a fact is, besides the user's own: of "sister's job" the stem of "sister"."""
    whose = re.split(r"['’]s |: ", fact.subject, maxsplit=1)
    if len(whose) < 2 or not re.search(rf"(?i)\b(?:my|our|user's) {re.escape(whose[0])}\b", fact.text):
        return frozenset()
    return content(whose[0])


def ranked(
    question: str, facts: Sequence[Fact], k: int, least: float = LEAST, nearness: Sequence[float] | None = None
) -> list[Fact]:
    """The k facts that a question means, best first; none where fewer than `least` of its words, by weight, match.

    Args:
        nearness: of each fact, its cosine with the question; a fact of at least `NEAR` may lack the question's words.
    """
    held = [content(f"{fact.subject} {fact.text} {fact.cues}") for fact in facts]
    counts = Counter(word for words in held for word in words)
    asked = content(question) or frozenset(question.lower().split())
    weights = {word: math.log(1 + (len(facts) + 1) / (counts[word] + 0.5)) for word in asked}
    total = sum(weights.values())
    rated = []
    for i, (fact, words) in enumerate(zip(facts, held, strict=True)):
        share = sum(weights[word] for word in asked & words) / total if total else 0.0
        near = float(nearness[i]) if nearness is not None else 0.0
        if share >= least or near >= NEAR:
            subject = content(fact.subject)  # "name" is nearer to "called" than "dog's name" is
            own = 0.2 * len(asked & subject) / (1 + len(subject - asked)) - 0.02 * len(subject - asked)
            score = share + own if nearness is None else WORDS * (share + own) + near
            if (whose := owner(fact)) and not whose & asked:
                score -= OTHERS
            rated.append((round(score, 9), fact.number, fact))
    return [fact for _, _, fact in sorted(rated, key=lambda one: (-one[0], -one[1]))[:k]]


def ended(clause: str, facts: Sequence[Fact], own: bool = True) -> list[Fact]:
    """The fact that a clause about an end names: enough of its subject or of its value is among the clause's words."""
    said = content(clause)

    def share(text: str) -> float:
        words = content(text)
        part = len(words & said) / len(words) if words else 0.0
        noun = stem(plain_words(text)[-1]) if words else ""  # of "training for a marathon" the last word says more
        return part if part != 0.5 or noun in said else 0.0

    def named(fact: Fact) -> float:
        head, _, thing = fact.subject.partition(":")
        alone = not thing or said <= content(head)  # "I stopped smoking" ends "smoke: a pack a day"
        return max(share(fact.value), share(head) if alone else 0.0)

    facts = [fact for fact in facts if own or fact.subject not in PERSON]
    rated = [(named(fact), len(content(fact.text) & said), fact.number, fact) for fact in facts]
    best = max(rated, key=lambda one: one[:3], default=None)
    return [best[3]] if best is not None and best[0] >= NAMED else []


def meant(text: str, facts: Sequence[Fact]) -> list[Fact]:
    """The facts of a subject that is named: it, those of the thing that it names ("the cat"), or the best that fits."""
    said = content(text)
    exact = [fact for fact in facts if fact.subject == subject_of(text)]
    within = [fact for fact in facts if said and content(fact.subject) and content(fact.subject) <= said]
    things = [fact for fact in facts if re.match(rf"{re.escape(subject_of(text))}(?:['’]s|:) ", fact.subject)]
    return exact or within or things or ranked(text, facts, 1, least=0.5)


def unwanted(change: Change, facts: Sequence[Fact]) -> list[Fact]:
    """The facts that a wish to forget means: of "my name is Bob" and "is not Bob" only a name that is Bob."""
    if change.subject:  # what is denied is of this subject exactly
        found = [fact for fact in facts if fact.subject == subject_of(change.subject)]
    else:
        found = meant(change.text, facts)
    words = set(plain_words(change.value)) - {"a", "an", "the"}
    if not change.value:
        return found
    return [fact for fact in found if words and words <= {*plain_words(fact.value)}]


def replaced(change: Change, facts: Sequence[Fact]) -> tuple[list[Fact], str]:
    """The facts that a statement replaces besides that of its own subject, and the subject that it is kept by.

    The subject is empty where nothing is to be kept: an "update" of no known fact, or of several; and words of no
    quantity that are said, not as news, of what has a quantity or date ("my budget is tight").
    """
    if change.only:
        same = [fact for fact in facts if fact.value.lower() == change.value.lower() and fact.subject != change.subject]
        return same, change.subject
    known = next((fact for fact in facts if fact.subject == change.subject), None)
    if known is not None:
        vague = plain.slot(known.value)[0] and not plain.slot(change.value)[0] and not change.renewed
        return [], "" if vague else change.subject
    if change.kind == "update":
        named = [
            f
            for f in facts
            if (_fits(change.subject, f) if change.subject else change.renewed and _same_unit(change, f))
        ]
        return [], named[0].subject if len(named) == 1 else ""
    like = [fact for fact in facts if change.renewed and _renews(change, fact)]
    return (like if len(like) == 1 else []), change.subject


def _fits(subject: str, fact: Fact) -> bool:
    """Whether a known fact is of this subject in other words ("thesis deadline": "deadline for the thesis")."""
    mine, its = content(subject), content(fact.subject)
    return bool(mine and its) and (mine <= its or its <= mine)


def _renews(change: Change, fact: Fact) -> bool:
    """Whether news replace an earlier fact: of the same verb another version, of the same frame another slot."""
    verb, _, thing = fact.subject.partition(":")
    if thing:
        return (
            change.subject.startswith(f"{verb}:")
            and re.search(r"\d", change.value) is not None
            and (_unit(change.value) == _unit(fact.value))
        )
    kind, old = plain.slot(change.value)[0], plain.slot(fact.value)[0]
    its = content(fact.subject)
    mine = content(f"{change.subject} {change.text}")
    names = {stem(name.lower()) for name in re.findall(r"\b[A-Z]\w+", change.text)}
    return kind == old != "" and bool(its) and (its <= mine or bool(its & mine & names)) and "'s " not in fact.subject


def _same_unit(change: Change, fact: Fact) -> bool:
    (kind, value), (old, before) = plain.slot(change.value), plain.slot(fact.value)
    return kind == old and kind in ("money", "measure") and _unit(value) == _unit(before)


def _unit(text: str) -> str:
    return re.sub(r"[\d.,\s]+", "", text).lower()
