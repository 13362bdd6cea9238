"""The shortest forms of generation and of byte-pair encoding give what the fast ones give."""

from __future__ import annotations

import copy

import pytest
import torch
from _engine_models import ByteTokenizer
from _small_models import tokens, transformer

from llmanac.core.spec import make_method
from llmanac.generate import plain
from llmanac.generate.decoding import temperature, top_p
from llmanac.generate.engine import Engine
from llmanac.tokenizers import plain_bpe
from llmanac.tokenizers.patterns.splitter import NAMED

PROMPTS = [row.tolist() for row in tokens(6, 9)]
STOP = 7


@pytest.fixture(scope="module")
def engine() -> Engine:
    torch.manual_seed(0)
    model = transformer(max_length=64).eval()
    for parameter in model.parameters():
        parameter.data.mul_(2.0 if parameter.ndim > 1 else 1.0)
    return Engine(model, ByteTokenizer())


@pytest.mark.parametrize("form", [plain.cached, plain.uncached])
def test_greedy_tokens_are_those_of_the_engine(engine: Engine, form) -> None:
    stop = plain.generate(form(engine.model, PROMPTS[0]), 6)[-1:]
    done = engine.generate(PROMPTS, max_new_tokens=24, stop_ids=stop)
    found = [plain.generate(form(engine.model, prompt), 24, stop) for prompt in PROMPTS]
    assert found == [one.ids for one in done]
    assert found[0][-1:] == stop and len(found[0]) <= 6 and len({tuple(ids) for ids in found}) > 3


@pytest.mark.parametrize("form", [plain.cached, plain.uncached])
def test_drawn_tokens_are_those_of_the_engine(engine: Engine, form) -> None:
    request = engine.request(PROMPTS[0], temperature=1.3, top_p=0.8, seed=5, max_new_tokens=24, stop_ids=[])
    noise = copy.deepcopy(request.sequences[0].noise)
    engine.run([request])
    draw = plain.sampler([temperature.Spec(temperature=1.3), top_p.Spec(p=0.8)], noise)
    found = plain.generate(form(engine.model, PROMPTS[0], draw), 24)
    assert found == request.sequences[0].ids != plain.generate(plain.cached(engine.model, PROMPTS[0]), 24)


@pytest.mark.parametrize("width", [2, 3, 5])
def test_beams_are_those_of_the_engine(engine: Engine, width: int) -> None:
    for prompt in PROMPTS:
        done = engine.generate(prompt, max_new_tokens=12, beams=width, n=width, length_penalty=0.0, stop_ids=[STOP])
        found = plain.beams(engine.model, prompt, width, 12, STOP)
        assert [ids for _, ids in found] == [one.ids for one in done]
        assert [score for score, _ in found] == pytest.approx([one.score for one in done])


@pytest.mark.parametrize(
    "text", ["low lower lowest newer newest wider", "aaaa aaa aa a baab", "naïve 日本 café, don't 123"]
)
def test_merges_and_ids_are_those_of_the_fast_tokenizer(text: str) -> None:
    corpus = [text, text.upper(), f"{text} {text}"]
    fast = make_method("tokenizer", "bpe", {"vocab_size": 300}).train(corpus)
    byte_ids = fast._byte_ids.tolist()
    merges = plain_bpe.train(corpus, NAMED["gpt4"], 300, byte_ids)
    assert [[*pair, new] for pair, new in merges] == fast.merges.T.tolist()
    for one in [*corpus, "other words, 12345", ""]:
        assert plain_bpe.encode(one, NAMED["gpt4"], merges, byte_ids) == list(fast.encode(one))
    assert len(plain_bpe.encode(text, NAMED["gpt4"], merges, byte_ids)) < len(text.encode())
