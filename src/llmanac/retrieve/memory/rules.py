"""Facts in a user's message, by rule: what is said of "my ..." and "I ...", what replaces it, and what is taken back.

A fact is (subject, value): "My sister's name is Ada." is ("sister's name", "Ada"). A later fact with the same subject
replaces it; subjects of which a user has several (what they like, own, are allergic to) hold the thing in their name,
as ("allergy: nuts", "nuts"). Questions, suppositions and quotations state nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from llmanac.evaluate._english import possible_bases
from llmanac.retrieve.folder.quotes import ORDERS
from llmanac.retrieve.memory import forms, plain, speech

LONGEST = 200  # characters of a value; of a subject a third


@dataclass(frozen=True)
class Change:
    """
    kind: set a fact; update the known one that subject and value fit; forget the facts that a text means; drop the one
        that a clause says has ended; delete those of the last message, or all.
    cues: words by which questions name it, besides those of `text`, which says the fact as a sentence.
    renewed: said with a word of change ("now", "new"), so that an earlier fact in other words is replaced.
    only: no other subject has this value.
    subject: of an end, what did not end.
    value: of a wish to forget, what the fact must say for it to be meant; any where it is empty.
    own: of an end: the user speaks of themselves, so that their own job or home can be what ended.
    """

    kind: Literal["set", "update", "forget", "ended", "last", "clear"]
    subject: str = ""
    value: str = ""
    text: str = ""
    cues: str = ""
    renewed: bool = False
    only: bool = False
    own: bool = False


_SPENT = re.compile(r"(?i)\s+(?:now|these days|at the moment|currently|anymore|any more|any longer|today|as well|too)$")
_FAVORITE = re.compile(r"(?i)\b(?:new|current|own|actual|real|updated|full)\s+")

_OWN = re.compile(
    r"(?i)^(?:my|our) (?P<s>[\w'’ -]{1,60}?)(?:,? (?:by the way|actually),?)?(?: (?:is|are|will be|became|has become"
    r"|(?:has |have |was |is )?(?:been )?(?:changed|switched|updated) to"
    r"|(?:has been|have been|was|were|got) (?:moved|rebooked|postponed|pushed back|extended|shifted) to"
    r")|['’]s (?=called|named|spelled)|:)"
    rf" {forms.NOW}(?P<v>.{{1,{LONGEST}}}?)[.!]*$"
)
_ANY = re.compile(
    rf"(?i)^(?:the |that the |that |this )?(?P<s>[\w'’ -]{{2,60}}?) (?:is|are|has changed to|(?:is|are) due|(?:was"
    rf"|were|has been|have been"
    rf"|got) (?:changed|moved|rebooked|postponed|pushed(?: back)?|shifted|brought forward) to) "
    rf"{forms.NOW}(?P<v>.{{1,{LONGEST}}}?)[.!]*$"
)
_SHIFTED = re.compile(
    r"(?i)^(?:they|we|i|he|she|the \w+) (?:have |has |['’]ve )?(?:just )?(?:moved|pushed|changed|rebooked"
    r"|postponed|shifted|brought|put|ported|extended)"
    r" (?:my|our|the) (?P<s>[\w' -]+?) (?:back |forward |over )?(?:to|until|till) (?P<v>.+)$"
)
_ITS = re.compile(r"(?i)^(?:it|that)['’]?s my (?P<s>[\w' -]+?)(?: (?:is|on|in|at) (?P<v>.+))?$")
_BECAME = re.compile(r"(?i)^(?:he|she|(?P<n>(?-i:[A-Z])\w+))(?:['’]s| is) (?:now )?my (?P<s>[\w -]+?)(?: now)?$")
_HERE = re.compile(r"^(?:[Tt]his is |[Ii]t['’]?s )?(?P<v>[A-Z][\w'’-]+(?: [A-Z][\w'’-]+)?) here$")
_MAIL = re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]*\w")
_ME = re.compile(
    r"(?i)^(?P<a>it takes (?:me|us)|(?:the |my )?[\w ]{2,30}? (?:put|prescribed|diagnosed|hired|promoted|offered) "
    r"me) (?P<v>.+)$"
)
_NAMED = re.compile(
    r"(?:\b(?:[Mm]y|[Oo]ur) (?P<a>(?:(?!is\b|are\b|was\b|has\b|have\b)[a-z][\w-]+ ){0,2}?(?!is\b|are\b|was\b"
    r"|called\b|named\b)[a-z][\w-]+),? (?P<n>(?!I\b)[A-Z][\w'’-]+(?: (?!I\b)[A-Z][\w'’-]+)*)(?=,? (?:and|just|has"
    r"|is|was|[a-z]+s)\b|[.,;]|$)"
    r"|\b(?:an?|our|my|one|two|three) (?P<b>[a-z][\w-]*(?: (?!is\b|are\b|was\b)[a-z][\w-]*)?),? (?:who (?:is|are) "
    r")?(?:called|named) (?P<m>[A-Z][\w'’-]*(?:(?:,| and| [A-Z])[\w'’ -]*[A-Z][\w'’-]*)?))"
)
_VAGUE = re.compile(
    r"(?i)(?:(?:not|no|no longer|so|very|too|super|really|still|always|going|gonna|probably|[\w]+ing)\b|to (?!\d))"
)
_PRONOUN = re.compile(r"(?i)(?:what|which|who|how|he|she|it|they|this|that|these|those|there|here|i|we|you|one"
                      r"|question|point|"
                      r"intention|guess|bad)\b")  # fmt: skip
_POINTS = re.compile(
    r"(?i)(?:(?:at|to|with|of|for|about) )?(?:it|him|her|them|you|your|this|that|these|those|one|what)\b"
)
_WITH = re.compile(r"^(?:[Mm]y (?:[\w'’-]+ ){1,3}|[A-Z][\w'’-]+ )and (?=I\b)")
_CLEAR = re.compile(  # "Delete everything after the comma" is about another text
    r"(?i)^(?:please )?(?:forget (?:everything|it all|all of it)|(?:forget|delete|erase|clear) (?:everything|it "
    r"all|all(?: of it)?"
    r"|all (?:the |your |my )?(?:facts|memories))(?=.* (?:know|remember|told you|me|memory)\b))"
    r"(?: (?:that )?(?:you (?:know|remember|have|kept|stored)|i(?:['’]ve| have)? (?:ever )?(?:said|told you)))?"
    r"(?: (?:about|of) me)?(?: (?:from|in) (?:your |the )?memory)?(?:,? please| now)?[.!]*$"
)
# what only a memory can do may be of "the" thing; "delete" and "remove" must be of "my" thing or of what was said
_FORGET = re.compile(
    r"(?i)^(?:please )?(?:you (?:can|may|should) )?(?:"
    r"(?:forget|stop remembering|(?:do(?:n['’]t| not) |stop )(?:remember|keep|keeping|store|storing))(?: "
    r"about)?(?: that| the fact that)?"
    r"(?: (?:my|our|the|what|where|who|when|how|that))?"
    r"|(?:delete|erase|remove|drop|forget)(?: about)? (?:my|our)"
    r"|(?:delete|erase|remove|drop|forget|ignore|disregard) (?:what|everything|anything|all)(?: that)? i(?:['’]ve| "
    r"have)?"
    r" (?:said|told you|mentioned)(?: to you)? about(?: my| our| the)?"
    r") (?P<t>(?:(?! (?:from|in|on|into|of) (?!(?:your |the )?memory)).){2,80}?)(?: from (?:your )?memory)?[.!]*$"
)
_LAST = re.compile(
    r"(?i)^(?:please )?(?:you (?:can|may) )?(?:forget|scratch|ignore|disregard) (?:that|this|(?:what |that )?i "
    r"(?:ever |just )?(?:said|told you|mentioned|wrote)(?: (?:that|this|it|so))?)(?:,? please| again| now)?$"
)
_NEVERMIND = re.compile(
    r"(?i)^(?:please )?(?:(?:you can|just) )?(?:forget|scratch|ignore|disregard|delete|erase) (?:about )?it"
    r"(?:,? (?:please|again|now))?(?:,.*)?$"
)
_IDIOM = re.compile(
    r"(?i)^(?:please )?(?:you (?:can|may|should) )?(?:forget|ignore|drop|delete|erase|remove) (?:about )?(?:(?:it|me"
    r"|him|his|her|them|their|your|you|these|those)\b(?! all\b)|the (?:above|previous|last)\b).*$"
)
_ABOUT = re.compile(
    r"(?i)^(?:(?:everything|anything|all|what)\b.{0,40}?|(?:that )?i (?:(?:['’]ve|have|just|ever) )*(?:said|told you"
    r"|mentioned)(?: to you)?) about (?:(?:my|our|the) )?"
)
_LISTED = re.compile(r"(?i)(?:(?:my|our|the) )?[\w'’-]+(?: [\w'’-]+)?")  # "my name, phone number and age"
_THAT_IT_IS = re.compile(r"(?i)^(?P<s>.+?)(?: (?:is|are|was|were|as)|['’]s(?= (?-i:[A-Z]))) (?P<v>.+)$")
_IS_NOT = re.compile(
    r"(?i)^(?:(?:my|our) (?P<s>[\w'’ -]{1,60}?)(?: (?:is|are|was) (?:not|never)|['’]s not| (?:isn|aren|wasn)['’]t) "
    r"(?P<v>.+)|i(?:['’]m| am) not (?:called |named )?(?P<n>(?-i:[A-Z]).*)"
    r"|(?P<m>(?-i:[A-Z])[\w'’ -]*?) (?:is not|isn['’]t) my name)$"
)
_PERSONAL = re.compile(  # of "On stage my name is Jack": what holds somewhere else
    rf"(?i)(?P<where>.+) (?:my|our) (?:{'|'.join(forms.PERSON.split())})$"
)
_FROM_NOW = re.compile(r"(?i)(?:from |these |as of )?(?:now|days|today|currently|recently|lately)(?: on)?$")
_BARE = re.compile(  # "remember my name" asks for what was said
    r"(?i)^(?:my|our|your|me|us|what|who|where|when|how|everything|anything|all)\b(?!.*\d)"
)
_ENDED = re.compile(
    r"(?i)\b(?:no longer|any ?more|any longer|quit|stopped|gave up|given up|give up|broke up|split up|passed away|died"
    r"|moved out|retired|got rid of|called off|cancell?ed|sold|(?:i|we)(?:['’]ve| have)? (?:just )?(?:left|lost"
    r"|dropped))\b"
    r"|\b(?:is|are|was|['’]s) (?:off|over|dead|gone|history|finished)\b|^(?:i['’]m|i am|we['’]re) off (?:the|my)\b"
    r"|(?:n['’]t|not)\b.*\bafter all\b"
)
_ELSEWHERE = re.compile(r"(?i)\b((?:left|lost|sold|dropped) .+?) (?:in|on|at|under|with|near|from|for|behind)\b.*")
_NEW = re.compile(  # what a later statement says of an earlier one
    r"(?i)\b(?:actually|now|instead|correction|misspoke|new|changed?|moved|upgraded|switched|rebooked|postponed"
    r"|pushed|no longer"
    r"|these days|after all|again|from now on|down to|up to|turned|anymore|not any ?more|since|better|promoted"
    r"|ported)\b"
)
_COMPILED = [
    (re.compile(rf"(?i)^{pattern}(?P<rest>.*)"), subject, said, cues) for pattern, subject, said, cues in forms.FACTS
]


_PERSON = frozenset(forms.PERSON.split())


def changes_in(message: str) -> list[Change]:
    """What a user's message changes, in order."""
    out: list[Change] = []
    renewed = _NEW.search(message[: speech.MOST]) is not None
    whose, last = "", ""  # of whom "he" and "she" speak, and what was said before
    for clause in speech.clauses(message):
        text = clause.text
        if ORDERS.search(text):  # pasted text that would give orders to the model in every later chat
            continue
        if whose and (pronoun := re.match(r"(?i)(?:he|she)(?P<is>['’]s)? (?!my\b)", text)) and not _BECAME.match(text):
            text = f"my {whose}{' is' if pronoun['is'] else ''} {text[pronoun.end() :]}"
        if (_LAST.match(text) or _NEVERMIND.match(text)) and any(one.kind in ("set", "update") for one in out):
            out = [one for one in out if one.kind not in ("set", "update")]  # what this very message said
            continue
        found = _changes(text, clause.told, last)
        if clause.spares:
            found = [one for one in found if one.kind in ("set", "update", "ended")]
        if clause.part:
            found = [one for one in found if one.kind == "set" and one.subject not in _PERSON]
        if renewed:
            found = [replace(one, renewed=True) for one in found]
        out += found
        if person := re.search(r"(?i)\b(?:my|our) ([a-z]+)(?=['’ ,.]|$)", text):
            whose = person[1].lower()
        last = text
    return out


