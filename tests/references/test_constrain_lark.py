"""Grammars in Lark's form: terminals of `common`, templates, `%extend`, `%override`; verdicts of Lark 1.3.1.

Lark's are of its `earley` parser with the `dynamic_complete` lexer.
"""

import random

import pytest
from _json_texts import Reader

from llmanac.core.errors import RequestError
from llmanac.generate.constrain import lark
from llmanac.generate.constrain.lark import parse_lark

# by name: texts that Lark's terminal matches, and texts that it does not
COMMON = {
    "DIGIT": (["0", "9"], ["a", "12"]),
    "HEXDIGIT": (["0", "f", "F"], ["g"]),
    "INT": (["0", "007", "12"], ["-1", "1."]),
    "SIGNED_INT": (["+1", "-22", "3"], ["+-1", "+"]),
    "DECIMAL": (["1.", ".5", "1.5"], ["1", ".", "1.5."]),
    "_EXP": (["e5", "E-10"], ["e", "e+"]),
    "FLOAT": (["1e5", "1.", ".5e-3"], ["1", "1e"]),
    "SIGNED_FLOAT": (["-1.5", "+.5", "1e9"], ["-1"]),
    "NUMBER": (["1", "1.5", "1e5"], ["-1", "1e"]),
    "SIGNED_NUMBER": (["-1", "+1.5e3", "1"], ["--1"]),
    "ESCAPED_STRING": (['""', '"a"', '"a\\"b"', '"a\\\\"', '"\\n"', '"\\\\\\""'], ['"a"b"', '"\\"', '"a\nb"', "a"]),
    "LCASE_LETTER": (["a"], ["A", "é", "1"]),
    "UCASE_LETTER": (["A"], ["a", "É"]),
    "LETTER": (["a", "Z"], ["é", "_"]),
    "WORD": (["aZ", "ab"], ["a1", "é"]),
    "CNAME": (["_a1", "a", "_"], ["1a", "a-b", "é"]),
    "WS_INLINE": ([" ", "\t \t"], ["\n", "", "\r"]),
    "WS": ([" \n\t\r\x0c"], ["", "a", "\x0b"]),
    "CR": (["\r"], ["\n"]),
    "LF": (["\n"], ["\r\n"]),
    "NEWLINE": (["\n", "\r\n\n"], ["\r", "\n\r"]),
    "SH_COMMENT": (["#", "# a b"], ["# a\n", "a"]),
    "CPP_COMMENT": (["// a", "//"], ["/ a", "//\n"]),
    "C_COMMENT": (["/**/", "/* a\n* / **/", "/***/"], ["/* a */ */", "/*/", "/* a"]),
    "SQL_COMMENT": (["-- a", "--"], ["- a", "--a\n"]),
}
GRAMMARS = [
    (
        'start: _sep{NUMBER, ","}\n_sep{x, sep}: x (sep x)*\n%import common.NUMBER',
        ["1", "1,2", "1,2.5,3"],
        ["1,", ",1", ""],
    ),
    (
        'start: "[" _sep{value, ","}? "]"\nvalue: NUMBER | start | "t"\n_sep{x, s}: x (s x)*\n%import common.NUMBER\n%import common.WS\n%ignore WS',  # noqa: E501
        ["[]", "[1, [2,t] , 3]", "[[]]"],
        ["[1 2]", "[", "[1,]"],
    ),
    (
        'start: pair{INT, WORD}\npair{a, b}: a ":" b | "(" pair{b, a} ")"\n%import common (INT, WORD)',
        ["1:a", "(a:1)", "((1:a))"],
        ["a:1", "(1:a)"],
    ),
    ('start: a{"x"} a{"y"}\na{t}: t+ ["!"]', ["xy", "xx!yy!", "x!y"], ["x", "yx"]),
    ('start: outer{"a"}\nouter{x}: inner{x, "b"}\ninner{p, q}: (p q)~2', ["abab"], ["ab", "ababab"]),
    ('start: (_m{A} | _m{/b/})+\n_m{x}: "<" x ">"\nA: "a".."c"', ["<a><b>", "<c>"], ["<d>", "<>"]),
    ('start: A\nA: "a"\n%extend A: "b"', ["a", "b"], ["c", "ab"]),
    ('start: x\nx: "a"\n%extend x: "b" x', ["a", "ba", "bba"], ["b", "ab"]),
    ('start: A\nA: "a"\n%override A: "b"', ["b"], ["a"]),
    ('start: x\nx: "a"\n%override x: "b" | "c"', ["b", "c"], ["a"]),
    ('start: INT\n%import common.INT\n%extend INT: "x"', ["12", "x"], ["x1"]),
    ("start: NUM\n%import common.INT -> NUM\n%override NUM: /[01]+/", ["01"], ["2"]),
    ('start: W+\n%import common.WORD -> W\n%ignore " "', ["ab cd", "ab", " a "], ["1"]),
    (
        'start: INT ("+" INT)*\n%import common (INT, WS_INLINE)\n%ignore WS_INLINE\n%ignore /#[^\\n]*/',
        ["1 + 2", "1+2 # x"],
        ["# a", "1 2", "1\n"],
    ),
    ('# a comment\nstart: "a" // another\n  | "b" # third\n', ["a", "b"], ["c"]),
    (
        'start: name ("," name)*\nname: CNAME -> id\n%import common.CNAME\n%import common.WS\n%ignore WS\n%declare _INDENT _DEDENT',  # noqa: E501
        ["a, b", "a"],
        ["1", ",a"],
    ),
    (
        '?start: sum\n?sum: product | sum "+" product\n?product: atom | product "*" atom\n?atom: NUMBER | "-" atom | "(" sum ")"\n%import common.NUMBER\n%import common.WS_INLINE\n%ignore WS_INLINE',  # noqa: E501
        ["1 + -2", "1.5e3*2"],
        ["1+2*(3 - 4)", "(1", "1+*2"],
    ),
    (
        'start: value\n?value: object | array | ESCAPED_STRING | SIGNED_NUMBER | "true" | "false" | "null"\narray: "[" [value ("," value)*] "]"\nobject: "{" [pair ("," pair)*] "}"\npair: ESCAPED_STRING ":" value\n%import common.ESCAPED_STRING\n%import common.SIGNED_NUMBER\n%import common.WS\n%ignore WS',  # noqa: E501
        ['{"a": [1, -2.5e3, "x\\"y"], "b": null}', "[ ]"],
        ["[1,]", '{"a" 1}', '"a', "tru"],
    ),
    ('start: "é"i /(?i:ß)/', ["éß", "Éẞ"], ["ÉẞX", "e"]),
    (
        'start: stmt+\nstmt: "if"i CNAME ":" block{stmt} | CNAME ";"\nblock{s}: "{" s* "}"\n%import common (CNAME, WS)\n%ignore WS',  # noqa: E501
        ["a;", "if a: { b; }", "IF x:{if y:{}} z;"],
        ["if a: b;", "{}"],
    ),
    ('start: list{list{"a"}}\nlist{x}: "(" x* ")"', ["()", "(())", "((aa)())"], ["(a)"]),
    ('_x.2: "a"\nA.3: "b"\nstart: (_x | A)~2..3', ["ab", "aba"], ["a", "aaaa"]),
]


