"""The many ways to ask. Forms for training and forms for evaluation are different sentences, and never meet.

`training_forms` has those for training. `(a|b)` in a pattern is a choice; `{n}` is the name asked about,
`{p}` a parameter, `{s}` a wish ("copy a file").
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from llmanac.apps.docs_assistant.facts import Kind
from llmanac.apps.docs_assistant.training_forms import TRAINING

FormSet = Literal["training", "held_out"]
_CHOICE = re.compile(r"\(([^()]*)\)")

HELD_OUT: Mapping[Kind, Sequence[str]] = {
    "what": (
        "Could you explain what {n} is doing?",
        "What's the point of {n}?",
        "Give a short explanation of {n}.",
        "I came across {n}; what is that for?",
        "Say in one sentence what {n} does.",
        "What is the purpose of {n}?",
        "Please summarize the function {n}.",
        "What would calling {n} do for me?",
        "Help me understand {n}.",
        "{n} does what?",
    ),
    "arguments": (
        "Which parameters are accepted by {n}?",
        "Can you show the signature for {n}?",
        "I need to call {n}: what are its arguments?",
        "What are the parameters of {n}?",
        "Name all arguments that {n} takes.",
        "How is {n} called?",
        "What must be passed to {n}?",
        "Tell me the call signature of {n}.",
        "To use {n}, which arguments do I give?",
        "The argument list of {n}, please.",
    ),
    "returns": (
        "What kind of value is returned from {n}?",
        "When {n} is called, what does it give back?",
        "What gets returned by {n}?",
        "I call {n}; what is the result?",
        "Say what {n} returns.",
        "What should I expect as the return value from {n}?",
        "Could you tell me what comes back from {n}?",
        "On success, what does {n} return?",
        "The output of {n} is what?",
        "{n}: what does it return?",
    ),
    "raises": (
        "Under what circumstances does {n} raise an error?",
        "Which exceptions might be raised by {n}?",
        "When will {n} throw?",
        "What kind of exception could {n} raise?",
        "I call {n}; which errors can occur?",
        "Does {n} ever raise anything?",
        "List the exceptions raised in {n}.",
        "What errors should I expect from {n}?",
        "In which case is an exception raised by {n}?",
        "{n}: what does it raise?",
    ),
    "default": (
        "When {p} is not given, which default does {n} take?",
        "Which value is the default for the {p} parameter of {n}?",
        "Calling {n} without {p}: what is its default?",
        "Say what {p} is by default when {n} is called.",
        "What default value does {n} give {p}?",
        "For {n}, the default of {p} is what?",
        "Could you look up the default value for {p} in {n}?",
        "What would {p} be by default for {n}?",
    ),
    "parameter": (
        "Can you explain what {p} means for {n}?",
        "What role does the {p} argument play in {n}?",
        "What is the meaning of the parameter {p} in {n}?",
        "When calling {n}, what do I give as {p}?",
        "Say what the {p} parameter of {n} does.",
        "Help me understand the option {p} of {n}.",
        "The argument {p} of {n} does what?",
        "Which effect has {p} on {n}?",
    ),
    "which": (
        "What should I call to {s}?",
        "I am looking for a way to {s}.",
        "What is the name of the function to {s}?",
        "Can you tell me how to {s}?",
        "Is it possible to {s}? With what?",
        "Which call lets me {s}?",
        "Help me {s}.",
        "My program has to {s}; what do I use?",
    ),
}

OPENERS: Mapping[FormSet, Sequence[str]] = {
    "training": (
        "In Python, ",
        "Please: ",
        "Hi, ",
        "Hello there! ",
        "Question: ",
        "Quick question, ",
        "Another question: ",
        "I want to know: ",
        "Tell me, ",
        "Can you help me? ",
        "For a program of mine, ",
        "I wonder: ",
        "Sorry, ",
        "Now, ",
    ),
    "held_out": ("Hey there, ", "One more thing: ", "For my script, ", "Could you help? ", "Python question: "),
}
CLOSERS: Mapping[FormSet, Sequence[str]] = {
    "training": (
        " Thanks.",
        " in python",
        " Please answer.",
        " (Python)",
        " Be brief.",
        " Thanks a lot!",
        " I am on Python 3.11",
        " Please",
        " in the library",
        " Bye",
    ),
    "held_out": (" Thank you!", " I use Python 3.", " Cheers", " in the standard library"),
}
OFF_TOPIC: Mapping[FormSet, Sequence[str]] = {
    "training": (
        "What is the (capital|population|currency|flag) of (France|Japan|Brazil|Egypt|Norway|Peru)?",
        "Will it (rain|snow) (today|tomorrow|on Sunday)?",
        "Who (wrote|painted|composed) (Hamlet|the Mona Lisa|the Ninth Symphony|Faust)?",
        "Tell me a (joke|story|secret).",
        "What is the best (pizza|restaurant|hotel) in (Rome|Paris|Chicago)?",
        "How (tall|old|heavy) is (the Eiffel Tower|an elephant|the moon|my dog)?",
        "Who won the (election|match|world cup) in (1998|2006|2014)?",
        "What should I (eat|cook|wear) (tonight|tomorrow)?",
        "How do I (bake bread|grow tomatoes|tie a tie|learn to swim|lose weight)?",
        "(Do you love me|Are you alive|Who are you|How are you)?",
        "When (was|did) (the second world war|Napoleon|Mozart) (end|die|born)?",
        "What (is|are) (photosynthesis|black holes|volcanoes|vitamins)?",
        "Translate (good morning|thank you|cheese) into (German|Spanish|Latin).",
        "Which (team|horse|party) will win?",
        "What is the (meaning|purpose) of life?",
        "Recommend me a (film|novel|song).",
        "How far is (Berlin from Madrid|the sun|the next station)?",
        "What did the (president|pope|queen) say?",
        "Is (chocolate|coffee|sugar) healthy?",
        "Play some (jazz|music).",
    ),
    "held_out": (
        "How is the weather in London?",
        "Who is the king of Sweden?",
        "Where can I buy cheap shoes?",
        "Which planet is the largest?",
        "What time does the train to Vienna leave?",
        "How many legs does a spider have?",
        "Write a poem about autumn.",
        "Why is the sky blue?",
        "What is the recipe for pancakes?",
        "Should I invest in gold?",
        "Who discovered penicillin?",
        "What is my name?",
        "Do cats dream?",
        "How much does a house cost in Denver?",
        "Who scored the most goals last season?",
        "Sing me a lullaby.",
        "What language do they speak in Chile?",
        "Is there life on Mars?",
        "How long should I boil an egg?",
        "Which airline is the safest?",
    ),
}
FORMS: Mapping[FormSet, Mapping[Kind, Sequence[str]]] = {"training": TRAINING, "held_out": HELD_OUT}


def expand(pattern: str, rng: random.Random) -> str:
    """One sentence of a pattern, its choices drawn."""
    return _CHOICE.sub(lambda match: rng.choice(match.group(1).split("|")), pattern)


def every(pattern: str) -> Iterator[str]:
    """All sentences of a pattern."""
    match = _CHOICE.search(pattern)
    if match is None:
        yield pattern
        return
    for choice in match.group(1).split("|"):
        yield from every(pattern[: match.start()] + choice + pattern[match.end() :])


def plain(form: str) -> str:
    """A form without case and punctuation: two forms are the same sentence when these are equal."""
    return " ".join(re.findall(r"[a-z{}]+", form.lower()))


@functools.lru_cache(maxsize=50_000)
def near_held_out(form: str) -> bool:
    """Whether a form is a form for evaluation, give or take one word (another one, one more, one less)."""
    words = tuple(plain(form).split())
    whole, shorter, gapped = _near_held_out()
    return (
        words in whole
        or words in shorter
        or any(one in whole for one in _shortened(words))
        or any(one in gapped for one in _gapped(words))
    )


@functools.cache
def _near_held_out() -> tuple[frozenset[tuple[str, ...]], ...]:
    """Every form for evaluation as its words; these with one word left out; with one word blanked out."""
    patterns = [pattern for kind in HELD_OUT.values() for pattern in kind] + list(OFF_TOPIC["held_out"])
    whole = {tuple(plain(form).split()) for pattern in patterns for form in every(pattern)}
    return tuple(
        frozenset(found)
        for found in (whole, (s for w in whole for s in _shortened(w)), (g for w in whole for g in _gapped(w)))
    )


def _shortened(words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    return (words[:i] + words[i + 1 :] for i in range(len(words)))


def _gapped(words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    return ((*words[:i], "", *words[i + 1 :]) for i in range(len(words)))


@functools.cache
def form_words() -> frozenset[str]:
    """The words that training questions are made of, in lower case: they say what is asked, not what about."""
    return frozenset(_kinds_of_words()) | _SMALL


@functools.cache
def asking_words() -> frozenset[str]:
    """Those of them that serve several kinds of questions: they say nothing that a passage could hold."""
    return frozenset(word for word, kinds in _kinds_of_words().items() if len(kinds) > 1) | _SMALL


def _kinds_of_words() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    extra = {"openers": OPENERS["training"], "closers": CLOSERS["training"]}
    for kind, patterns in [*TRAINING.items(), *extra.items()]:
        for word in re.findall(r"[a-z']+", re.sub(r"\{\w\}", " ", " ".join(patterns)).lower()):
            found.setdefault(word, set()).add(kind)
    return found


_SMALL_WORDS = """
a an the and or of in on at to for from with by as is are was be been it its this that these those there here
i me my you your we us our they he she do does did can could will would shall should may might must not no yes
so if then
"""
_SMALL = frozenset(_SMALL_WORDS.split())
