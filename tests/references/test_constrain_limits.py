"""Masks, forced tokens and what a text takes agree; failures end one text only; compiling takes bounded time."""

import re
import sys
import time
from collections import Counter

import numpy as np
import pytest
import torch
from _engine_models import ByteTokenizer, HistoryModel

from llmanac.core.errors import RequestError, SpecError
from llmanac.generate.constrain import _patience, constraint_of
from llmanac.generate.constrain._utf8 import cases
from llmanac.generate.constrain.automaton import warm as compile_kernels
from llmanac.generate.constrain.expressions import Grammar, Terminal
from llmanac.generate.constrain.json_schema import grammar
from llmanac.generate.constrain.matcher import MaskFollower, Matcher
from llmanac.generate.constrain.regex import parse_regex
from llmanac.generate.engine import Engine
from llmanac.tokenizers.load import train_tokenizer

CORPUS = ["the cat sat on the mat; null [1, 2] naïve façade 中文 字符 日本 🙂🙃 aaa bbb abab aabb"] * 4


@pytest.fixture(scope="module")
def bpe():
    return train_tokenizer(
        "bpe", CORPUS, vocab_size=330, pattern=r"\s?\S+|\s+", special_tokens=("<|end|>",), eos="<|end|>"
    )


# ------------------------------------------------------------------------------- what is forced, allowed and taken
def agreed(tokenizer, grammar, rng, steps=6):
    """A walk on which the mask is the set of tokens that `advance` takes, and what is forced is of that set."""
    size = tokenizer.vocab_size
    ours = MaskFollower(Matcher(grammar, tokenizer), [tokenizer.eos_id], size)
    for _ in range(steps):
        mask, taken = ours.mask(), np.zeros(size, bool)
        for token in range(size):
            try:
                ours.copy().advance(token)
            except RequestError:
                continue
            taken[token] = True
        assert (mask == taken).all(), (ours.text, np.flatnonzero(mask != taken)[:5])
        follows, forced = ours.copy(), ours.forced()
        while forced is not None:  # as many as the encoding of what must follow has
            assert follows.mask()[forced], (ours.text, follows.text)
            follows.advance(forced)
            forced = follows._forced[0] if follows._forced else None
        token = int(rng.choice(np.flatnonzero(mask)))
        if token == tokenizer.eos_id:
            return
        ours.advance(token)


@pytest.mark.parametrize("pattern", ["日本", "é{2}", "(Ä|b)c", "x(日本|旦)y", "(éé|日本)"])
def test_tokens_may_end_inside_of_characters(bpe, pattern):
    rng = np.random.default_rng(0)
    for tokenizer in (ByteTokenizer(), bpe):
        for _ in range(3):
            agreed(tokenizer, Grammar({"s": Terminal(parse_regex(pattern))}, "s"), rng, 12)
    for seed in range(3):
        done = Engine(HistoryModel(), ByteTokenizer()).generate("x", regex=pattern, temperature=1.0, seed=seed)[0]
        assert re.fullmatch(pattern, done.text) and done.finish_reason == "stop"


def test_masks_of_combined_patterns_are_what_advance_takes(bpe):
    rng = np.random.default_rng(0)
    schemas = [
        {"type": "string", "not": {"pattern": "^a"}}, {"type": "string", "pattern": "^a", "not": {"pattern": "n"}},
        {"type": "string", "oneOf": [{"pattern": "^a"}, {"pattern": "b$"}]},
    ]  # fmt: skip
    for _ in range(4):
        one, two, three = (str(rng.choice(["^a", "n", "^[a-e]+$", "b$", "^.{2,4}$", "é"])) for _ in range(3))
        schemas.append({"type": "string", "pattern": one, "not": {"anyOf": [{"pattern": two}, {"pattern": three}]}})
    for schema in schemas:
        try:
            made = grammar(schema)
        except SpecError as error:
            assert "no value" in str(error)
            continue
        agreed(bpe, made, rng)