@pytest.mark.parametrize("name", COMMON)
def test_terminals_of_common(name):
    accepted, rejected = COMMON[name]
    for grammar in (f"start: {name}\n%import common.{name}", f"start: X\n%import common ({name}) \nX: {name}"):
        reads = Reader(parse_lark(grammar))
        assert [t for t in accepted + rejected if reads(t)] == accepted


def test_all_terminals_of_common_are_tried():
    names = {line.partition(":")[0] for line in lark.COMMON.read_text("utf-8").split("\n") if line[:2] != "//"} - {""}
    assert names == {*COMMON, "_STRING_INNER", "_STRING_ESC_INNER"}


@pytest.mark.parametrize(("grammar", "accepted", "rejected"), GRAMMARS)
def test_grammars(grammar, accepted, rejected):
    reads = Reader(parse_lark(grammar))
    assert [t for t in accepted + rejected if reads(t)] == accepted and accepted


def test_a_template_is_its_rule_written_out():
    """Nested uses, of terminals, rules and expressions, on random texts."""
    used = 'start: _list{_list{x, "-"}, ","}\nx: "a" | "(" start ")"\n_list{x, sep}: x (sep x)*'
    plain = 'start: y ("," y)*\ny: x ("-" x)*\nx: "a" | "(" start ")"'
    one, two, rng = Reader(parse_lark(used)), Reader(parse_lark(plain)), random.Random(0)
    found = 0
    for _ in range(2000):
        text = "".join(rng.choices("aaa-,()", k=rng.randint(1, 7)))
        assert one(text) == two(text)
        found += one(text)
    assert found > 50


def test_strings_of_common_end_at_their_quote():
    reads = Reader(
        parse_lark(
            'start: "\'" _STRING_ESC_INNER "\'" _STRING_INNER\n%import common (_STRING_INNER, _STRING_ESC_INNER)'
        )
    )
    assert [reads(t) for t in ("'a'b", r"'a\'b'", r"'\\'", r"'a\'", "'a\nb'")] == [True, True, True, False, False]


REFUSED = {
    'start: "a"\n%import common.NUMBR': "line 2: NUMBR: it is not defined; did you mean 'NUMBER'",
    'start: "a"\n%import python.NAME': "line 2: %import python: only 'common' is known",
    'start: "a"\n%import .other.A': "line 2: %import .: only 'common'",
    "start: INT\n%import common (INT": r"line 2: the '\(' is not closed",
    'INT: "a"\nstart: INT\n%import common.INT': "line 3: INT is defined twice",
    'start: x\n%extend x: "a"': "line 2: %extend: there is no x above",
    'start: A\nB: "a"\n%override A: "a"': "line 3: %override: there is no A above",
    "start: A\n%declare A": "line 1: A: it is only declared, so it has no text; define it",
    'start: x\nx: "a"\n\n%ignore x': "line 4: x: a terminal cannot use a rule",
    'start: "a"\n%ignore A': "line 2: A: it is not defined",
    'start: t{"a", "b"}\nt{x}: x': "line 1: t has 1 parameters, and 2 are given",
    'start: q{"a"}\nt{x}: x': "line 1: there is no template q",
    "start: t\nt{x}: x": "line 1: t",
    'start: "a"\nt{x}: x\nt{y}: y': "line 3: t is defined twice",
    'start: A\nA: t{"a"}\nt{x}: x': "line 2: the template t in a terminal",
    'start: t{"a"}\nt{x}: x | t{u{x}}\nu{x}: x x': "line 2: .: more than 2,000 uses of templates",
    'start: "a"\n%foo A': "line 2: %foo is not supported",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_wrong_is_refused_with_its_line(text):
    with pytest.raises(RequestError, match=REFUSED[text]):
        parse_lark(text)
