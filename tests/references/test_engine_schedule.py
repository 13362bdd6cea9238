"""What the engine runs next: prompts read in pieces beside those that decode, forced tokens, constraints, arrays."""

from __future__ import annotations

from collections import deque

import pytest
import torch
from _engine_models import EOS, VOCABULARY, ByteTokenizer, HistoryModel

from llmanac.core.errors import RequestError
from llmanac.core.spec import make_method
from llmanac.generate import schedule as decisions
from llmanac.generate.engine import Engine
from llmanac.generate.schedule import ReadCall, ScheduledRow, admit, compact, schedule


class Words:
    """Only texts of a list may be written, each followed by the end of text."""

    def __init__(self, *texts):
        self.texts, self.done = [[*t.encode(), EOS] for t in texts], []

    def _next(self):
        n = len(self.done)
        return {t[n] for t in self.texts if t[:n] == self.done and len(t) > n}

    def mask(self):
        allowed = torch.zeros(VOCABULARY, dtype=torch.bool)
        allowed[list(self._next())] = True
        return allowed

    def forced(self):
        allowed = self._next()
        return next(iter(allowed)) if len(allowed) == 1 else None

    def advance(self, token):
        assert token in self._next()
        self.done.append(token)

    def accepting(self):
        return EOS in self._next()

    def rewind(self, tokens):
        del self.done[len(self.done) - tokens :]


class Request:
    def __init__(self, prompt, samples=1, scored=False):
        self.prompt, self.sequences, self.prompt_logprobs = tuple(prompt), [None] * samples, 0 if scored else None
        self.rows, self.tokens = samples, len(self.prompt)


def rows_of(decoding, reading):
    table = [ScheduledRow(Request([1]), [7] * n, sequence=object()) for n in decoding]
    return [*table, *(ScheduledRow(Request(range(n)), list(range(n))) for n in reading)]


def test_a_step_is_one_call_for_those_that_decode_and_a_budget_of_prompt_tokens(monkeypatch):
    monkeypatch.setattr(decisions, "READ_TOKENS", 100)
    assert schedule(rows_of([1, 1, 1], []), 50) == [ReadCall(0, 3, 1, False)]
    assert schedule(rows_of([1, 4], []), 50) == [ReadCall(0, 2, 4, True)]  # forced tokens are read and scored
    assert schedule(rows_of([1], [20, 30, 40]), 50) == [
        ReadCall(0, 1, 1, False),
        ReadCall(1, 3, 30, False),
        ReadCall(3, 4, 40, False),
    ]
    # a long prompt is read in pieces, and those behind it wait
    assert schedule(rows_of([1, 1], [250, 5]), 50) == [ReadCall(0, 2, 1, False), ReadCall(2, 3, 100, False)]
    assert schedule(rows_of([], [60, 60]), 50) == [ReadCall(0, 1, 60, False), ReadCall(1, 2, 40, False)]
    scored = [ScheduledRow(Request(range(9), scored=True), list(range(9))), *rows_of([], [9])]
    assert schedule(scored, 50) == [ReadCall(0, 1, 9, True), ReadCall(1, 2, 9, False)]
    assert schedule([], 50) == []


def test_requests_start_first_come_first_served():
    waiting = deque([Request([1] * 5), Request([1] * 2, samples=3), Request([1])])
    assert [len(r.prompt) for r in admit(waiting, 4, 4)] == [2, 5] and len(waiting) == 1
    assert admit(deque([Request([1], samples=9)]), 4, 3) == []  # waits until it is alone
    assert len(admit(deque([Request([1], samples=9)]), 4, 4)) == 1


def test_rows_that_leave_move_the_fewest():
    assert compact([True] * 4, [True, False, True, True]) == [0, 3, 2]
    assert compact([True, True, False, False], [False, True, True, True]) == [1, 2, 3]
    assert compact([True, True, True, False], [True, True, False, False]) == [0, 1]


def test_a_long_prompt_delays_the_others_by_pieces(monkeypatch):
    monkeypatch.setattr(decisions, "READ_TOKENS", 16)
    model = HistoryModel(max_length=400)
    engine = Engine(model, ByteTokenizer())
    scheduler = engine.scheduler()
    first = engine.request(list(b"first"), max_new_tokens=40, stop_ids=())
    scheduler.submit(first)
    scheduler.step()
    long = engine.request([i % 250 for i in range(160)], max_new_tokens=3, stop_ids=())
    scheduler.submit(long)
    for step in range(10):
        before, tokens = model.tokens_read, len(first.sequences[0].token_logprobs)
        scheduler.step()
        assert len(first.sequences[0].token_logprobs) == tokens + 1, step  # one token a step all the while
        assert model.tokens_read - before <= 17
    assert len(long.sequences[0].token_logprobs) == 1
    while scheduler.busy:
        scheduler.step()
    for request in (first, long):
        options = {"max_new_tokens": request.max_new_tokens, "stop_ids": ()}
        alone = Engine(HistoryModel(max_length=400), ByteTokenizer()).generate([list(request.prompt)], **options)
        assert request.sequences[0].ids == alone[0].ids


TEXTS = ("the same beginning, one", "the same beginning, two", "short")


