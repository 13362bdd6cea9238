"""The recognizer of constraints against an independent reader: every text up to a length; and what is refused."""

import itertools

import numpy as np
import pytest
from _engine_models import ByteTokenizer
from _grammars import Spans, letters, random_node, random_regex

from llmanac.core.errors import RequestError
from llmanac.generate.constrain import expressions as ex
from llmanac.generate.constrain.lark import parse_lark
from llmanac.generate.constrain.matcher import MaskFollower, Matcher
from llmanac.generate.constrain.regex import parse_regex

TOKENIZER = ByteTokenizer()


def reader(grammar, **choices):
    """`(alive, matches)` of a text."""
    matcher = Matcher(grammar, TOKENIZER, **choices)

    def read(text):
        data = np.frombuffer(text.encode() + b" ", np.uint8).copy()
        state = matcher.follow(-1, data, 0, len(data) - 1)
        assert state >= -1
        return state >= 0, state >= 0 and matcher.accepts(state)

    return read


def texts(alphabet, longest):
    return ["".join(t) for n in range(longest + 1) for t in itertools.product(alphabet, repeat=n)]


def agree(grammar, alphabet, longest, viable=True):
    """The same texts match, and exactly their beginnings are alive (those of texts up to the length)."""
    try:
        read = reader(grammar)
    except RequestError as error:
        assert "matches no text" in str(error)
        assert not any(Spans(grammar, text).matches() for text in texts(alphabet, longest))
        return 0
    matching = set()
    for text in texts(alphabet, longest):
        alive, matches = read(text)
        assert matches == Spans(grammar, text).matches(), (grammar, text)
        matching |= {text} if matches else set()
        assert alive or not matches
    beginnings = {text[:n] for text in matching for n in range(len(text) + 1)}
    for text in texts(alphabet, longest):
        assert read(text)[0] or text not in beginnings
    return len(matching)


@pytest.mark.parametrize("seed", range(40))
def test_random_expressions(seed):
    rng = np.random.default_rng(seed)
    agree(ex.Grammar({"s": ex.Terminal(random_regex(rng, 3, "aä"))}, "s"), "aä", 5)


@pytest.mark.parametrize("fresh", [False, True])
def test_random_grammars_ambiguous_and_left_recursive(fresh):
    rng, count = np.random.default_rng(int(fresh)), 0
    for _ in range(60):
        rules = {name: random_node(rng, 2, ["s", "t", "u"], fresh) for name in "stu"}
        count += agree(ex.Grammar(rules, "s"), "ab", 4) > 2
    assert count > 10


LARK = {
    'start: start start | "a" | ': 32,  # every text of a
    'start: "a" start "a" | "b" start "b" | "a" | "b" | ': None,  # palindromes, which no deterministic stack reads
    'start: e\ne: e "a" e | e "b" e | "b"': None,
    'start: x y\nx: "a" x "b" | \ny: "b" y | ': None,
    "start: A+ B?\nA: /a+b/\nB: /[ab]/ ~ 2..3": None,
}


@pytest.mark.parametrize("text", LARK)
def test_lark_grammars(text):
    assert agree(parse_lark(text), "ab", 7) > 5


def test_what_is_ignored_comes_between_terminals():
    read = reader(parse_lark('start: "a" ("," NAME)*\nNAME: /b+/\n%ignore /[ \\n]+/'))
    for text, matches in {" a": True, "a , bb,b \n": True, "a, b b": False, "": False, "a,": False}.items():
        assert read(text)[1] == matches, text


def test_keys_of_an_object_differ_in_each_scope():
    key = ex.Fresh(ex.Concat((letters('"'), ex.Repeat(letters("ab"), 0, 2), letters('"'))))
    pair = ex.Concatenation((key, ex.Choice((ex.Terminal(letters("1")), ex.Ref("o")))))
    many = ex.Concatenation((pair, ex.Many(pair, 0)))
    rules = {"o": ex.Scope(ex.Concatenation((ex.Terminal(letters("{")), many, ex.Terminal(letters("}")))))}
    read = reader(ex.Grammar(rules, "o"))
    good = ['{"a"1"b"1}', '{"a"{"a"1}"b"{"a"1"b"1}}', '{""1"ab"1"aa"1}']
    bad = ['{"a"1"a"1}', '{"a"{"b"1"b"1}}', '{"a"{"b"1}"a"1}', '{""1""1}']
    for text in good + bad:
        assert read(text)[1] == (text in good) == Spans(ex.Grammar(rules, "o"), text).matches()


