"""The many ways to ask. Forms for training and forms for evaluation are different sentences, and never meet.

`(a|b)` in a pattern is a choice; `{n}` is the name asked about, `{p}` a parameter, `{s}` a wish ("copy a file").
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from llmanac.recipes.quickstart_facts import Kind

FormSet = Literal["training", "held_out"]
_CHOICE = re.compile(r"\(([^()]*)\)")

TRAINING: Mapping[Kind, Sequence[str]] = {
    "what": (
        "What (does|will|would) {n} do?",
        "What is {n}?",
        "What is {n} (for|good for|used for)?",
        "(Explain|Describe|Define|Summarize) {n}.",
        "(Tell|Teach) me about {n}.",
        "What happens when I call {n}?",
        "(Purpose|Meaning|Description|Summary) of {n}",
        "{n}",
        "{n}: what is (it|that)?",
        "(Give|Show) me (a description|a summary|the documentation) of {n}.",
        "(Why|When) would I use {n}?",
        "How does {n} work?",
        "What's {n}?",
        "I do not know {n}, explain it.",
    ),
    "arguments": (
        "What (arguments|parameters|inputs) does {n} (take|accept|have|need)?",
        "What is the (signature|call signature) of {n}?",
        "Which (arguments|parameters) can I pass to {n}?",
        "(List|Show|Give me) the (arguments|parameters) of {n}.",
        "How (do|can|should) I call {n}?",
        "{n} (arguments|parameters|signature|args)",
        "(Arguments|Parameters|Signature) of {n}?",
        "What does the (signature|call) of {n} look like?",
        "What do I (pass|give) to {n}?",
        "{n} takes which (arguments|parameters)?",
        "With what (arguments|inputs) is {n} called?",
        "What goes into {n}?",
    ),
    "returns": (
        "What does {n} (return|give back|hand back|evaluate to)?",
        "What is the (return value|result|output) of {n}?",
        "What (value|object) does {n} (return|produce)?",
        "{n} returns what?",
        "(Describe|Explain|Tell me) (what is returned by|the result of|the return value of) {n}.",
        "{n} (return value|returns|return|result|output)",
        "What do I get (back from|from) {n}?",
        "Which (value|result) comes (back|out) when I call {n}?",
        "(Return value|Result|Output) of {n}?",
        "After calling {n}, what do I (have|get)?",
        "Does {n} return (anything|something)?",
        "What will {n} return to me?",
    ),
    "raises": (
        "What (exceptions|errors) does {n} (raise|throw)?",
        "What does {n} raise?",
        "When does {n} (raise an exception|raise an error|fail)?",
        "{n} raises what?",
        "Which (error|exception) (comes from|is raised by|is thrown by) {n}?",
        "{n} (exceptions|errors|raises|raise)",
        "(Exceptions|Errors) (of|from|in) {n}?",
        "Can {n} (raise|throw) (an exception|an error)?",
        "What (can|could|may) go wrong (with|in) {n}?",
        "(Tell me|Explain|Describe) (which exceptions|what errors|when exceptions) {n} raises.",
        "Why (would|does) {n} (raise|throw an error)?",
        "What should I catch (around|when I call) {n}?",
    ),
    "default": (
        "What is the default (value of|of|for) {p} in {n}?",
        "What does {p} default to in {n}?",
        "In {n}, what is the default (of|value of) {p}?",
        "(Tell|Show) me the default {p} of {n}.",
        "{n} {p} (default|default value)",
        "Default (of|for|value of) {p} (in|of) {n}?",
        "If I leave out {p}, what does {n} use?",
        "Which value does {p} have by default in {n}?",
        "What is {p} set to by default in {n}?",
        "Which default has the argument {p} of {n}?",
    ),
    "parameter": (
        "What (is|does) the (argument|parameter) {p} (of|in) {n} (mean|do)?",
        "What is {p} in {n}?",
        "What does {p} (do|mean|control) in {n}?",
        "(Explain|Describe) the (parameter|argument|option) {p} of {n}.",
        "What is the {p} (argument|parameter|option) of {n} (for|about)?",
        "In {n}, what (does|is) {p} (mean|do|for)?",
        "{n} {p}",
        "{p} (argument|parameter) of {n}",
        "(Tell|Teach) me about {p} in {n}.",
        "How (is|do I use) {p} in {n}?",
        "What should I pass as {p} to {n}?",
    ),
    "which": (
        "How (do|can|would) I {s}?",
        "(Which|What) (function|call|method) (will|can|do I use to) {s}?",
        "What function do I need to {s}?",
        "I want to {s}.",
        "Is there a function to {s}?",
        "Find a function to {s}.",
        "{s}",
        "(Name|Show me) a function to {s}.",
        "What can I use to {s}?",
    ),
}

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
    "training": ("In Python, ", "Please: ", "Hi, ", "Question: ", "Quick question, ", "I want to know: ", "Tell me, "),
    "held_out": ("Hey there, ", "One more thing: ", "For my script, ", "Could you help? ", "Python question: "),
}
CLOSERS: Mapping[FormSet, Sequence[str]] = {
    "training": (" Thanks.", " in python", " Please answer.", " (Python)", " Be brief."),
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


def form_words() -> frozenset[str]:
    """The words that training questions are made of, in lower case: they say what is asked, not what about."""
    patterns = [p for kind in TRAINING.values() for p in kind] + [*OPENERS["training"], *CLOSERS["training"]]
    return frozenset(re.findall(r"[a-z']+", re.sub(r"\{\w\}", " ", " ".join(patterns)).lower())) | _SMALL


_SMALL_WORDS = """
a an the and or of in on at to for from with by as is are was be been it its this that these those there here
i me my you your we us our they he she do does did can could will would shall should may might must not no yes
so if then
"""
_SMALL = frozenset(_SMALL_WORDS.split())
