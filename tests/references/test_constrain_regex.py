"""Regular expressions of constraints against Python's `re`: random ones, every character of the classes and cases."""

import itertools
import random
import re
import sys
import warnings
from collections import Counter

import pytest
from _json_texts import Reader

from llmanac.core.errors import RequestError
from llmanac.generate.constrain._json_strings import matches
from llmanac.generate.constrain.expressions import Chars, Concat, Grammar, Terminal
from llmanac.generate.constrain.regex import parse_regex, search_regex

ATOMS = [
    "a",
    "b",
    "A",
    "k",
    "s",
    "i",
    "é",
    "É",
    "ß",
    "1",
    "٣",
    "_",
    " ",
    "\u00a0",
    "\x1c",
    "{",
    "}",
    "]",
    "-",
    ",",
    ":",
    r"\d",
    r"\D",
    r"\w",
    r"\W",
    r"\s",
    r"\S",
    ".",
    r"\.",
    r"\n",
    "\n",
    r"\t",
    r"\x61",
    r"\u00e9",
    r"\U0001F642",
    r"\0",
    r"\-",
    r"\é",
    "^",
    "$",
    r"\A",
    r"\Z",
    "[ab]",
    "[^ab]",
    "[]a]",
    "[^]a]",
    "[a-c1]",
    "[a-]",
    "[-a]",
    r"[\d_]",
    r"[^\w]",
    r"[\W\d]",
    r"[\s-]",
    "[{}]",
    "[$^.]",
    r"[\b]",
    r"[\]]",
    "[é-ü]",
    "[a^]",
    "[A-Z]",
    r"[\x41-\x43]",
    "[[a]",
    "{,3}",
    "{x}",
    "{1",
    "{}",
    r"\ud83d\ude42",
    r"\b",
    r"\B",
    r"\1",
    "(?=a)",
    "(?!a)",
    "(?<=a)",
    "(?#a)",
    "[[:alpha:]]",
    r"\07",
    r"\a",
    r"\e",
    r"\N{SPACE}",
    "(?P=x)",
]
QUANTIFIERS = ["*", "+", "?", "{2}", "{1,2}", "{,2}", "{1,}", "{,}", "*?", "+?", "??", "{1,2}?", "{2}?", "{,2}?"]
ODD = ["*+", "++", "?+", "{2}+", "**", "+*", "{2}{3}", "*{2}", "???"]
GROUPS = ["(", "(?:", "(?P<x>", "(?i:", "(?s:", "(?-i:", "(?a:", "(?is:", "(?m:", "(?x:", "(?>"]
FLAGS = ["", "", "", "(?i)", "(?s)", "(?a)", "(?ai)", "(?u)", "(?m)"]
LETTERS = [
    *"abcAkKsSiIı1٣_ ,-{}]:^$.\\",
    "\n",
    "\t",
    "é",
    "É",
    "ß",
    "ẞ",
    "ſ",
    "İ",
    "\u212a",
    "\u00a0",
    "\x1c",
    "🙂",
    "中",
]


def written(rng, depth, odd):
    """A random expression; `odd`: how often a part is one that is rare."""
    kind = rng.randrange(6) if depth else 0
    if kind <= 1:
        return rng.choice(ATOMS if rng.random() < odd else ATOMS[:60])
    if kind == 2:
        return "".join(written(rng, depth - 1, odd) for _ in range(rng.randint(0, 4)))
    if kind == 3:
        return written(rng, depth - 1, odd) + rng.choice(ODD if rng.random() < odd / 3 else QUANTIFIERS)
    body = "|".join(written(rng, depth - 1, odd) for _ in range(rng.randint(1, 3)))
    return rng.choice(GROUPS if rng.random() < odd else GROUPS[:2]) + body + ")"


def texts(rng, pattern):
    """Texts over what the pattern is about, short ones first."""
    near = [c for c in pattern if c.isalnum()] + ["\n"]
    some = [["", "a", "\n", "a\n"], rng.sample(LETTERS, 8)]
    return [
        *itertools.chain(*some),
        *("".join(rng.choices(LETTERS + 4 * near, k=rng.randint(1, 4))) for _ in range(24)),
    ]


