"""English word forms by rule: the other forms of a word."""

import functools
from pathlib import Path

from llmanac.core import files

_TABLES = files.read_toml(Path(__file__).with_name("english.toml"))


def _rows(name: str) -> list[tuple[str, ...]]:
    return [tuple(row.split()) for row in _TABLES[name]]


# base -> past, participle of the verbs that follow no rule
IRREGULAR: dict[str, tuple[str, ...]] = {base: tuple(forms.split()) for base, forms in _TABLES["irregular"].items()}
_BASES: dict[str, set[str]] = {"has": {"have"}}
for _base, _forms in IRREGULAR.items():
    for _form in _forms:
        _BASES.setdefault(_form, set()).add(_base)
PLURALS: dict[str, str] = _TABLES["plurals"]
AUXILIARIES, AGREEMENT, CONFUSED = map(_rows, ("auxiliaries", "agreement", "confused"))
PREPOSITIONS, ARTICLES = (tuple(_TABLES[name].split()) for name in ("prepositions", "articles"))
DETERMINERS = frozenset(_TABLES["determiners"].split())
FUNCTION = DETERMINERS.union(PREPOSITIONS, AUXILIARIES[0], _TABLES["function_words"].split())
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
    return word[:-1] + "ies" if word.endswith("y") and word[-2:-1] not in VOWELS else word + "s"


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
