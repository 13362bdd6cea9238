"""English word forms by rule: what a word could have been, had the writer chosen another form of it."""

from __future__ import annotations

import functools

# base, past, participle of the verbs that follow no rule
_IRREGULAR = """
be was been|become became become|begin began begun|bend bent bent|bite bit bitten|bleed bled bled|blow blew blown
break broke broken|bring brought brought|build built built|buy bought bought|catch caught caught|choose chose chosen
come came come|cost cost cost|cut cut cut|deal dealt dealt|dig dug dug|do did done|draw drew drawn|drink drank drunk
drive drove driven|eat ate eaten|fall fell fallen|feed fed fed|feel felt felt|fight fought fought|find found found
fly flew flown|forget forgot forgotten|forgive forgave forgiven|freeze froze frozen|get got gotten|give gave given
go went gone|grow grew grown|hang hung hung|have had had|hear heard heard|hide hid hidden|hit hit hit|hold held held
hurt hurt hurt|keep kept kept|kneel knelt knelt|know knew known|lay laid laid|lead led led|leave left left
lend lent lent|let let let|lie lay lain|light lit lit|lose lost lost|make made made|mean meant meant|meet met met
pay paid paid|put put put|read read read|ride rode ridden|ring rang rung|rise rose risen|run ran run|say said said
see saw seen|seek sought sought|sell sold sold|send sent sent|set set set|shake shook shaken|shine shone shone
shoot shot shot|show showed shown|shut shut shut|sing sang sung|sink sank sunk|sit sat sat|sleep slept slept
slide slid slid|speak spoke spoken|spend spent spent|spread spread spread|stand stood stood|steal stole stolen
stick stuck stuck|strike struck struck|swear swore sworn|sweep swept swept|swim swam swum|swing swung swung
take took taken|teach taught taught|tear tore torn|tell told told|think thought thought|throw threw thrown
understand understood understood|wake woke woken|wear wore worn|weave wove woven|weep wept wept|win won won
wind wound wound|write wrote written
"""
IRREGULAR: dict[str, tuple[str, str]] = {
    base: (past, participle)
    for base, past, participle in (
        entry.split() for line in _IRREGULAR.split("\n") for entry in line.split("|") if entry
    )
}
_BASES: dict[str, set[str]] = {}
for _base, _forms in IRREGULAR.items():
    for _form in _forms:
        _BASES.setdefault(_form, set()).add(_base)

_BASES["has"] = {"have"}

_PLURALS = """man men|woman women|child children|foot feet|tooth teeth|mouse mice|person people|goose geese|life lives
knife knives|wife wives|leaf leaves|half halves|self selves|shelf shelves|wolf wolves"""
PLURALS = dict(pair.split() for line in _PLURALS.split("\n") for pair in line.split("|"))

BE = ("be", "am", "is", "are", "was", "were", "been", "being")
AUXILIARIES = (BE, ("have", "has", "had", "having"), ("do", "does", "did", "done", "doing"))
# words of one row are taken for one another
AGREEMENT = [
    ("am", "is", "are"), ("was", "were"), ("has", "have"), ("does", "do"), ("isn't", "aren't"), ("wasn't", "weren't"),
    ("hasn't", "haven't"), ("doesn't", "don't"), ("this", "these"), ("that", "those"),
]  # fmt: skip
CONFUSED = [
    ("their", "there", "they're"), ("its", "it's"), ("your", "you're"), ("then", "than"), ("too", "to", "two"),
    ("loose", "lose"), ("affect", "effect"), ("who", "whom"), ("whose", "who's"), ("much", "many"), ("quiet", "quite"),
    ("i", "me"), ("he", "him", "his"), ("she", "her"), ("we", "us"), ("they", "them"), ("me", "my"), ("of", "have"),
    ("advice", "advise"), ("accept", "except"), ("good", "well"), ("himself", "herself", "itself", "themselves"),
]  # fmt: skip
PREPOSITIONS = ("in", "on", "at", "to", "for", "of", "with", "by", "from", "about", "into", "over", "as", "after")
ARTICLES = ("a", "an", "the")
DETERMINERS = frozenset(
    """a an the this that these those my your his her its our their some any no every each another either
    neither""".split()  # noqa: SIM905 - a list of words is read as words
)
FUNCTION = DETERMINERS.union(
    PREPOSITIONS,
    BE,
    """and or but if because so than then not i you he she it we they me him us them who whom which what when where
    why how there here have has had do does did will would can could shall should may might must very too also only
    just more most much many few""".split(),  # noqa: SIM905
)
VOWELS = "aeiou"