def _changes(text: str, told: bool, before: str) -> list[Change]:
    """Of one clause; `before` is the one that was said before it."""
    if _CLEAR.match(text):
        return [Change("clear")]
    if _LAST.match(text):
        return [Change("last")]
    if _IDIOM.match(text):
        return []
    if found := _FORGET.match(text):
        return _forgotten(found["t"])
    if (found := _IS_NOT.match(text)) and not _VAGUE.match(value := found["v"] or found["n"] or found["m"]):
        return [Change("forget", found["s"] or "name", value)]
    if _ENDED.search(text):
        own = re.search(r"(?i)\b(?:i|we|my|our)\b", text) is not None
        thing = _ELSEWHERE.sub(r"\1", text)
        thing = _ENDED.sub(lambda m: " " if len(m.group().split()) < 3 else m.group(), thing)
        left = re.search(r"(?i)\bleft\b", text) is not None  # "I left Oslo early" ends no home, "I left Nokia" a job
        return [Change("ended", "home" if left else "", text=thing, own=own)]
    out = [_set(f"{_noun(m['a'] or m['b'])}'s name", m["n"] or m["m"], text) for m in _NAMED.finditer(text)
           if not any(plain.no_noun(word) for word in (m["a"] or "").split()[1:])]  # fmt: skip
    lead, bare = speech.leading(_WITH.sub("", text))
    if one := _stated(bare, text, told, before, lead):
        out = [old for old in out if old.subject != one.subject] + [one]
    return out


