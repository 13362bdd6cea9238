"""Choices that are asked for in a chat: the letters of a question, and the letter in what is answered.

A choice is read where the answer is one, where it is marked (`answer is B`, `\\boxed{B}`), where the answer begins with
it (`B. Paris`, `(B)`), where a single one is in brackets, or where the answer is the text of one choice. An answer
without any is counted as wrong, and as an error of extraction.
"""

import json
import re
import string
from collections.abc import Sequence

from llmanac.core.errors import SpecError
from llmanac.evaluate._benchmark_rows import BenchmarkItem

READ = 20_000  # characters of an answer, from its end, in which a choice is looked for
_THOUGHT = re.compile(r"\A.*</think>|\A\s*<think>.*\Z", re.DOTALL)
_AROUND = string.punctuation + string.whitespace


def lettered(item: BenchmarkItem) -> tuple[str, tuple[str, ...]]:
    """`(prompt, labels)`: a question with its choices; those that are letters already are in its prompt.

    Raises:
        SpecError: more choices than letters.
    """
    if all(len(one) == 1 for one in item.choices):
        prompt, labels = item.prompt, item.choices
    else:
        labels = tuple(string.ascii_uppercase[: len(item.choices)])
        if len(labels) < len(item.choices):
            raise SpecError(f"{item.name}: has {len(item.choices)} choices and there are 26 letters; leave --chat out")
        gap = f" ___ {item.ending}" if item.ending else ""
        listed = (f"{label}. {text}" for label, text in zip(labels, item.choices, strict=True))
        prompt = "\n".join([item.prompt + gap, *listed])
    return f"{prompt}\n\nAnswer with one of {', '.join(labels)} and nothing else.", labels


def held_answer(text: str, choices: Sequence[str]) -> str | None:
    """The choice that an answer is, by itself or as a JSON object's `answer`; None where it is something else."""
    plain = text.strip()
    if len(plain) < READ and plain[:1] == "{":
        try:
            plain = json.loads(plain).get("answer")
        except (ValueError, RecursionError):
            return None
    return plain if plain in choices else None


def read_choice(text: str, choices: Sequence[str], texts: Sequence[str] = ()) -> str | None:
    """The choice in a written answer, None where none can be read; see the module. texts: what choices stand for."""
    if (held := held_answer(text, choices)) is not None:
        return held
    text = _THOUGHT.sub("", text[-READ:])
    plain = text.strip(_AROUND)
    for one, meant in zip(choices, texts or choices, strict=True):
        if plain.casefold() in (one.casefold(), meant.strip(_AROUND).casefold()):
            return one
    # an article is no letter: what is longer than a letter may be in either case
    named = "|".join(re.escape(one) if len(one) == 1 else f"(?i:{re.escape(one)})" for one in choices)
    whole = rf"(?P<is>{named})(?!\w)"
    before = r"(?i:answer|choice|option|verdict)[\s*_]*(?i:is|:|=)[\s*_:]*"
    marked = rf"(?:{before}|\\boxed\{{\s*(?:\\text\{{)?)[\"'(\[*_$]*{whole}"
    ways = (marked, rf"\A[\s*_\"'(\[]*{whole}(?=[\s*_\"']*(?:[.:,)\]]|\n|\Z))", rf"[(\[]{whole}[)\]]")
    for way, pattern in enumerate(ways):
        found = [match["is"] for match in re.finditer(pattern, text)]
        if found and (way == 0 or len(set(found)) == 1):
            return next(one for one in choices if one.casefold() == found[-1].casefold())
    return None