def test_a_mask_knows_the_keys_so_far():
    """The byte that would end a repeated key is not in the mask; after taking tokens back it is."""
    key = ex.Fresh(ex.Concat((ex.Repeat(letters("ab"), 1), letters(":"))))
    grammar = ex.Grammar({"s": ex.Scope(ex.Many(key, 1))}, "s")
    follower = MaskFollower(Matcher(grammar, TOKENIZER), [256], 260)
    for byte in b"ab:ba:a":
        follower.advance(byte)
    assert follower.mask()[ord(":")]
    follower.advance(ord("b"))
    other = follower.copy()
    assert not follower.mask()[ord(":")] and follower.mask()[ord("a")]
    with pytest.raises(RequestError, match="may not follow"):
        follower.advance(ord(":"))
    follower.rewind(1)
    assert follower.mask()[ord(":")] and follower.text == b"ab:ba:a" and other.text == b"ab:ba:ab"


def test_the_beginning_of_a_text_of_which_none_is_left_is_not_alive():
    assert parse_regex("(?i)\udcff") is not None  # a byte that is not UTF-8 on the command line has no other case
    item = ex.Fresh(parse_regex('"(aa|ab|b[ab]?)"|a[^b]*'))
    read = reader(
        ex.Grammar({"s": ex.Scope(ex.Concatenation((item, ex.Many(ex.Concatenation((COMMA, item)), 0, 4))))}, "s")
    )
    for text, alive in {'"aa","a': True, '"aa","ab","a': False, '"aa","ab","b': True, '"aa","ab",a': True}.items():
        assert read(text)[0] == alive, text
    assert read('"b","ba","bb","a')[0] and not read('"b","ba","bb","b')[0]


COMMA = ex.Terminal(letters(","))


def test_sets_that_are_forgotten_are_made_anew():
    grammar = parse_lark('start: "[" (start ("," start)*)? "]" | /[0-9]+/')
    small, large = Matcher(grammar, TOKENIZER, sets=40), Matcher(grammar, TOKENIZER)
    one, two = MaskFollower(small, [256], 260), MaskFollower(large, [256], 260)
    for byte in b"[[1,[22,[3]]],[[[[4]]]],5,[[[1],12],123],[[[[[6]]]]]]":
        assert (one.mask() == two.mask()).all() and one.accepting() == two.accepting()
        one.advance(byte), two.advance(byte)
    assert small.version > 0 == large.version and one.accepting()


def test_long_texts_need_bounded_work():
    """Left and right recursion and an ambiguous list: the sets of a long text are few."""
    for text in ('start: start "a" | "a"', 'start: "a" start | "a"', 'start: "a"*'):
        matcher = Matcher(parse_lark(text), TOKENIZER)
        data = np.full(20_001, ord("a"), np.uint8)
        state = matcher.follow(-1, data, 0, 20_000)
        assert matcher.accepts(state) and matcher._memory.counts[0] < 10


REFUSED = {
    "larger": ex.Terminal(ex.Repeat(ex.Repeat(letters("a"), 1000), 1000)),
    "simplify": ex.Terminal(
        ex.Not(ex.Concat((ex.Repeat(letters("ab"), 0), letters("a"), ex.Repeat(letters("ab"), 18, 18))))
    ),
    "matches no text": ex.Terminal(ex.And((letters("a"), letters("b")))),
    "there is no rule": ex.Ref("x"),
    "smaller number first": ex.Many(ex.Terminal(letters("a")), 3, 2),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_is_too_large_or_wrong_is_refused(why):
    with pytest.raises(RequestError, match=why.replace("larger", "too large")):
        Matcher(ex.Grammar({"s": REFUSED[why]}, "s"), TOKENIZER)


def test_deep_trees_are_refused():
    node = letters("a")
    for _ in range(500):
        node = ex.Union((node, letters("bc")))
        node = ex.Repeat(node, 0)
    with pytest.raises(RequestError, match="nested"):
        Matcher(ex.Grammar({"s": ex.Terminal(node)}, "s"), TOKENIZER)


BAD_LARK = {
    "start: foo": "line 1: foo",
    "start: a{x}": "line 1",
    'start "a"': "line 1: a ':'",
    'x: "a"': "no rule 'start'",
    "A: B\nB: A\nstart: A": "uses itself",
    'start: ("a"': "not closed",
    "start: /a(?=b)/": "line 1: regex: look-ahead",
    "start: /^a/": r"\^ and \$",
    'start: "a"\nstart: "b"': "line 2: start is defined twice",
    'start: "a"~3..1': "smaller number first",
    "start: /a/x": "flag 'x'",
    "start: " + "(" * 100 + '"a"' + ")" * 100: "nested",
}


@pytest.mark.parametrize("text", BAD_LARK)
def test_a_grammar_that_is_wrong_is_refused_with_its_line(text):
    with pytest.raises(RequestError, match=BAD_LARK[text]):
        Matcher(parse_lark(text), TOKENIZER)