def compared(seeds, odd):
    counts = Counter()
    for seed in seeds:
        rng = random.Random(seed)
        pattern = rng.choice(FLAGS) + written(rng, 3, odd)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                python = re.compile(pattern)
        except re.error:
            python = None
        try:
            tree = parse_regex(pattern)
        except RequestError as error:
            counts["refused" if python else "refused by both"] += 1
            assert str(error).startswith("regex: ")
            continue
        if python is None:
            counts["accepted by us alone"] += 1
            continue
        counts["read by both"] += 1
        for text in texts(rng, pattern):
            found = python.fullmatch(text) is not None
            assert matches(tree, text) == found, (seed, pattern, text)
            counts["texts"] += 1
            counts["matches"] += found
    return counts


@pytest.mark.parametrize("odd", [0.0, 0.3])
def test_random_expressions(odd):
    counts = compared(range(1000), odd)
    assert counts["read by both"] > 500 and counts["matches"] > 1500, counts
    assert counts["accepted by us alone"] < 10, counts


EVERY = "".join(c for c in map(chr, range(sys.maxunicode + 1)) if not "\ud800" <= c <= "\udfff")


def characters(pattern):
    """The characters of EVERY that an expression of one character matches."""
    tree = parse_regex(pattern)
    while isinstance(tree, Concat):
        tree = tree.items[-1]
    assert isinstance(tree, Chars)
    return {c for low, high in tree.ranges for c in range(low, high + 1)}


CLASSES = [r"\d", r"\w", r"\s", r"[^\d\s]", r"[\W_]", "."]


@pytest.mark.parametrize("pattern", [flag + part for flag in ("", "(?a)") for part in CLASSES])
def test_classes_are_those_of_python(pattern):
    assert characters(pattern) & set(map(ord, EVERY)) == set(map(ord, re.findall(pattern, EVERY)))


@pytest.mark.parametrize("flags", ["(?i)", "(?ai)"])
def test_cases_are_those_of_python(flags):
    cased = [c for c in EVERY if c.lower() != c or c.upper() != c]
    text = "".join(cased)
    for character in cased if flags == "(?i)" else "aKkſ\u212aéıß":
        assert characters(flags + character) == set(map(ord, re.findall(flags + character, text))), character
    assert len(cased) > 2500


@pytest.mark.parametrize(
    ("pattern", "text", "python", "ecma"),
    [
        ("a{,3}", "aaa", True, False),
        ("a{,3}", "a{,3}", False, True),
        ("a{,}", "", True, False),
        (r"\d", "٣", True, False),
        (r"\w", "é", True, False),
        (r"\s", "\x1c", True, False),
        (r"\s", "\ufeff", False, True),
        ("^a$\n", "a\n", True, False),
        ("^.$", "\r", True, False),
        (r"^\ud83d\ude42$", "🙂", False, True),
        ("[]]", "]", True, False),
    ],
)
def test_python_and_ecma_differ(pattern, text, python, ecma):
    assert matches(parse_regex(pattern), text) == python == bool(re.fullmatch(pattern, text))
    assert matches(search_regex(pattern), text) == ecma


REFUSED = {
    r"\Ba": r"\\B is not supported",
    "(?x)a": "the flag 'x'",
    r"\07": "octal",
    "[[:alpha:]]": "classes of POSIX",
    "a**": "a quantifier behind another",
    "a{2}{3}": "a quantifier behind another",
    "a+?{2}": "a quantifier behind another",
    "{2}": "nothing is repeated",
    "a|{,2}": "nothing is repeated",
    "(?-a:a)": "the flag 'a'",
    r"\N{DASH}": "the escape",
    "a(?i)b": "must be at the start",
}


@pytest.mark.parametrize("pattern", REFUSED)
def test_what_is_not_read_is_refused_by_name(pattern):
    with pytest.raises(RequestError, match=REFUSED[pattern]):
        parse_regex(pattern)


@pytest.mark.parametrize("pattern", [r"\w+", r"[\w\s]{1,40}\d", r"(?i)[^\W\d]+é"])
def test_the_recognizer_reads_bytes_of_unicode_classes(pattern):
    reads, rng = Reader(Grammar({"s": Terminal(parse_regex(pattern))}, "s")), random.Random(0)
    found = 0
    for _ in range(400):
        text = "".join(rng.choices([*LETTERS, "@", ".com", "É", "٣"], k=rng.randint(1, 5)))
        assert reads(text) == bool(re.fullmatch(pattern, text)), text
        found += reads(text)
    assert reads("é٣中") == bool(re.fullmatch(pattern, "é٣中")) and found > 1
