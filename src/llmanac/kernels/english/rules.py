"""Words that English tokenization does not split by rule: contractions, abbreviations, emoticons, times of day, units.

The words a filter counts must be those of its reference, and the reference counts spaCy's. These are its exceptions,
built up from the forms they have in common; `tests/references/test_english_words.py` compares them with spaCy's own.
"""

from __future__ import annotations

from collections.abc import Iterator


def _words(text: str) -> list[str]:
    return text.split()


_PRONOUNS = _words("i you he she it we they")
_ASKING = _words("who what when where why how there that this these those")
_NOT_AFTER = _words("ca could do does did had may might must need ought sha should wo would")
_NOT_ONLY = _words("ai are is was were have has dare")
_HAVE_AFTER = _words("could might must should would")
_DROPPED_G = _words("doin goin nothin nuthin ol somethin havin lovin")
_CAUSE = _words("cause cos coz cuz")
# these are words themselves
_WORDS = frozenset(_words("ill its hell shell shed were well whore"))
_ABBREVIATIONS = _words("""
    Adm. Ak. Ala. Apr. Ariz. Ark. Aug. Bros. Calif. Co. Colo. Conn. Corp. D.C. Dec. Del. Dr. E.G. E.g. Feb. Fla. Ga.
    Gen. Gov. I.E. I.e. Ia. Id. Ill. Inc. Ind. Jan. Jr. Jul. Jun. Kan. Kans. Ky. La. Ltd. Mar. Mass. Md. Messrs.
    Mich. Minn. Miss. Mo. Mont. Mr. Mrs. Ms. Mt. N.C. N.D. N.H. N.J. N.M. N.Y. Neb. Nebr. Nev. Nov. Oct. Okla. Ore.
    Pa. Ph.D. Prof. Rep. Rev. S.C. Sen. Sep. Sept. St. Tenn. Va. Wash. Wis. a.m. co. e.g. i.e. p.m. v.s. vs. and/or
    w/o C++ <space>
""")
_EMOTICONS = _words(r"""
    :) :-) :)) :-)) :))) :-))) (: (-: =) (= :] :-] [: [-: [= =] :o) (o: :} :-} 8) 8-) (-8 ;) ;-) (; (-; :( :-( :(( :-((
    :((( :-((( ): )-: =( >:( :') :'-) :'( :'-( :/ :-/ =/ =| :| :-| ]= =[ :1 :P :-P :p :-p :O :-O :o :-o :0 :-0 :() >:o
    :* :-* :3 :-3 =3 :> :-> :X :-X :x :-x :D :-D ;D ;-D =D xD XD xDD XDD 8D 8-D ^_^ ^__^ ^___^ >.< >.> <.< ._. ;_; -_-
    -__- v.v V.V v_v V_V o_o o_O O_o O_O 0_o o_0 0_0 o.O O.o O.O o.o 0.0 o.0 0.o @_@ <3 <33 <333 </3 (^_^) (-_-) (._.)
    (>_<) (*_*) (¬_¬) ಠ_ಠ ಠ︵ಠ (ಠ_ಠ) ¯\(ツ)/¯ (╯°□°）╯︵┻━┻ ><(((*>
""")
_ALONE = [
    "'",
    "''",
    '\\")',
    "\\t",
    "\\n",
    "—",
    "'S",
    "'s",
    "\u2018S",
    "\u2018s",
    "'d",
    "'ll",
    "'re",
    "em",
    "ll",
    "nuff",
]

# Units that may follow a number without a space, of two characters and more. The one of two scripts is the
# reference's own: two of its lists run together there.
UNITS = _words("""
    km km² km³ m² m³ dm dm² dm³ cm cm² cm³ mm mm² mm³ ha µm nm yd in ft kg mg µg lb oz m/s km/h kmh mph hPa Pa mbar
    mb MB kb KB gb GB tb TB км км² км³ м² м³ дм дм² дм³ см см² см³ мм мм² мм³ нм кг мг м/с км/ч кПа Па мбар Кб КБ кб
    Мб МБ мб Гб ГБ гб Тб ТБ тбكم كم² كم³ م² م³ سم سم² سم³ مم مم² مم³ كم غرام جرام جم كغ ملغ كوب اكواب
""")


def _contractions() -> Iterator[tuple[str, ...]]:
    """The parts of every contraction in lower case, with its apostrophes."""
    yield from (("i", "'m"), ("i", "'m", "a"))
    for word in _PRONOUNS + _ASKING:
        for end in ("'ll", "'d"):
            yield word, end
            yield word, end, "'ve"
    for word in ["i", "you", "we", "they", *_ASKING]:
        if word not in ("that", "this"):
            yield word, "'ve"
    for word in ["you", "we", "they", *_ASKING]:
        if word not in ("that", "this"):
            yield word, "'re"
    for word in ["he", "she", "it", *_ASKING]:
        if word not in ("these", "those"):
            yield word, "'s"
    for word in _NOT_AFTER:
        yield word, "n't"
        yield word, "n't", "'ve"
    for word in _NOT_ONLY:
        yield word, "n't"
    for word in _HAVE_AFTER:
        yield word, "'ve"


def _without(parts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(part.replace("'", "") for part in parts)


def _irregular() -> Iterator[tuple[str, ...]]:
    """Contractions that follow no pattern, each as it is written."""
    for word in ("not", "Not"):
        yield word, "'ve"
        yield word, "ve"
    for first in "cC":
        yield f"{first}an", "not"
        yield f"{first}'m", "on"
    for first in "gG":
        yield f"{first}on", "na"
        yield f"{first}ot", "ta"
    for first in "lL":
        yield f"{first}et", "'s"
    for first in "hH":
        yield f"{first}ow", "'d", "'y"
    yield "y'", "all"
    yield "y", "all"
    for number in range(1, 13):
        for half in ("a.m.", "am", "p.m.", "pm"):
            yield str(number), half
    for unit in "cfkCFK":
        yield "°", unit, "."


def special_cases() -> dict[str, tuple[str, ...]]:
    """`{"can't": ("ca", "n't"), ":-)": (":-)",), ...}`: strings taken whole, and the words in them."""
    found: list[tuple[str, ...]] = []
    for parts in _contractions():
        for written in (parts, _without(parts)):
            found += [written, (written[0].title(), *written[1:])]
    found = [parts for parts in found if "".join(parts).lower() not in _WORDS]
    found += list(_irregular())
    found += [(word,) for word in [*_ABBREVIATIONS, *_EMOTICONS, *_ALONE, "\t", "\n", " ", "\u00a0"]]
    found += [(f"{letter}.",) for letter in "abcdefghijklmnopqrstuvwxyzäöü"]
    for word in _DROPPED_G:
        found += [(form,) for first in (word, word.title()) for form in (first, f"{first}'")]
    for word in _CAUSE:
        found += [(f"'{word}",), (f"'{word.title()}",)]
    found += [(f"'{word}",) for word in ("bout", "em", "nuff")]
    found += [(word,) for word in ("ma'am", "Ma'am", "o'clock", "O'clock")]
    found += [tuple(part.replace("'", "\u2019") for part in parts) for parts in found if any("'" in p for p in parts)]
    return {"".join(parts): parts for parts in found}