@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_forced_tokens_cost_no_call_of_their_own(temperature):
    model = HistoryModel()
    engine = Engine(model, ByteTokenizer())
    plain = {"max_new_tokens": 60, "temperature": temperature, "seed": 3}
    options = {**plain, "logprobs": 2}
    done = engine.generate(list(b"q"), constraint=lambda: Words(*TEXTS), **plain)[0]
    assert done.text in TEXTS and done.finish_reason == "stop"
    assert model.calls <= 4 < len(done.ids)
    scored = engine.generate(list(b"q"), constraint=lambda: Words(*TEXTS), **options)[0]
    assert scored.ids == done.ids  # with log-probabilities forced tokens are read too, and every one has its own
    done = scored
    ids, logprobs, sampled = done.arrays
    for i, token in enumerate(ids):
        logits = model.logits_of([*b"q", *ids[:i].tolist()])
        expected = (logits - logits.logsumexp(0))[token].item()
        assert logprobs[i] == pytest.approx(expected, abs=1e-12)
        assert len(done.token_logprobs[i].top) == 2
    assert (sampled <= 0).all()
    pieces = list(engine.stream(list(b"q"), constraint=lambda: Words(*TEXTS), **options))
    assert "".join(p.text for p in pieces) == done.text
    assert [i for p in pieces for i in p.ids] == ids.tolist()


def test_constrained_and_free_requests_share_a_batch():
    prompts = [list(b"one"), list(b"second"), list(b"x")]
    scheduler_rows = 3
    engine = Engine(HistoryModel(), ByteTokenizer(), rows=scheduler_rows)
    constraints = [None, lambda: Words(*TEXTS), lambda: Words("a", "b", "c")]
    options = {"max_new_tokens": 12, "temperature": 0.8, "seed": 5, "n": 2}
    scheduler = engine.scheduler()
    requests = []
    for prompt, constraint in zip(prompts, constraints, strict=True):
        extra = {} if constraint is None else {"constraint": constraint}
        requests.append(engine.request(prompt, **options, **extra))
        scheduler.submit(requests[-1])
    while scheduler.busy:
        scheduler.step()
    for request, prompt, constraint in zip(requests, prompts, constraints, strict=True):
        extra = {} if constraint is None else {"constraint": constraint}
        alone = Engine(HistoryModel(), ByteTokenizer(), rows=1).generate(prompt, **options, **extra)
        assert [s.ids for s in request.sequences] == [c.ids for c in alone]
    assert all(s.text.text in ("a", "b", "c") for s in requests[2].sequences)


def test_probabilities_of_the_distribution_sampled_from():
    model = HistoryModel()
    done = Engine(model, ByteTokenizer()).generate(
        list(b"ab"), max_new_tokens=6, temperature=0.7, top_k=5, seed=1, stop_ids=()
    )[0]
    ids, logprobs, sampled = done.arrays
    assert ids.dtype.name == "int64" and logprobs.shape == sampled.shape == ids.shape
    for i, token in enumerate(ids):
        logits = model.logits_of([*b"ab", *ids[:i].tolist()])
        kept = logits.topk(5).indices
        cut = torch.full_like(logits, -torch.inf)
        cut[kept] = logits[kept] / 0.7
        assert sampled[i] == pytest.approx(cut.log_softmax(0)[token].item(), abs=1e-12)
        assert logprobs[i] == pytest.approx(logits.log_softmax(0)[token].item(), abs=1e-12)


def test_an_encoder_decoder_has_no_prompt_scores():
    model = make_method("lm", {"name": "encoder-decoder", "dim": 16}).build(vocab_size=VOCABULARY)
    with pytest.raises(RequestError, match="prompt_logprobs"):
        Engine(model).generate([[1, 2]], prompt_logprobs=1)


class Counting:
    """Allows one token after another, each forced."""

    def __init__(self, count=40):
        self.count, self.done = count, 0

    def mask(self):
        allowed = torch.zeros(VOCABULARY, dtype=torch.bool)
        allowed[self.forced() if self.done < self.count else EOS] = True
        return allowed

    def forced(self):
        return 50 + self.done % 26 if 0 < self.done < self.count else None

    def advance(self, token):
        self.done += 1


@pytest.mark.parametrize("most", [4, 7, 1000])
@pytest.mark.parametrize("drafter", [None, "prompt-lookup", HistoryModel(scale=0.1)])
def test_forced_tokens_that_take_several_calls_are_scored(most, drafter, monkeypatch):
    """Every forced token has the log-probability of its own place, however the calls cut them."""
    monkeypatch.setattr(decisions, "SCORED_LOGITS", most * VOCABULARY)
    model = HistoryModel()
    engine = Engine(model, ByteTokenizer(), drafter=drafter)
    engine.speculation.always = True
    asked = {"constraint": Counting, "max_new_tokens": 60, "n": 2, "temperature": 1.0}
    for done in engine.generate(["ab", "cde"], **asked):
        assert done.ids[1:40] == [50 + i % 26 for i in range(1, 40)]
        for at, (token, logprob) in enumerate(zip(done.ids, done.logprobs, strict=True)):
            expected = model.logits_of([*done.prompt_ids, *done.ids[:at]]).log_softmax(-1)[token]
            assert logprob == pytest.approx(float(expected), abs=1e-6)