def _forgotten(thing: str) -> list[Change]:
    """What a wish to forget names: one thing, or a list of them; nothing where "my ..." is only a part of it."""
    first, *more = re.split(r",\s+(?:and\s+)?|\s+(?:and|or|then)\s+", _ABOUT.sub("", thing))
    text = thing if not more else " and ".join([first, *more]) if all(map(_LISTED.fullmatch, more)) else first
    text = _ABOUT.sub("", text)
    if re.search(r"(?i)(?<!,)(?<!and) (?:my|our)\b", text):
        return []
    text = re.sub(r"(?i)^i(?:['’]m| am)? ", "", text)
    value = _THAT_IT_IS.match(text)
    return [Change("forget", text=text, value=value["v"] if value else "")]


def _stated(text: str, said: str, told: bool, before: str, lead: str) -> Change | None:
    if mail := _MAIL.search(text):
        return Change(
            "set", "email", mail.group(), f"The user's email address is {mail.group()}.", "mail reach contact"
        )
    if found := _HERE.match(text):
        return Change("set", "name", found["v"], f"The user's name is {found['v']}.", _cues("name"))
    if (found := _BECAME.match(text)) and (name := found["n"] or _proper(before)):
        return Change(
            "set", f"{found['s'].lower()}'s name", name, f"The user's {found['s']} is {name}.", "called name", only=True
        )
    if found := _ITS.match(text):
        value = found["v"] or _proper(before)
        return Change("set", subject_of(found["s"]), value, f"The user's {found['s']} is {value}.") if value else None
    if found := _OWN.match(text):
        subject, value = subject_of(found["s"]), _value(found["v"])
        if called := re.match(r"(?i)(?:called|named|spelled) (?P<v>.+)", value):
            if not forms.names("name", called["v"], text):
                return None
            whose = "" if subject.endswith("name") else "'s name"
            return Change("set", f"{subject}{whose}", called["v"], f"The user's {subject} is {value}.",
                          f"called name {subject}")  # fmt: skip
        if (
            not forms.names(subject, value, text)
            or _VAGUE.match(value)
            or _PRONOUN.match(subject)
            or plain.MOMENT.search(found["v"])
        ):
            return None
        if re.match(r"(?i)(?:at|with|from|in|based|an?) ", value) and (part := plain.possessed(text)):
            one = _of_another(*part, said)
            if one is not None and ": " not in one.subject:
                return one
        if value and len(subject) <= LONGEST // 3:
            return Change("set", subject, value, f"The user's {found['s']} is {value}.", _cues(subject))
    for pattern, subject, sentence, cues in _COMPILED:
        if found := pattern.match(text):
            value = _value(found["v"])
            if not value or len(value) > LONGEST or _POINTS.match(value):
                return None
            if not forms.names(subject, value, text):
                continue
            parts = {"v": value, "n": found.groupdict().get("n") or ""}
            name = subject.format(**{key: part.lower() for key, part in parts.items()})
            more = f" The user said: {said}." if len(found["rest"].split()) > 1 or lead else ""
            return Change("set", name, value, sentence.format(**parts) + more, cues.format(**parts))
    if (part := plain.possessed(text)) and (one := _of_another(*part, said)):
        return one
    if held := plain.lasting(text):
        return _kept(*held, said)
    if found := _SHIFTED.match(text):
        return Change("update", subject_of(found["s"]), _value(found["v"]), f"The {found['s']} is {found['v']}.")
    if found := _ANY.match(text):
        subject, value = subject_of(found["s"]), _value(re.sub(r"(?i), not .*", "", found["v"]))
        if (inner := _PERSONAL.match(found["s"])) and not _FROM_NOW.search(inner["where"]):
            return None
        ours = re.search(r"(?i)\b(?:at (?:home|work)|(?:at|in) (?:my|our) \w+)\b", f"{subject} {value}")
        dated = plain.slot(value)[0] in ("date", "time", "weekday", "money")
        if value and not _VAGUE.match(value) and not _PRONOUN.match(subject):
            new: Literal["set", "update"] = "set" if told or ours or dated else "update"
            return Change(new, subject, value, f"The {subject} is {value}.", _cues(subject))
    if found := _ME.match(text):
        return _kept(found["a"], found["v"], said)
    kind, value = plain.slot(text)
    if told and len(text.split()) > 1 and not _BARE.match(text):
        return _set(plain.frame(text, value) or text[:60].lower(), value or text, said)
    return Change("update", "", value, said) if kind in ("money", "measure") else None


