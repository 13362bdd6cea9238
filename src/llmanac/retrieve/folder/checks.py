"""Whether a passage supports a sentence that a model wrote: a check of words against one sentence of the passage.

A sentence is supported where one sentence of the passage

1. has every name and number of it, and a content word that is next to the number, where there is one;
2. denies the same words ("not");
3. has `AGREES` of the other words that it adds to the question, rare words counting more; where it adds a name or a
   number alone, one word of the question; where it adds nothing, `AGREES` of all its other words.

What the passage's headings say belongs to each of its sentences. A sentence with a pronoun before any name ("Its keeper
is ...") has the names of the one before it, and the words of the question that are in that one. A last name stands for
the full one that the passage has. Whether words in another order say something else is not seen.

That is stricter than the support of a question by a complete passage (`quotes.py`), which decides on refusals.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from llmanac.metrics import stem
from llmanac.retrieve._words import STOP, content
from llmanac.retrieve.folder.quotes import ORDERS, spans

AGREES = 0.5
_TOKEN = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+(?:['’][^\W\d_]+)*")
_FORMS = "it its he his him she her they their them"
_THIS = ("this", "these")  # where a sentence begins with them
_DENIALS = "no not never none nor neither nobody nothing cannot without"
_FRAMES = "yes yeah no indeed correct sure according based passage document text provided mention state"
_COUNTS = "two three four five six seven eight nine ten eleven twelve"
_PRONOUNS, _NOT = frozenset(_FORMS.split()), frozenset(_DENIALS.split())
_FRAME = frozenset(map(stem, _FRAMES.split()))  # how an answer begins, or says where it is from
COUNTS = {word: str(number) for number, word in enumerate(_COUNTS.split(), 2)}
_NAME = re.compile(r"[A-Z][^\W\d_]+(?: [A-Z][^\W\d_]+){1,3}")  # of several words
Weight = Callable[[str], float]
_WHERE = re.compile(r"(?i)\bpassages? \d+")


@dataclass(frozen=True)
class Said:
    """What a sentence says.

    Attributes:
        numbers: without commas of thousands, with the stems of the content words directly before and after each.
        names, words: stems of names, and of all other content words; denied: of those that a "not" is before.
        pronoun: whether a pronoun comes before any name.
    """

    names: frozenset[str]
    words: frozenset[str]
    numbers: dict[str, frozenset[str]]
    denied: frozenset[str]
    pronoun: bool

    @property
    def all(self) -> frozenset[str]:
        """Stems of all content words."""
        return self.names | self.words


def names_in(text: str) -> frozenset[str]:
    """Stems of words with a capital letter that do not begin a sentence."""
    found: set[str] = set()
    for begin, end in spans(text):
        tokens = _TOKEN.findall(text[begin:end])
        found |= {_stem(token) for token in tokens[1:] if token[0].isupper() and not _empty(token)}
    return frozenset(found)


def _stem(token: str) -> str:
    return stem(re.sub(r"['’]s?$", "", token).lower())


def _empty(token: str) -> bool:
    """Whether it is no content word."""
    word = token.lower()
    return stem(word) in STOP or word in _NOT or word in _PRONOUNS or "n't" in word.replace("’", "'")


def said(text: str, known: frozenset[str]) -> Said:
    """Read one sentence; `known` names are names also where they begin it."""
    tokens = _TOKEN.findall(_WHERE.sub(" ", text))
    names: set[str] = set()
    words: set[str] = set()
    near: dict[str, frozenset[str]] = {}
    denied: set[str] = set()
    pronoun = denies = False
    for place, token in enumerate(tokens):
        word = token.lower().replace("’", "'")
        if token[0].isdigit() or word in COUNTS:
            number = COUNTS.get(word) or re.sub(r",(?=\d{3}\b)", "", token)
            beside = (tokens[i] for i in (place - 1, place + 1) if 0 <= i < len(tokens))
            found = {_stem(one) for one in beside if not (one[0].isdigit() or one.lower() in COUNTS or _empty(one))}
            near[number] = near.get(number, frozenset()) | found
        elif word in _NOT or word.endswith("n't"):
            denies = not (word == "no" and place == 0) and tokens[place + 1 : place + 2] != ["only"]
        elif not _empty(token):
            key = _stem(token)
            if key in known or (place and token[0].isupper()):
                names.add(key)
            elif key not in _FRAME:
                words.add(key)
            if denies:
                denied.add(key)
            denies = False
        elif word in _PRONOUNS or (not place and word in _THIS):
            pronoun = pronoun or not names
    return Said(frozenset(names), frozenset(words), near, frozenset(denied), pronoun)


def agreement(sentence: str, question: str, heading: str, text: str, weight: Weight) -> float:
    """How much of a written sentence the best sentence of a passage has, 0 to 1; 0 where a rule above is broken."""
    known = names_in(text) | names_in(heading) | names_in(question) | names_in(sentence)
    one, asked = said(sentence, known), content(question)
    firsts = [(parts[-1], parts[:-1]) for parts in (list(map(_stem, n.split())) for n in _NAME.findall(text))]
    best, above = 0.0, content(heading)
    names = words = denied = frozenset[str]()  # with what a pronoun stands for
    for begin, end in spans(text):
        if ORDERS.search(text[begin:end]):
            continue
        held = said(text[begin:end], known)
        full = frozenset().union(*(first for last, first in firsts if last in held.names))
        names = held.names | full | (names if held.pronoun else frozenset())
        words = held.words | (words if held.pronoun else frozenset())
        denied = held.denied | (denied if held.pronoun else frozenset())
        own = held.all | above
        near = (not beside or beside & own for beside in one.numbers.values())
        named = one.names <= names | above and one.numbers.keys() <= held.numbers.keys()
        alike = one.denied == denied & one.all
        if named and alike and all(near):
            best = max(best, _share(one, asked, own, names | words | above, weight))
    return best


def _share(one: Said, asked: frozenset[str], own: frozenset[str], carried: frozenset[str], weight: Weight) -> float:
    """The share of a sentence's words that are there."""
    if not one.words:
        return float(bool((one.names or one.numbers) and own & asked))
    new, again = one.words - asked, one.words & carried
    if not new and (one.names | one.numbers.keys()) - asked:  # it says the question again, with a name or a number
        return float(bool(again))
    return sum(map(weight, new & own if new else again)) / sum(map(weight, new or one.words))
