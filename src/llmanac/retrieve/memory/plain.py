"""Facts by grammar: a clause in the present about the user, or about "my ...", is kept in the user's own words.

What lasts is told by tense and aspect: the simple present says what holds or is usual ("I take it black"), a perfect
or a past of change says what holds since ("I have been vegan", "we bought"); modals, feelings of the moment, thoughts
and performatives ("I think", "I'm sorry", "I would") state nothing. A clause with one quantity, date or time is a frame
with a slot: the same frame later has the slot's new value.
"""

from __future__ import annotations

import re

from llmanac.evaluate._english import IRREGULAR, PREPOSITIONS, possible_bases

MONTHS = "jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sep(?:t(?:ember)?)?|oct(?:ober)?"
MONTHS += "|nov(?:ember)?|dec(?:ember)?"
_DAY = r"\d{1,2}(?:st|nd|rd|th)?"
SLOTS = {  # kinds of values that replace one another
    "date": rf"(?:the )?{_DAY}(?: of)? (?:{MONTHS})\b(?:,? \d{{4}})?|(?:{MONTHS}) (?:the )?{_DAY}\b(?:,? \d{{4}})?"
            rf"|\d{{4}}-\d\d-\d\d|(?:the )?\d{{1,2}}(?:st|nd|rd|th)\b",
    "time": r"\d{1,2}(?:[:.]\d\d)?\s?(?:am|pm|a\.m\.|p\.m\.|o['’]clock)(?!\w)|\d{1,2}:\d\d|noon|midnight",
    "weekday": r"(?:mon|tues|wednes|thurs|fri|satur|sun)days?",
    "money": r"[€$£]\s?\d[\d,.]*\d?k?|\d[\d,.]*k? ?(?:euros?|dollars?|pounds?|€|\$|£|usd|eur|francs?|kronor|yen"
             r"|rupees?)",
    "measure": r"\d[\d,.]*\d* ?(?:minutes?|mins?|hours?|hrs?|days?|weeks?|months?|years?|k?m|[cm]m|kg|kilos?|g|grams?"
               r"|pounds|lbs?|stone|feet|foot|ft|inch(?:es)?|miles?|lit(?:re|er)s?|l|ml|percent|%|degrees?|people"
               r"|guests|GB|TB)",
    "number": r"(?:size )?\d[\d,.]*\d*(?: and a half)?",
}  # fmt: skip
_SLOTS = {kind: re.compile(rf"(?i)(?<![\w.])(?:{pattern})(?!\w)") for kind, pattern in SLOTS.items()}
NEVER = re.compile(  # thoughts, performatives, and what is wanted of the reader
    r"think|thought|guess|mean|need|want|know|wonder|hope|believe|see|understand|suppose|wish|promise|thank|ask"
    r"|agree|disagree|doubt"
    r"|feel|say|remember|forget|try|assume|imagine|swear|bet|require|appreciate|apologi[sz]e|expect|look|hear"
    r"|notice|realise|realize"
    r"|figure|get|find|give|paste|attach|tell|recall|beg|care|mind|read|copy|cannot|am|do|did|had"
)
_ACHES = """question problem idea doubt error issue minute moment headache cold feeling bug hunch request task
point favor favour"""
MOMENT = re.compile(
    r"(?i)\b(?:today|right now|at the moment|tonight|yesterday|this (?:morning|evening|afternoon|second)|for now)\b"
)
_MOODS = re.compile(
    r"(?i)^(?:(?:so|very|really|probably|more|also|now|pretty|quite|a bit|a little|just|rather|feeling|kind of"
    r"|still|not) )*(?:tired|sorry|sure|glad|happy|sad|hungry|thirsty"
    r"|confused|stuck|back|here|ready|done|busy|curious|afraid|aware|able|lost|bored|late|fine|ok|okay|good|great|well"
    r"|interested|certain|unsure|excited|worried|angry|mad|sick|ill|cold|hot|wet|right|wrong|serious|new here|looking"
    r"|getting|having|wondering|asking|trying|going|gonna|thinking|seeing|hoping|kidding|joking|sitting|freezing"
    r"|starving"
    r"|talking|feeling|saying|about to|supposed|allowed|grateful|thankful|welcome|screwed|broke|drunk|scared|nervous"
    r"|surprised|impressed|too|more|in (?:a hurry|trouble|need|love with this)|at a loss|all ears|so)\b"
)
_FELT = re.compile(  # a participle is a state of mind, where it is none of a life
    r"(?i)(?:(?:so|very|really|pretty|quite|a bit|just) )*(?!(?:married|retired|divorced|engaged|widowed|separated"
    r"|based|employed|unemployed|disabled|certified|licensed|qualified|trained|used|related|red"
    r"|bearded)\b)[a-z]+ed\b(?!-)"
)
_BE = re.compile(
    r"(?i)^(?:i|we)(?:['’](?:m|re)| am| are)(?: (?:also|now|currently|actually|still|only|really|mostly|usually"
    r"|just))* (?P<v>.+)"
)
_PERFECT = re.compile(r"(?i)^(?:i|we)(?:['’]ve| have) (?:(?:also|now|just|already|always|finally|recently) "
                      r")*(?P<v>been|got|had|moved|started|switched|changed"
                      r"|bought|joined|become|gone|adopted|supported|lived|worked|played|loved|taken up|married"
                      r"|turned|owned|known)\b ?(?P<r>.*)")  # fmt: skip
