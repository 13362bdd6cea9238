"""What a message asserts: its clauses, without questions, suppositions, quotations, text for a task, and jokes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from llmanac.evaluate._english import possible_bases

MOST, CLAUSE = 20_000, 300  # characters of a message that are read, and of a clause
_QUOTED = re.compile(
    r"\"[^\"\n]*\"|“[^”\n]{0,999}”|«[^»\n]{0,999}»|(?<!\w)['‘](?=\w)[^\"\n]{3,300}?(?<=[\w.!?,])['’](?!\w)"
    r"|```.*?(?:```|$)",
    re.DOTALL,
)
# "Translate this: ..." hands over a text, which nobody says of themselves
_TASK = re.compile(
    r"(?i)\b(?:translate|proofread|rewrite|rephrase|paraphrase|correct|fix|check|edit|summari[sz]e|continue|complete"
    r"|parse|classify|write|reply to|answer|explain|dialogue|example|sentence|text|email|following|starts?|begins?)\b"
    r"[^.!?:\n]{0,99}:(?=\s)|\b(?:dialogue|conversation)\b[^:\n]{0,99}:?(?=\s+[A-Z]:)"
)
_JOKE = re.compile(r"(?i)\b(?:just kidding|(?:only|just) joking|i['’]m (?:kidding|joking)|just a joke)\b|^jk\b|^not!$")
_NOT_MEANT = re.compile(
    r"(?i)^(?:if|unless|suppose|supposing|imagine|pretend|say|assum\w+|let['’]?s|let us|what if|act (?:as|like)"
    r"|you (?:are|play)\b"
    r"|play the|(?:in|for|during) (?:this|the|our|my|a|that|your) (?:[\w-]+ )?(?:role[- ]?play\w*|rpg|game|scene|story"
    r"|scenario|campaign|simulation|skit|dream)(?=,| (?:i|we|my|our)\b)|as an? (?:example|test|joke)"
    r"|in the (?:song|book|film|movie|story|poem)|once upon|for (?:example"
    r"|instance)|e\.g\."
    r"|had i|were i|(?:he|she|they|it|somebody|someone|people) (?:said|says|asked|told|claims?|thinks?|sang|sings"
    r"|wrote)"
    r"|i (?:never|didn['’]t|did not) (?:said?|claim(?:ed)?|mean|meant)|(?:maybe|perhaps|possibly))\b"
)  # fmt: skip
# what a message says from here on is of a part that is played
_PLAYED = re.compile(
    r"(?i)\b(?:(?:in|for|during) (?:this|the|our|my|a|that|your) role[- ]?play|(?:let['’]?s|let us|start|begin|do) "
    r"(?:a |an? \w+ |the |our )?role[- ]?play|pretend (?:that|you|we|i)\b|(?:stay|be|speak|answer|reply) in character)"
)
_IN_A_PART = re.compile(r"(?i)^as (?:an?|the) ")  # "As a pirate, my name is Jack", but "As a nurse, I work nights"
_DELETES = r"""(?:(?:forget|delete|erase|clear|wipe|remove|drop|ignore|disregard)
|(?:do(?:n['’]t|\ not)|stop)\ (?:remember|keep|stor)\w*)\b"""
_ORDER = re.compile(rf"(?ix)(?:^|[,:]\ *|\b(?:so|and|then|now|just|please|can|may|should|but)\ +){_DELETES}")
# looser than what the rules carry out: a request that they cannot read is answered, not passed over
_WISH = re.compile(
    r"(?i)(?:^|[,:;]\s*|\b(?:please|you(?: to)?|and|so|then|now|just|also|but)\s+)(?:(?:forget|delete|erase|wipe|clear"
    r"|remove|drop|disregard|get rid of)\b|(?:do(?:n['’]t| not)|never|stop) (?:remember|keep|stor|sav)\w*)"
    r"(?=.*\b(?:my|our|me|i|know|remember|memory|told|said|stored|saved|kept|facts?)\b)"
)
_STATED_WISH = re.compile(
    r"(?i)^(?!.*\?\s*$)(?!.*\b(?:don['’]t|do not) forget|forget it\W*$)(?!.*\bi (?:never|always|often|can't|cannot) )"
    r"(?=.*\b(?:my|our|me|it|all|about|memory|stored|facts?)\b)"
    r".*\b(?:(?:forget|deleted?|erased?|wipe|removed?|drop|disregard|get rid of|scrub|purge|strike|unremember|revoke"
    r"|take back)\b|(?:do(?:n['’]t| not)|never|stop|should(?:n['’]t| not)) (?:want you to )?"
    r"(?:know|remember|keep|stor|sav)\w*)"
)
_EXCEPT = r"except\w*|apart from|aside from|other than|save for|besides|excluding|keep|leave|if|unless|once"
_BEFORE = re.compile(rf"(?i)\b(?:{_EXCEPT}|remember)\b")
_AFTER = re.compile(rf"(?i)\b(?:{_EXCEPT}|but|until|not (?:my|our|the))\b")
_SPARED = re.compile(  # the exception in a sentence of its own
    r"(?i)^(?:(?:but|and|just|only|please|well|oh|no|wait|ok|okay),? )*(?:except\w*|not|keep|leave|apart from"
    r"|aside from|other than|save for|besides|excluding|unless)\b|^but (?:remember|do(?:n['’]t| not) forget)\b"
)
_INTERROGATIVE = re.compile(
    r"(?i)^(?:what|which|who|whom|whose|when|where|why|how|is|are|am|was|were|do|does|did|has|have|had|can|could|will"
    r"|would|shall|should|may|might|must|isn['’]t|aren['’]t|don['’]t you|doesn['’]t|won['’]t|can['’]t|couldn['’]t)\b"
)
_ENDS = re.compile(r"(?<=[!?])[\"')\]]*\s+|\.{2,}\s*|…\s*|\.[\"')\]]*\s+|\n+|;\s+|\s+[-–—]+\s+|:\)|:\(")
_CARELESS = (
    (re.compile(r"(?i)\b((?:do|does|did|is|are|was|were|ca|wo|could|would|should|has|have)n)t\b"), r"\1't"),
    (re.compile(r"(?i)\b(i)(m|ve)\b"), r"\1'\2"),
)
_SHORT = re.compile(r"(?i)\b(?:Mr|Mrs|Ms|Dr|St|Mt|Ft|Prof|vs|No|e\.g|i\.e|a\.m|p\.m|[A-Z])$")
LEAD = re.compile(
    r"(?i)^\s*(?:(?:please|can you|could you|ok(?:ay)?|so|well|oh|hi|hello|hey|thanks|thank you|by the way|btw|fyi|also"
    r"|and|but|or|actually|anyway|sorry|just so you know|for the record|for (?:the future|background|context|later)"
    r"|correction|update|scratch that|i misspoke|no|yes|yep|nope|remember|note|keep in mind|bear in mind|don['’]t "
    r"forget"
    r"|know|turns out|it turns out|honestly|frankly|to be honest|as i said|before i forget|context|because|since|while"
    r"|although|though|that)"
    r"(?:\s+(?:this|that))?(?:\s*[,:!-]+\s*|\s+|$))+"
)  # fmt: skip
_ASKED_TO = re.compile(r"(?i)\b(?:remember|keep in mind|bear in mind|don['’]t forget|note|for (?:later|the future))\b")
_SUBJECT = (
    r"(?:(?:i|we)(?:['’](?:m|ve|re|d|ll))?|my|our|he|she|they|it|the|you|everyone|people|please|call|use|remind)\b"
)
_JOINED = re.compile(
    rf"(?i),?\s+(?:and|but|so|because|whereas|while|although|though)\s+(?={_SUBJECT})"
    rf"|,\s+(?=(?:so|because|but|and)\b|{_SUBJECT}|no [\w ]+ please\b)|:\s+(?={_SUBJECT})"
)
_PAIR = re.compile(r"^(?:[Mm]y (?:[\w'’-]+ ?){1,3}|(?:[A-Z][\w'’-]+ ?){1,2})$")
_VERB_AFTER = re.compile(r"(?i),?\s+(?:and|but)\s+(?=(?P<v>[a-z]+)\b)")
_LEADING = re.compile(  # "In my kitchen I only have": what comes before the subject
    r"(?i)^(?P<lead>(?:on|in|at|as|for|since|during|after|before|every|most|these days|now|today|nowadays|usually"
    r"|finally|"
    r"lately|recently|sometimes|new \w+)\b[^,.!?:]{0,40}?),? (?=(?:i|we)(?:['’](?:m|ve|re))? )"
)


class Clause(NamedTuple):
    """
    text: with its own subject where the sentence leaves it out.
    told: the user asked to remember it.
    spares: the sentence wants something deleted with an exception or a condition, of which the rules know nothing.
    part: said "as a ...", who may be somebody that the user plays.
    """

    text: str
    told: bool
    spares: bool = False
    part: bool = False


def clauses(message: str) -> list[Clause]:
    """The clauses that a user states, in order."""
    text = _own(message)
    out: list[list[Clause]] = []
    for sentence in sentences(text):
        if _JOKE.search(sentence):
            out = out[:-1] if out else out
            continue
        if _PLAYED.search(sentence):
            break
        if _SPARED.match(sentence) and out:
            out[-1] = [clause._replace(spares=True) for clause in out[-1]]
        out.append(list(_asserted(sentence)))
    return [clause for sentence in out for clause in sentence]


def wants_deletion(message: str) -> bool:
    """Whether a message asks, in any words that we know, to delete something of what is known."""
    return any(_WISH.search(one) or _STATED_WISH.search(one) for one in sentences(_own(message)))


def _own(message: str) -> str:
    """What a user says themselves: without quotations and text for a task."""
    text = _QUOTED.sub(_unquoted, message[:MOST])
    for pattern, full in _CARELESS:
        text = pattern.sub(full, text)
    task = _TASK.search(text)
    return text[: task.start()] if task else text


def _unquoted(found: re.Match[str]) -> str:
    inner = found.group().strip("\"“”«»'‘’`")
    return inner if len(inner.split()) <= 3 and not re.match(r"(?i)(?:i|my|we|our)\b", inner) else " "


def sentences(text: str) -> list[str]:
    """Sentences with their final mark; a period, semicolon, dash or line ends one, also before lower case."""
    out, start = [], 0
    for found in _ENDS.finditer(text):
        if (
            found.group().startswith(".")
            and not found.group().startswith("..")
            and _SHORT.search(text[start : found.start()][-5:])
        ):
            continue
        out.append(text[start : found.end()])
        start = found.end()
    out.append(text[start:])
    return [" ".join(one.split()) for one in out if one.strip()]


def _spares(sentence: str) -> bool:
    """Whether a wish to delete has an exception or a condition, behind it or before it."""
    order, exception = _ORDER.search(sentence), _BEFORE.search(sentence)
    return (order is not None and _AFTER.search(sentence, order.end()) is not None) or (
        exception is not None and re.compile(f"(?ix)[,\\ ]{_DELETES}").search(sentence, exception.end()) is not None
    )


def _asserted(sentence: str) -> Iterator[Clause]:
    asks = sentence.rstrip("\"')]").endswith("?")
    stated = sentence.strip(" .!?;")
    if asks:
        stated = stated.rpartition(",")[0]
    parts = _JOINED.split(stated)
    for i in range(len(parts) - 1, 0, -1):  # "Ada and I moved" is one clause
        if _PAIR.match(parts[i - 1].strip()) and re.match(r"I\b", parts[i]):
            parts[i - 1 : i + 1] = [f"{parts[i - 1]} and {parts[i]}"]
    subject, told, spares, in_a_part = "", False, _spares(stated), False
    for part in parts:
        bare = part.strip(" ,;")
        if len(bare) > CLAUSE:
            return
        while (cut := LEAD.match(bare)) and bare[cut.end() :]:
            told = told or _ASKED_TO.search(cut.group()) is not None
            bare = bare[cut.end() :].strip(" ,")
        if _NOT_MEANT.match(bare) or _INTERROGATIVE.match(bare):
            return  # the rest hangs on it: "if I lived there, I would ..."
        if not bare:
            continue
        in_a_part = in_a_part or _IN_A_PART.match(bare) is not None
        for piece in _verbs(bare):
            if own := re.match(r"(?i)(i|we)(?:['’](?:m|ve|re|d|ll))?\b", piece):
                subject = own[1]
            elif piece is not bare and subject:
                piece = f"{subject} {piece}"
            yield Clause(piece, told, spares, in_a_part)


def _verbs(clause: str) -> list[str]:
    """ "I sold the car and bought a bike" in two, of which the second has lost its subject."""
    if not re.match(r"(?i)(?:i|we)\b", clause):
        return [clause]
    for found in _VERB_AFTER.finditer(clause):
        word = found["v"].lower()
        if word in _VERBS and possible_bases(word):
            return [clause[: found.start()], clause[found.end() :]]
    return [clause]


# forms of the past with which a second predicate begins, which are no nouns
_VERBS_WORDS = """bought sold moved started picked got took went became left quit joined changed switched found gave
have work live like love hate prefer use drive play speak own study"""
_VERBS = frozenset(_VERBS_WORDS.split())


def leading(clause: str) -> tuple[str, str]:
    """What stands before the subject ("At work"), and the clause from the subject on."""
    found = _LEADING.match(clause)
    return (found["lead"], clause[found.end() :]) if found else ("", clause)