def _of_another(noun: str, apposition: str, predicate: str, said: str) -> Change | None:
    """What is said of "my sister": as of the user, with her in the subject."""
    whose, verb = noun.lower(), predicate.split()[0].lower()
    if plain.MOMENT.search(predicate) or re.match(
        r"(?i)(?:is|are|was|were) (?:\w+ing|not|broken|down|late)\b|(?:does|do|did|is|are)(?:n['’]t| not)\b", predicate
    ):
        return None
    for base in ("am",) if verb in ("is", "are") else (*possible_bases(verb), verb):
        own = _stated(f"i {base}{predicate[len(verb) :]}", said, False, "", "") if base not in ("my", "i") else None
        if own is not None and ": " not in own.subject and own.kind == "set":
            return Change("set", f"{whose}'s {own.subject}", own.value, f"The user said: {said}.", f"{noun} {own.cues}")
    value = predicate.partition(" ")[2]
    if not value.strip(" ,") or _PRONOUN.match(noun):
        return None
    kind, held = plain.slot(predicate)
    subject = f"{whose}: {plain.frame(predicate, held) or verb}" if kind else f"{whose}: {verb}"
    return _set(subject, held or value, said)


def _kept(verb: str, rest: str, said: str) -> Change | None:
    """A fact in the user's own words: its frame and slot, or its verb and object."""
    if not rest or len(said) > LONGEST or _POINTS.match(rest):
        return None
    kind, held = plain.slot(rest)
    if kind:
        return _set(f"{verb} {plain.frame(rest, held)}".strip(), held, said)
    value = _value(re.sub(r"(?i)^(?:the|my|our|an?) ", "", rest))
    return _set(f"{verb}: {value.lower()}"[:60], value, said)


def _set(subject: str, value: str, said: str) -> Change:
    return Change("set", subject[: LONGEST // 3], value, f"The user said: {said.rstrip('.')}.", _cues(subject))


def _noun(words: str) -> str:
    return words.lower().split()[-1] if words.lower().startswith(("small", "old", "big", "new")) else words.lower()


def _proper(text: str) -> str:
    found = re.findall(r"(?<!^)\b(?!I\b)[A-Z][\w'’-]+|^[A-Z][\w'’-]+(?= and I\b)", text)
    return str(found[-1]) if found else ""


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