_CHANGED = re.compile(
    r"(?i)^(?:i|we) (?:(?:also|just|finally|recently|now) )*(?P<v>started|joined|bought|adopted|became|moved"
    r"|switched|changed"
    r"|upgraded|picked up|took up|turned|grew up|was born|married|got (?:married|promoted|engaged|a)|went over"
    r"|signed up)\b ?(?P<r>.*)"
)
_HAVE_GOT = re.compile(
    r"(?i)^(?:i|we)(?: (?:only|also|just|still|now))*(?:['’]ve got| have got| have| own)\b ?(?P<r>.*)"
)
_MODAL = re.compile(
    r"(?i)^(?:i|we)(?:['’](?:d|ll)| would| could| should| will| might| may| must| shall| can(?!['’t]))\b"
)
_CANNOT = re.compile(
    r"(?i)^(?:i|we) (?:(?:can['’]?t|cannot|can not) (?:really |even )?(?P<v>(?:have|eat|drink|stand|bear|digest"
    r"|tolerate|swim|drive|hear|walk|see)\b.+)"
    r"|(?:do(?:n['’]t| not)|never) (?:really |even )?(?P<w>(?:have an?|eat|drink|like|use|own|smoke|speak|drive"
    r"|wear|watch|cook|play)\b.*))"
)
_VERB = re.compile(
    r"(?i)^(?P<w>i|we) (?:(?:usually|always|often|mostly|never|sometimes|generally|normally|really|also|still|only"
    r"|now|actually|currently|just|even|already|rarely|seldom"
    r"|honestly|typically|tend to|both|[a-z]+ly) )*(?P<v>[a-z]+)\b ?(?P<r>.*)"
)


def slot(text: str) -> tuple[str, str]:
    """The kind and text of a clause's one quantity, date or time; empty where there is none."""
    for kind, pattern in _SLOTS.items():
        if found := pattern.search(text):
            if kind == "number" and re.search(r"\b[A-Z][\w-]* $|\btype $", text[: found.start()]):
                continue  # "Windows 11" is one name
            return kind, found.group()
    return "", ""


