"""English sentences rewritten by rule: paraphrases that keep the meaning, near-copies that change it."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from llmanac.evaluate._english import article

# Words of news that can take one another's place; the first by the second, and the other way.
SYNONYMS = """
said:stated says:states began:started begin:start big:large small:little help:assist helped:assisted buy:purchase
bought:purchased children:kids show:demonstrate shows:demonstrates showed:demonstrated need:require
many:numerous because:since however:nevertheless ended:finished difficult:hard quickly:rapidly important:significant
happy:glad company:firm companies:firms money:cash job:position jobs:positions car:automobile cars:automobiles
photo:picture photos:pictures doctor:physician doctors:physicians student:pupil students:pupils country:nation
countries:nations government:administration killed:slain dead:deceased injured:wounded attack:assault attacks:assaults
believe:think believes:thinks believed:thought want:wish wants:wishes wanted:wished received:got gave:provided
allow:permit allowed:permitted allows:permits increased:risen decision:choice announced:declared
announcement:declaration explained:clarified across:throughout until:till again:once_more always:at_all_times
often:frequently never:at_no_time sometimes:occasionally probably:likely maybe:perhaps almost:nearly enough:sufficient
entire:complete main:principal beautiful:lovely angry:furious huge:enormous tiny:minuscule rich:wealthy
dangerous:hazardous illegal:unlawful mistake:error mistakes:errors problem:difficulty problems:difficulties
chance:opportunity chances:opportunities goal:aim goals:aims currently:presently immediately:at_once
suddenly:all_of_a_sudden together:jointly eventually:in_the_end finally:at_last recently:lately trip:journey
area:region areas:regions fire:blaze film:movie films:movies match:game matches:games team:side teams:sides
road:street roads:streets talk:speak talks:speaks talking:speaking talked:spoke choose:select chose:selected
build:construct built:constructed creating:making create:make created:made used:utilized
find:discover found:discovered kept:retained stay:remain stayed:remained stays:remains happen:occur happened:occurred
happens:occurs continue:carry_on continued:carried_on stop:halt stopped:halted closed:shut try:attempt
trying:attempting tried:attempted expect:anticipate expected:anticipated investigation:inquiry agreement:accord
agreed:consented cheap:inexpensive expensive:costly whether:if during:in_the_course_of although:though
people:individuals very:extremely really:truly only:just officials:authorities president:head_of_state woman:lady
women:ladies man:gentleman men:gentlemen police:officers leader:chief leaders:chiefs hospital:clinic fight:battle
war:armed_conflict weapons:arms law:statute laws:statutes rights:entitlements
"""
CONTRACTIONS = {
    "can't": "cannot", "won't": "will not", "don't": "do not", "doesn't": "does not", "didn't": "did not",
    "isn't": "is not", "aren't": "are not", "wasn't": "was not", "weren't": "were not", "couldn't": "could not",
    "wouldn't": "would not", "I'm": "I am", "we're": "we are", "they're": "they are", "I've": "I have",
    "we've": "we have", "you're": "you are", "haven't": "have not", "hasn't": "has not", "shouldn't": "should not",
}  # fmt: skip
FORWARD = dict(pair.replace("_", " ").split(":") for pair in SYNONYMS.split())
# a second one that has other meanings is not turned back
_UNSAFE = """
if since hard just such make made making arms side sides position likely think thought got individuals officers
complete stated states chief picture game games aim shut street little try begin authorities ladies gentlemen
gentleman lady attempt kids positions retained"""
BACK = {two: one for one, two in FORWARD.items() if " " not in two and two not in _UNSAFE.split()}
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
