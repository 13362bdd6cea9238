"""English sentences rewritten by rule: paraphrases that keep the meaning, near-copies that change it."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path

from llmanac.core.files import read_toml
from llmanac.evaluate.english import article

GIVEN = read_toml(Path(__file__).with_name("rewritten.toml"))
CONTRACTIONS = GIVEN["contractions"]
FORWARD = dict(pair.replace("_", " ").split(":") for pair in GIVEN["synonyms"].split())
BACK = {two: one for one, two in FORWARD.items() if " " not in two and two not in GIVEN["unsafe"].split()}
WORDS = {**BACK, **FORWARD}
LEAST = 3  # changes of a paraphrase; a phrase that was moved counts as two

_ARTICLE = re.compile(r"\b([Aa])n? (\w+)")
_WORD = re.compile(r"[A-Za-z]+(?:['’][A-Za-z]+)?")
_LEAD = re.compile(r"^((?:In|On|At|After|Before|During|Since) [^,\"“]{3,45}), ([^\"“]+?)([.!?])$")
_AUXILIARY = re.compile(
    r"\b(is|are|was|were|will|would|could|should|may|might|has been|have been|had been)\b( not\b)?(?! (?:like|of)\b)"
)
_NUMBER = re.compile(r"(?<![\w.,])\d[\d,.]*\d|(?<![\w.,])\d(?![\w])")
_NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-z]+(?: [A-Z][a-z]+)+")


def paraphrase(text: str) -> str | None:
    """The sentence with synonyms, contractions written out, and an opening phrase moved to the end; None where the
    rules change less than `LEAST`."""
    changes, replaced = 0, set[str]()

    def other(match: re.Match[str]) -> str:
        nonlocal changes
        word = match.group().replace("’", "'")
        new = CONTRACTIONS.get(word) or WORDS.get(word.lower() if word[:1].isupper() and not match.start() else word)
        if new is None or (word == "used" and text[match.end() :].startswith(" to")):
            return match.group()
        changes += 1
        replaced.add(new.split()[0])
        return new[0].upper() + new[1:] if word[0].isupper() else new

    out = _WORD.sub(other, text)
    out = _ARTICLE.sub(lambda m: f"{m[1]}{article(m[2])[1:]} {m[2]}" if m[2] in replaced else m[0], out)
    if lead := _LEAD.match(out):
        first, rest, end = lead.groups()
        out, changes = f"{rest[0].upper()}{rest[1:]} {first[0].lower()}{first[1:]}{end}", changes + 2
    return out if changes >= LEAST else None


def names(texts: Sequence[str]) -> list[str]:
    """Names of at least two words, not at a sentence's start."""
    return sorted({name for text in texts for name in _NAME.findall(text)})


def negated(text: str, rng: random.Random, known: Sequence[str]) -> str | None:
    """One "not" more after an auxiliary, or one less."""
    found = _AUXILIARY.search(text)
    if found is None:
        return None
    first, *rest = found.group(1).split()
    new = found.group(1) if found.group(2) else " ".join([first, "not", *rest])
    return text[: found.start()] + new + text[found.end() :]


def renumbered(text: str, rng: random.Random, known: Sequence[str]) -> str | None:
    """Another first digit of one number."""
    found = list(_NUMBER.finditer(text))
    if not found:
        return None
    one = rng.choice(found)
    digit = rng.choice([d for d in "123456789" if d != one.group()[0]])
    return text[: one.start()] + digit + text[one.start() + 1 :]


def renamed(text: str, rng: random.Random, known: Sequence[str]) -> str | None:
    """Another name in one name's place."""
    found = list(_NAME.finditer(text))
    if not found:
        return None
    one = rng.choice(found)
    new = rng.choice([name for name in known if name not in text] or [one.group()])
    out = text[: one.start()] + new + text[one.end() :]
    return out if out != text else None


CHANGES = {"negation": negated, "number": renumbered, "name": renamed}