def article(word: str) -> str:
    """a or an, by the word's spelling: close enough for a candidate, since the model judges it."""
    return "an" if word[:1].lower() in VOWELS and not word.lower().startswith(("uni", "use", "eu", "one")) else "a"


def _doubled(base: str) -> bool:
    """Whether a final consonant is doubled before -ed and -ing (stop, plan; not visit, rain, show)."""
    if len(base) < 3 or base[-1] in VOWELS + "wxy" or base[-2] not in VOWELS or base[-3] in VOWELS:
        return False
    return sum(c in VOWELS for c in base) == 1


def with_s(word: str) -> str:
    """Third person of a verb, or plural of a noun."""
    if word in PLURALS:
        return PLURALS[word]
    if word in ("have", "be"):
        return {"have": "has", "be": "is"}[word]
    if word.endswith(("s", "x", "z", "ch", "sh")) or word in ("do", "go"):
        return word + "es"
    if word.endswith("y") and word[-2:-1] not in VOWELS:
        return word[:-1] + "ies"
    return word + "s"


def with_ed(base: str) -> str:
    """Past of a regular verb."""
    if base.endswith("e"):
        return base + "d"
    if base.endswith("y") and base[-2:-1] not in VOWELS:
        return base[:-1] + "ied"
    return base + (base[-1] if _doubled(base) else "") + "ed"


def with_ing(base: str) -> str:
    """Present participle."""
    if base.endswith("ie"):
        return base[:-2] + "ying"
    if base.endswith("e") and not base.endswith(("ee", "oe", "ye")) and base != "be":
        return base[:-1] + "ing"
    return base + (base[-1] if _doubled(base) else "") + "ing"


@functools.lru_cache(maxsize=65536)
def verb_forms(base: str) -> tuple[str, ...]:
    """base, third person, past, participle, -ing; the same form only once."""
    past, participle = IRREGULAR.get(base, (with_ed(base), with_ed(base)))
    return tuple(dict.fromkeys((base, with_s(base), past, participle, with_ing(base))))


@functools.lru_cache(maxsize=65536)
def possible_bases(word: str) -> tuple[str, ...]:
    """Every verb that this could be a form of, by spelling alone; the word itself among them."""
    found = {word, *_BASES.get(word, ())}
    stems = []
    if word.endswith(("ies", "ied")):
        stems.append(word[:-3] + "y")
    if word.endswith("ying"):
        stems.append(word[:-4] + "ie")
    for ending in ("ing", "ed", "es", "s", "d"):
        if word.endswith(ending) and len(word) > len(ending) + 1:
            stem = word[: -len(ending)]
            stems += [stem, stem + "e"]
            if len(stem) > 2 and stem[-1] == stem[-2]:
                stems.append(stem[:-1])
    found |= {stem for stem in stems if word in verb_forms(stem)}
    return tuple(sorted(found))


@functools.lru_cache(maxsize=65536)
def possible_singulars(word: str) -> tuple[str, ...]:
    """Every noun that this could be the plural of, by spelling alone."""
    found = {single for single, plural in PLURALS.items() if plural == word}
    for stem in (word[:-1], word[:-2], word[:-3] + "y"):
        if word.endswith("s") and len(stem) > 1 and with_s(stem) == word:
            found.add(stem)
    return tuple(sorted(found))
