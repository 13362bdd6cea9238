"""Facts in a user's message, by rule: what is said of "my ..." and "I ...", what replaces it, and what is taken back.

A fact is (subject, value): "My sister's name is Ada." is ("sister's name", "Ada"). A later fact with the same subject
replaces it; subjects of which a user has several (what they like, own, are allergic to) hold the thing in their name,
as ("allergy: nuts", "nuts"). Questions, suppositions and quotations state nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from llmanac.retrieve.folder.quotes import spans

LONGEST = 200  # characters of a value; of a subject a third


@dataclass(frozen=True)
class Change:
    """kind: set a fact; drop the facts of a subject (and value, where one is given), those that a text means, or all.

    cues: words by which questions name it, besides those of `text`, which says the fact as a sentence.
    """

    kind: Literal["set", "drop", "forget", "clear"]
    subject: str = ""
    value: str = ""
    text: str = ""
    cues: str = ""


_V = r"(?P<v>(?:\b(?:St|Mt|Ft|Dr|Mr|Mrs)\. |[^,;.!?]|[.,](?=\w))*)"  # up to punctuation that ends a part
_NOW = r"(?:(?:just|recently|now|currently|also|actually|really|mostly|usually|still|only)\s+)*"
_AM = r"i(?:['’]m| am)"
_HAVE = r"i(?:['’]ve| have)?"
_LEAD = re.compile(
    r"(?i)^\s*(?:(?:please|can you|could you|ok(?:ay)?|so|well|oh|hi|hello|hey|by the way|btw|fyi|also|and|actually"
    r"|just so you know|for the record|correction|update|no|yes|note|remember|keep in mind|don['’]t forget|know)"
    r"(?:\s+(?:this|that))?\s*[,:;!-]*\s+)+"
)
_SUPPOSED = re.compile(r"(?i)^\s*(?:if|suppose|imagine|pretend|say|assume|what|when|where|who|why|how|let['’]?s)\b")
_SPENT = re.compile(r"(?i)\s+(?:now|these days|at the moment|currently|anymore|any more|any longer|today|as well|too)$")
_FAVORITE = re.compile(r"(?i)\b(?:new|current|own|actual|real|updated|full)\s+")

# pattern, subject, sentence, cues; {v} is the value, {n} another part
_FACTS: tuple[tuple[str, str, str, str], ...] = (
    (rf"(?:{_AM} (?:called|named)|call me|(?:you can|everyone|people) calls? me) {_V}", "name",
     "The user's name is {v}.", "called who am"),
    (rf"i {_NOW}(?:live|reside|stay|am based|am living) (?:in|at|on) {_V}", "home", "The user lives in {v}.",
     "live home city town country place address where reside based"),
    (rf"{_AM} {_NOW}(?:based|living|staying|located) (?:in|at|on) {_V}", "home", "The user lives in {v}.",
     "live home city town country place address where reside based"),
    (rf"{_HAVE} {_NOW}(?:moved|relocated) (?:from .{{1,40}} )?to {_V}", "home", "The user lives in {v}.",
     "live home city town country place address where reside based"),
    (rf"{_AM} {_NOW}from {_V}", "origin", "The user is from {v}.", "come grew country hometown where"),
    (rf"i {_NOW}(?:work|am working) as (?:an? |the )?{_V}", "job", "The user works as {v}.",
     "job profession occupation work living career"),
    (rf"{_AM} {_NOW}working as (?:an? |the )?{_V}", "job", "The user works as {v}.",
     "job profession occupation work living career"),
    (rf"{_AM} {_NOW}(?:an?) (?P<v>(?:[\w-]+ ){{0,2}}[\w-]*(?:er|or|ist|ian|nurse|student|chef|cook|clerk|pilot|judge"
     r"|analyst|architect|attorney|surgeon|accountant|assistant|agent))", "job", "The user works as {v}.",
     "job profession occupation work living career"),
    (rf"i {_NOW}(?:work|started working|am working|started|got a job) (?:at|for|with) {_V}", "employer",
     "The user works for {v}.", "employer company work job office where"),
    (rf"{_AM} {_NOW}(?:working|employed) (?:at|for|with|by) {_V}", "employer", "The user works for {v}.",
     "employer company work job office where"),
    (rf"(?:{_AM}|i (?:just )?turned) {_NOW}(?P<v>\d{{1,3}})(?: years? old)?(?= |$|[.!,])", "age",
     "The user is {v} years old.", "age old years"),
    (rf"i was born on {_V}", "birthday", "The user was born on {v}.", "birthday birth date born when"),
    (r"i was born in (?P<v>(?:\w+ )?\d{4})", "birthday", "The user was born in {v}.", "birthday birth year born when"),
    (rf"i was born in {_V}", "birthplace", "The user was born in {v}.", "birthplace birth born where"),
    (rf"{_AM} {_NOW}(?:very |severely )?allergic to {_V}", "allergy: {v}", "The user is allergic to {v}.",
     "allergy allergies eat food avoid"),
    (rf"{_AM} {_NOW}(?:married to|engaged to|dating) {_V}", "partner", "The user's partner is {v}.",
     "spouse husband wife partner married engaged"),
    (rf"{_AM} {_NOW}(?P<v>vegan|vegetarian|pescatarian|gluten[- ]free|lactose intolerant|diabetic)", "diet",
     "The user is {v}.", "diet eat food vegetarian vegan"),
    (rf"{_AM} {_NOW}(?:learning|studying) {_V}", "study", "The user studies {v}.", "study learn subject course major"),
    (rf"i {_NOW}(?:study|major in|am majoring in) {_V}", "study", "The user studies {v}.",
     "study learn subject course major"),
    (rf"i {_NOW}(?:drive|bought) (?:an? |the )?(?P<v>(?:[\w-]+ )?[A-Z][\w -]*)", "car", "The user drives a {v}.",
     "car drive vehicle"),
    (rf"i {_NOW}(?:speak) {_V}", "language: {v}", "The user speaks {v}.", "language languages speak"),
    (rf"i {_NOW}play (?:the )?{_V}", "plays: {v}", "The user plays {v}.", "play instrument sport game hobby"),
    (rf"i {_NOW}(?:have|own|adopted|got) (?:an?|one|two|three) (?P<n>[\w -]{{2,30}}?),? "
     rf"(?:who is |which is |that is )?(?:named|called) {_V}", "{n}'s name", "The user's {n} is called {v}.",
     "name called pet {n}"),
    (rf"i {_NOW}(?:don['’]t|do not) (?:like|enjoy) {_V}", "feeling about {v}", "The user dislikes {v}.",
     "like dislike hate enjoy"),
    (rf"i {_NOW}(?:hate|dislike|can['’]t stand|detest) {_V}", "feeling about {v}", "The user dislikes {v}.",
     "like dislike hate enjoy"),
    (rf"i {_NOW}(?:like|love|enjoy|adore) {_V}", "feeling about {v}", "The user likes {v}.",
     "like love enjoy hobby interests"),
    (rf"i {_NOW}prefer {_V}", "preference: {v}", "The user prefers {v}.", "prefer preference"),
    (rf"i {_NOW}use (?:an? |the )?{_V}", "uses: {v}", "The user uses {v}.", "use using tool"),
    (rf"i {_NOW}(?:have|own) (?P<v>(?:an?|one|two|three|four|five|\d+) [^,;.!?]+)", "has {v}", "The user has {v}.",
     "have own"),
)  # fmt: skip
_OWN = re.compile(
    r"(?i)^(?:my|our) (?P<s>[\w'’ -]{2,60}?)(?:,? (?:by the way|actually),?)? (?:is|are|will be|became|has become"
    r"|(?:has |have |was |is )?(?:been )?(?:changed|moved|switched|updated) to|is now|are now)"
    rf" {_NOW}(?P<v>.{{1,{LONGEST}}}?)[.!]*$"
)
_ANY = re.compile(
    rf"(?i)^(?:the |that the )?(?P<s>[\w'’ -]{{2,60}}?) (?:is|are|is now|has changed to)"
    rf" {_NOW}(?P<v>.{{1,{LONGEST}}}?)[.!]*$"
)
_ASKED_TO = re.compile(r"(?i)\b(?:remember|keep in mind|don['’]t forget|note)\b")
_CLEAR = re.compile(r"(?i)^(?:please )?(?:forget|delete|erase|clear) (?:everything|all (?:of it|facts|memories)|it all|"
                    r"all you know)\b")  # fmt: skip
_FORGET = re.compile(
    r"(?i)^(?:please )?(?:forget|delete|erase|remove|do(?:n['’]t| not) remember|stop remembering|drop)"
    r"(?: about)?(?: that)?(?: (?:my|our|the|what|where|who|when|how))? (?P<t>.{2,120}?)"
    r"(?: from (?:your )?memory)?[.!]*$"
)
_LAPSED = re.compile(
    rf"(?i)^i (?:no longer|don['’]t|do not) (?P<w>live in|live at|work at|work for|work as|like|love|have|own|play"
    rf"|drive|use|speak|study)(?: an?| the| my)? {_V}(?: any ?more| any longer)?[.!]*$"
)
_NO_MORE = re.compile(rf"(?i)^{_AM} no longer (?P<t>.{{2,120}}?)[.!]*$")
_LOST = re.compile(r"(?i)^(?:my|our) (?P<s>[\w'’ -]{2,60}?) (?:is|are) no longer (?P<v>.{1,120}?)[.!]*$")
_VERBS = {"live in": "home", "live at": "home", "work at": "employer", "work for": "employer", "work as": "job",
          "like": "feeling about {v}", "love": "feeling about {v}", "play": "plays: {v}", "drive": "car",
          "use": "uses: {v}", "speak": "language: {v}", "study": "study"}  # fmt: skip
_COMPILED = [(re.compile(f"(?i)^{pattern}"), subject, said, cues) for pattern, subject, said, cues in _FACTS]


def changes_in(message: str) -> list[Change]:
    """What a user's message changes, in order."""
    out: list[Change] = []
    for begin, end in spans(message[:20_000]):
        sentence = " ".join(message[begin:end].split())
        if sentence.endswith("?") or '"' in sentence[:2]:
            continue
        told = bool(_ASKED_TO.search(sentence[:40]))
        bare = _LEAD.sub("", sentence)
        if _SUPPOSED.match(bare) and not _CLEAR.match(bare):
            continue
        for part in re.split(r"(?i)[,;]? (?:and|but) (?=i(?:['’]m|['’]ve)? |my |call me )", bare):
            found = _change(part.strip(" ,;"), told)
            if found is not None:
                out.append(found)
    return out


