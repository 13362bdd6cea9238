"""A thought before an answer: its budget, and the structure behind it, on random models."""

from __future__ import annotations

import json

import pytest
from _engine_models import HistoryModel

from llmanac.generate.constrain import constraint_of
from llmanac.generate.constrain.thinking import Markers, Thinking
from llmanac.generate.engine import Engine
from llmanac.tokenizers.load import train_tokenizer

SCHEMA = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
MARKERS = Markers("<think>", "</think>")


@pytest.mark.parametrize("special", [[], ["<think>", "</think>"]], ids=["markers in pieces", "markers as tokens"])
@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_a_thought_keeps_its_budget_and_the_answer_its_schema(special, begun, seed):
    tokenizer = train_tokenizer("utf8", [], special_tokens=["<|end|>", *special])
    size, end = tokenizer.vocab_size, tokenizer.special_tokens["<|end|>"]
    engine = Engine(HistoryModel(max_length=512, vocab_size=size), tokenizer)
    make = constraint_of({"schema": SCHEMA}, tokenizer, [end], size, {})
    made = []

    def thinking():
        made.append(Thinking(tokenizer, MARKERS, begun=begun, budget=5, answer=make(), ends=[end], size=size))
        return made[-1]

    options = {"constraint": thinking, "stop_ids": [end], "max_new_tokens": 200, "temperature": 1.0, "seed": seed}
    [done] = engine.generate(["<think>" if begun else "ab"], **options)
    opening, closing = (tokenizer.encode(text, special="all") for text in (MARKERS.opening, MARKERS.closing))
    ids = done.ids[:-1] if done.ids[-1] == end else done.ids
    starts = 0 if begun else len(opening) if ids[: len(opening)] == list(opening) else None
    if starts is not None:
        closed = next(i for i in range(starts, len(ids)) if ids[i : i + len(closing)] == list(closing))
        assert closed - starts <= 5
        ids = ids[closed + len(closing) :]
    answer = tokenizer.decode(ids)
    assert json.loads(answer)["a"] in (1, 2)


def test_without_a_structure_only_the_thought_is_bounded():
    tokenizer = train_tokenizer("utf8", [], special_tokens=["<|end|>"])
    said = tokenizer.encode("<think>abcdefgh</think>xyz")
    found = Thinking(tokenizer, MARKERS, begun=False, budget=3, answer=None, ends=[], size=tokenizer.vocab_size)
    taken = []
    for token in said[:18]:
        forced = found.forced()
        taken.append(token if forced is None else forced)
        assert found.mask()[taken[-1]]
        found.advance(taken[-1])
    assert tokenizer.decode(taken) == "<think>abc</think>"
    assert found.forced() is None and found.mask().all()
    plain = Thinking(tokenizer, MARKERS, begun=False, budget=0, answer=None, ends=[], size=tokenizer.vocab_size)
    for token in tokenizer.encode("<thin ice"):
        assert plain.forced() is None and plain.mask().all()
        plain.advance(token)