def lasting(clause: str) -> tuple[str, str] | None:
    """(verb, rest) of a clause with "I" or "we" that says something lasting of the user; None where it does not."""
    if found := _BE.match(clause):
        value = found["v"]
        if (
            _MOODS.match(value)
            or _FELT.match(value)
            or MOMENT.search(value)
            or re.match(r"(?i)(?:not|no|never|n['’]t|like|a (?:bit|little))\b", value)
        ):
            return None
        return "is", value
    if found := _CANNOT.match(clause):
        return "not", found["v"] or found["w"]
    if _MODAL.match(clause) or re.match(
        r"(?i)^(?:i|we) (?:do|did|have|had|am|are|was|were|would|could|should)(?:n['’]t| not)\b", clause
    ):
        return None
    if (found := _PERFECT.match(clause)) and found["v"] != "got":
        return ("is" if found["v"].lower() == "been" else found["v"].lower()), found["r"]
    if found := _CHANGED.match(clause):
        return found["v"].lower(), found["r"]
    if found := _HAVE_GOT.match(clause):
        rest = found["r"]
        noun = re.match(r"(?i)(?:an?|the|another|one more|no|some|any|to|two|few)\s+(?:\w+ )??(\w+)", rest)
        if (
            not rest
            or re.match(
                r"(?i)(?:to|no idea|not|never|been|just|already|his|her|their|your|him|it|them|one|any|this|that)\b",
                rest,
            )
            or (noun and noun[1].lower().rstrip("s") in _ACHES.split())
        ):
            return None
        if not re.match(r"(?i)(?:an?|the|my|our|no|one|two|three|four|five|six|\d+|\w+ \w+|\w+s)\b", rest):
            return None  # "we have rain"
        participle = rest.split()[0].lower()
        return None if participle.endswith("ed") or participle in _PARTICIPLES else ("has", rest)
    found = _VERB.match(clause)
    if not found or not found["r"].strip("'’") or found["r"][0] in "'’" or MOMENT.search(found["r"]):
        return None
    verb = found["v"].lower()
    if NEVER.fullmatch(verb):
        return ("get up", found["r"].partition(" ")[2]) if verb == "get" and re.match(r"(?i)up\b", found["r"]) else None
    bases = possible_bases(verb)
    past = verb.endswith("ed") or any(
        verb == IRREGULAR[base][0] for base in bases if base in IRREGULAR and base != verb
    )
    if past or len(verb) < 2 or verb.endswith("ing") or verb in _NO_VERBS or not verb.isalpha():
        return None
    return verb, found["r"]


_PARTICIPLES = frozenset(forms[1] for base, forms in IRREGULAR.items() if forms[1] != base)
_NO_VERBS = frozenset(["and", "or", "the", "an", "my", "your", "is", "was", "wanna", "gonna", "too", *PREPOSITIONS])


def possessed(clause: str) -> tuple[str, str, str] | None:
    """(noun, apposition, predicate) of "my sister Ada, who is 9, lives in Bath"; the noun phrase ends before a verb."""
    found = re.match(r"(?i)^(?:my|our) (?P<all>.+)$", clause)
    if not found:
        return None
    words = found["all"].split()
    noun: list[str] = []
    inside: list[str] = []
    for i, word in enumerate(words):
        bare = word.rstrip(",").lower()
        if i and (bare in _AUX or _looks_finite(bare)) and not word[0].isupper():
            return " ".join(noun), " ".join(inside), " ".join(words[i:])
        if word.endswith(",") and i < len(words) - 1:
            noun.append(word.rstrip(","))
            end = next((j for j in range(i + 1, len(words)) if words[j].endswith(",")), None)
            if end is None:
                return None
            return " ".join(noun), " ".join(words[i + 1 : end + 1]).rstrip(","), " ".join(words[end + 1 :])
        (noun if word[0].islower() or i == 0 else inside).append(word)
        if len(noun) > 5:
            return None
    return None


_AUX_WORDS = """often usually sometimes rarely is are was were has have had just still also now never always will does
do can goes isn't likes and"""
_AUX = frozenset(_AUX_WORDS.split())


def no_noun(word: str) -> bool:
    """Whether a word ends a noun phrase: a verb by its form, or a preposition."""
    return word in _AUX or word in PREPOSITIONS or _looks_finite(word)


def _looks_finite(word: str) -> bool:
    """Whether a lower-case word after a noun is a verb by its form: -s, -ed, or an irregular past."""
    if word.endswith(("'s", "’s", "ss", "us", "is")) or len(word) < 4:
        return word in ("got", "ran", "won", "met", "sat")
    return word.endswith(("s", "ed")) or any(
        word == IRREGULAR[base][0] for base in possible_bases(word) if base in IRREGULAR and base != word
    )


def frame(text: str, value: str) -> str:
    """A clause without its value: what the value is of, as a subject."""
    cut = text.replace(value, " ", 1) if value else text
    cut = re.sub(
        r"(?i)\b(?:now|actually|currently|these days|just|really|usually|only|at|on|in|by|the|an?|is|are|am|every"
        r"|my|our)\b",
        " ",
        cut,
    )
    return " ".join(re.sub(r"[^\w'’ -]", " ", cut).lower().split())[:60].strip()