def _change(text: str, told: bool) -> Change | None:
    if _CLEAR.match(text):
        return Change("clear")
    if found := _LAPSED.match(text):
        value, ended_of = _value(found["v"]), _VERBS.get(found["w"].lower())
        ended = re.search(r"(?i)no longer|any ?more|any longer", text)
        if ended and ended_of:
            return Change("drop", ended_of.format(v=value.lower()), "" if "{v}" in ended_of else value)
        if ended:
            return Change("forget", text=value)
    if found := _NO_MORE.match(text):
        return Change("forget", text=found["t"])
    if found := _LOST.match(text):
        return Change("drop", subject_of(found["s"]), _value(found["v"]))
    if found := _FORGET.match(text):
        return Change("forget", text=re.sub(r"(?i)^i(?:['’]m| am)? ", "", found["t"]))
    if found := _OWN.match(text):
        subject, value = subject_of(found["s"]), _value(found["v"])
        if called := re.match(r"(?i)(?:called|named) (?P<v>.+)", value):
            whose = "" if subject.endswith("name") else "'s name"
            return Change("set", f"{subject}{whose}", called["v"], f"The user's {subject} is {value}.",
                          f"called name {subject}")  # fmt: skip
        if value and len(subject) <= LONGEST // 3 and not re.match(r"(?i)(?:not|no longer|so|very|too)\b", value):
            return Change("set", subject, value, f"The user's {subject} is {value}.", _cues(subject))
    for pattern, subject, said, cues in _COMPILED:
        if found := pattern.match(text):
            value = _value(found["v"])
            if not value or len(value) > LONGEST:
                return None
            parts = {"v": value, "n": found.groupdict().get("n") or ""}
            name = subject.format(**{key: part.lower() for key, part in parts.items()})
            return Change("set", name, value, said.format(**parts), cues.format(**parts))
    if told and (found := _ANY.match(text)):
        subject, value = subject_of(found["s"]), _value(found["v"])
        if value:
            return Change("set", subject, value, f"The {subject} is {value}.", _cues(subject))
    return None


def subject_of(words: str) -> str:
    """A subject in its one form: lower case, American spelling, without "new" and "current"."""
    found = _FAVORITE.sub("", f"{words.strip().lower()} ".replace("’", "'")).strip()
    found = found.replace("favourite", "favorite").replace("colour", "color")
    return {"first name": "name", "hometown": "origin", "home town": "origin", "occupation": "job",
            "profession": "job", "city": "home", "home city": "home"}.get(found, found)  # fmt: skip


def _cues(subject: str) -> str:
    return {
        "name": "called who am", "job": "profession occupation work living career", "home": "live city town where",
        "birthday": "born birth date when", "address": "live home where street", "age": "old years",
        "phone number": "call telephone reach", "wife": "married spouse partner", "husband": "married spouse partner",
    }.get(subject, "called" if subject.endswith("name") else "")  # fmt: skip


def _value(text: str) -> str:
    return _SPENT.sub("", _SPENT.sub("", text.strip(" \t.!,;"))).strip()
