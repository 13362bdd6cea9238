"""Requests that are put back where there is no room, and prompts read beside those that decode: the same tokens."""

from __future__ import annotations

import pytest
import torch
from _engine_models import VOCABULARY, ByteTokenizer, HistoryModel
from _small_models import transformer

from llmanac.core.errors import RequestError
from llmanac.core.spec import make_method
from llmanac.generate.engine import Engine, completions
from llmanac.generate.schedule import FIRST_PIECE, LEAST_PIECE, READ_TOKENS, PromptPieces

PROMPTS = ["one two three four", "abcabcabc" * 4, "x", "the cat sat on the mat " * 2, "zz"]


def small(name="transformer"):
    if name == "transformer":
        return transformer(vocab_size=VOCABULARY, dim=16, max_length=160)
    made = make_method("lm", {"name": name, "dim": 16, "layers": 2}).build(vocab_size=VOCABULARY).double()
    with torch.no_grad():
        for number, p in enumerate(made.parameters()):
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(number), dtype=p.dtype) * 0.3)
    return made.eval()


def same(alone, done):
    for one, other in zip(alone, done, strict=True):
        assert one.ids == other.ids and one.text == other.text and one.finish_reason == other.finish_reason
        torch.testing.assert_close(one.arrays.logprobs, other.arrays.logprobs, rtol=1e-8, atol=1e-8)
        first = [t.logprob for t in one.prompt_token_logprobs[1:]]
        torch.testing.assert_close(first, [t.logprob for t in other.prompt_token_logprobs[1:]], rtol=1e-8, atol=1e-8)


def run(engine, asked, check=lambda scheduler: None):
    scheduler = engine.scheduler()
    for request in asked:
        scheduler.submit(request)
    while scheduler.busy:
        scheduler.step()
        check(scheduler)
    return [done for request in asked for done in completions(request)], scheduler


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "seed": 4, "n": 2, "prompt_logprobs": 0}], ids=["1", "2"])
@pytest.mark.parametrize("drafter", [None, "prompt-lookup", "near"])
@pytest.mark.parametrize("cache", [None, 1 << 22], ids=["buffers", "pages"])
@pytest.mark.parametrize("name", ["transformer", "gru"])
def test_requests_that_are_put_back_have_the_tokens_that_they_have_alone(name, cache, drafter, options):
    if cache is not None and name != "transformer":
        pytest.skip("a recurrent state is not kept in blocks")
    model = small(name)
    draft = small(name) if drafter == "near" else drafter
    alone = [
        done
        for prompt in PROMPTS
        for done in Engine(model, ByteTokenizer()).generate(prompt, max_new_tokens=40, stop_ids=[], **options)
    ]
    engine = Engine(model, ByteTokenizer(), prefix_cache_bytes=cache, drafter=draft, max_num_batched_tokens=130)
    engine.speculation.always = True
    asked = [engine.request(prompt, max_new_tokens=40, stop_ids=[], **options) for prompt in PROMPTS]
    samples = options.get("n", 1)

    def check(scheduler):
        """A step may pass the bound by what it adds: a token, drafts and part of a block a row."""
        running = {row.request.arrival for row in scheduler.table}
        assert scheduler.held <= 130 + 24 * len(scheduler.table) or len(running) == 1
        assert all(waiting.arrival > max(running, default=-1) for waiting in scheduler.waiting)

    done, scheduler = run(engine, asked, check)
    same(alone, done)
    assert scheduler.preemptions >= (1 if samples == 1 else 2)
    if cache is not None:
        assert engine.prefix_cache.pool.held == 0


def test_a_request_that_was_put_back_goes_on_with_its_forced_tokens_and_can_be_cancelled():
    class Doubled:
        """Every second token is the one before it."""

        def __init__(self):
            self.given = []

        def mask(self):
            allowed = torch.ones(VOCABULARY, dtype=torch.bool)
            if self.forced() is not None:
                allowed[:] = False
                allowed[self.forced()] = True
            return allowed

        def forced(self):
            return self.given[-1] if len(self.given) % 2 else None

        def advance(self, token):
            self.given.append(token)

    model = HistoryModel()
    options = {"max_new_tokens": 31, "stop_ids": [], "constraint": Doubled, "logprobs": 1}
    alone = [Engine(model, ByteTokenizer()).generate(prompt, **options)[0] for prompt in PROMPTS[:3]]
    engine = Engine(model, ByteTokenizer(), max_num_batched_tokens=80)
    done, scheduler = run(engine, [engine.request(prompt, **options) for prompt in PROMPTS[:3]])
    same(alone, done)
    assert scheduler.preemptions
    scheduler = engine.scheduler()
    asked = [engine.request(prompt, **options) for prompt in PROMPTS[:3]]
    for request in asked:
        scheduler.submit(request)
    while not any(request.paused for request in asked):
        scheduler.step()
    gone = next(request for request in asked if request.paused)
    scheduler.cancel(gone)
    while scheduler.busy:
        scheduler.step()
    assert [request.finished for request in asked] == [request is not gone for request in asked]


def test_a_request_larger_than_the_bound_runs_alone_and_a_bad_bound_is_refused():
    engine = Engine(HistoryModel(), ByteTokenizer(), max_num_batched_tokens=10)
    plain = Engine(HistoryModel(), ByteTokenizer())
    same(plain.generate(PROMPTS, max_new_tokens=9), engine.generate(PROMPTS, max_new_tokens=9))
    with pytest.raises(RequestError, match="max_num_batched_tokens: 0 is not at least 1"):
        Engine(HistoryModel(), max_num_batched_tokens=0)


def test_pieces_follow_the_time_that_decoding_takes():
    pieces = PromptPieces(3.0)
    assert PromptPieces().most is None and pieces.most == FIRST_PIECE
    for _ in range(20):
        pieces.add(0.010, 0.001 * 50, 50)
    assert pieces.most == 12  # 0.6 * 2 * 10 ms at 1 ms a token
    for _ in range(20):
        pieces.add(0.010, 0.0001 * 50, 50)
    assert 110 < pieces.most < 125
    pieces.add(0.0, 0.0, 0)
    assert 110 < pieces.most < 125
    for token, most in ((1.0, LEAST_PIECE), (1e-9, READ_TOKENS)):
        for _ in range(60):
            pieces.add(0.010, token * 50, 50)
        assert pieces.most == most


@pytest.mark.parametrize("name", ["transformer", "gru"])
def test_pieces_of_any_size_give_the_same_tokens(name, monkeypatch):
    """The sizes of the pieces depend on time; the tokens do not."""
    model, sizes = small(name), iter([16, 3, 1, 40, 7, 2, 100] * 20)
    engine = Engine(model, ByteTokenizer())
    alone = [engine.generate(p, max_new_tokens=20, stop_ids=[], prompt_logprobs=0)[0] for p in (*PROMPTS, "ab" * 60)]
    monkeypatch.setattr(PromptPieces, "most", property(lambda self: next(sizes)))
    asked = [engine.request(p, max_new_tokens=20, stop_ids=[], prompt_logprobs=0) for p in (*PROMPTS[:2], "ab" * 60)]
    done, _ = run(engine, asked)
    same([*alone[:2], alone[-1]], done)