class Failing:
    """Allows everything; fails in one of its methods after two tokens."""

    def __init__(self, method):
        self.method, self.taken = method, 0

    def mask(self):
        return torch.ones(260, dtype=torch.bool)

    def forced(self):
        self._fail("forced")

    def advance(self, token):
        self.taken += 1
        self._fail("advance")

    def _fail(self, method):
        if method == self.method and self.taken > 1:
            raise RequestError("constraint: it failed")


@pytest.mark.parametrize(("method", "more"), [("advance", {}), ("forced", {}), ("advance", {"beams": 2})])
def test_a_constraint_that_fails_ends_its_own_text_only(method, more):
    engine = Engine(HistoryModel(), ByteTokenizer())
    alone = engine.generate("hello", max_new_tokens=8)[0]
    scheduler = engine.scheduler()
    good = engine.request("hello", max_new_tokens=8)
    bad = engine.request("hello", max_new_tokens=8, constraint=lambda: Failing(method), **more)
    scheduler.submit(bad)
    scheduler.submit(good)
    while scheduler.busy:
        scheduler.step()
    assert good.sequences[0].ids == alone.ids
    assert bad.sequences[0].finish_reason == "length" and "it failed" in str(bad.sequences[0].error)
    with pytest.raises(RequestError, match="it failed"):
        engine.generate("hello", max_new_tokens=8, constraint=lambda: Failing(method), **more)


# ------------------------------------------------------------------------------- time
@pytest.mark.parametrize(
    ("schema", "inside", "outside"),
    [
        ({"type": "integer", "minimum": 1e300}, "1" + "0" * 300, "9" * 300),
        ({"type": "integer", "minimum": 10**300 + 7, "maximum": 10**301}, str(10**300 + 7), str(10**300 + 6)),
        ({"type": "array", "minItems": 8192, "maxItems": 99_999}, f"[{'1, ' * 8191}1]", f"[{'1, ' * 8190}1]"),
        ({"type": "array", "maxItems": 99_999, "items": {"maxItems": 90_000}}, "[[1], 2]", "[1,]"),
    ],
    ids=["float", "exact", "least", "most"],
)
def test_large_limits_take_little_time(schema, inside, outside):
    tokenizer = ByteTokenizer()
    compile_kernels()
    start = time.thread_time()
    matcher = Matcher(grammar(schema), tokenizer)
    assert time.thread_time() - start < 3
    for text, accepted in ((inside, True), (outside, False)):
        follower = MaskFollower(matcher, [tokenizer.eos_id], tokenizer.vocab_size)
        try:
            for token in tokenizer.encode(text):
                follower.advance(token)
        except RequestError:
            assert not accepted
        else:
            assert follower.accepting() == accepted


@pytest.mark.parametrize(
    "option",
    [
        {"schema": {"type": "array", "maxItems": 9000}},
        {"schema": {"type": "number", "minimum": 10**300}},
        {"regex": "(ab){9000}"},
    ],
    ids=["rules", "numbers", "regex"],
)
def test_compiling_has_a_time_limit(option, monkeypatch):
    tokenizer = ByteTokenizer()
    compile_kernels()
    monkeypatch.setattr(_patience, "MOST_SECONDS", 0.0)
    with pytest.raises(RequestError, match=r"^(schema|regex): compiling it takes more than 0 s; make it smaller"):
        constraint_of(option, tokenizer, [tokenizer.eos_id], tokenizer.vocab_size, {})


def test_the_table_of_cases_is_made_of_letters_that_have_some():
    """It is made once, at the first pattern without regard to case; it took longest to list letters with one case."""
    calls = Counter()

    def count(frame, event, argument):
        if event == "c_call":
            calls[argument.__name__] += 1

    sys.setprofile(count)
    try:
        a, b = cases.__wrapped__()
    finally:
        sys.setprofile(None)
    assert calls["setdefault"] < 3_000 and len(a) < 3_000
    folded = {}
    for code in (code for code in range(0x110000) if not 0xD800 <= code < 0xE000):
        folded.setdefault(chr(code).lower()[0].upper(), []).append(code)
    assert {(x, y) for group in folded.values() for x in group for y in group if x != y} == {
        *zip(a.tolist(), b.tolist(), strict=True)
    }
