"""Speculative decoding gives the tokens of plain decoding, whatever is drafted, and pauses where it loses."""

from __future__ import annotations

import collections
import itertools
import math

import pytest
import torch
from _engine_models import VOCABULARY, ByteTokenizer, HistoryModel

from llmanac.core.errors import RequestError, SpecError
from llmanac.core.spec import make_method
from llmanac.generate.drafters import DrafterSpec
from llmanac.generate.engine import Engine
from llmanac.generate.speculative import DRAFTED, PLAIN, DraftCost

PROMPTS = ["abcabcabcabc", "the cat the cat the", "x", "one two one two one two"]


def lm(name="transformer", seed=0, **fields):
    spec = make_method("lm", {"name": name, "dim": 16, "layers": 2, "max_length": 96, **fields})
    made = spec.build(vocab_size=VOCABULARY).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype) * 0.3)
    return made.eval()


def near(model, seed=1, by=0.03):
    """A draft that often agrees: the model with some noise on its weights."""
    import copy

    made = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(torch.randn(p.shape, generator=generator, dtype=p.dtype) * by)
    return made


def engines(model, drafter, **options):
    plain = Engine(model, ByteTokenizer(), **{k: v for k, v in options.items() if k != "draft_model"})
    fast = Engine(model, ByteTokenizer(), drafter=drafter, **options)
    fast.speculation.always = True
    return plain, fast


def same(a, b):
    assert [x.ids for x in a] == [x.ids for x in b]
    assert [x.text for x in a] == [x.text for x in b]
    for one, other in zip(a, b, strict=True):
        torch.testing.assert_close(one.arrays.logprobs, other.arrays.logprobs, rtol=1e-9, atol=1e-9)
        assert one.finish_reason == other.finish_reason


SEQUENTIAL = {"blocks": [{"name": "pre-norm", "mixer": {"name": "sliding-window", "window": 5}}, {"name": "pre-norm"}]}
MODELS = {
    "transformer": {},
    "window": {"name": "transformer", **SEQUENTIAL},
    "gru": {"name": "gru"},
    "mamba": {"name": "mamba"},
    "hybrid": {"name": "transformer", "blocks": [{"name": "pre-norm", "mixer": "mamba"}, {"name": "pre-norm"}]},
}


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.8, "top_p": 0.9, "seed": 3, "n": 3}], ids=["greedy", "sampled"]
)
@pytest.mark.parametrize("drafter", ["prompt-lookup", "near", "other"])
@pytest.mark.parametrize("name", MODELS)
def test_tokens_are_those_without_drafts(name, drafter, options):
    """Attention, rings, recurrent states and hybrids; good drafts, bad ones, drafts of another kind of model."""
    model = lm(**MODELS[name])
    chosen = {"near": lambda: near(model), "other": lambda: lm("gru", seed=9)}.get(drafter, lambda: drafter)()
    plain, fast = engines(model, chosen, rows=5)
    asked = {"max_new_tokens": 40, "logprobs": 2, **options}
    same(plain.generate(PROMPTS, **asked), fast.generate(PROMPTS, **asked))
    report = fast.speculation.report()
    if drafter == "near":
        assert report["acceptance"] > 0.3 and report["tokens_per_call"] > 1.3
    if drafter == "other":
        assert report["proposed"] > report["accepted"]


def test_with_pages_stops_constraints_and_requests_that_come_and_go():
    model = lm()
    draft = near(model)
    plain, fast = engines(model, draft, rows=3, prefix_cache_bytes=1 << 22)
    for asked in ({"stop": ["e", "ab"]}, {"allowed_ids": [97, 98, 99]}, {"max_new_tokens": 1}, {"max_new_tokens": 90}):
        for _ in range(2):  # the second time from kept blocks
            same(plain.generate(PROMPTS, **asked), fast.generate(PROMPTS, **asked))
    assert fast.prefix_cache.reused_tokens == plain.prefix_cache.reused_tokens > 0
    pieces = list(fast.stream(PROMPTS[0], max_new_tokens=30))
    assert "".join(p.text for p in pieces) == plain.generate(PROMPTS[0], max_new_tokens=30)[0].text


class Pattern:
    """Text of the pattern `(ab|cd)+` whose second letters are forced."""

    def __init__(self):
        self.last = None

    def mask(self):
        allowed = torch.zeros(VOCABULARY, dtype=torch.bool)
        allowed[[self.forced()] if self.forced() is not None else [97, 99]] = True
        return allowed

    def forced(self):
        return {97: 98, 99: 100}.get(self.last)

    def advance(self, token):
        assert self.mask()[token]
        self.last = token


@pytest.mark.parametrize("name", ["transformer", "gru"])
def test_a_constraint_with_forced_tokens(name):
    model = lm(**MODELS[name])
    for drafter in ("prompt-lookup", near(model)):
        plain, fast = engines(model, drafter)
        asked = {"constraint": Pattern, "max_new_tokens": 21, "temperature": 1.0, "logprobs": 1}
        same(plain.generate(PROMPTS, **asked), fast.generate(PROMPTS, **asked))


def test_a_request_can_do_without_and_counts_are_its_own():
    model = HistoryModel(script=lambda ids: 97 + len(ids) % 3)
    plain, fast = engines(model, "prompt-lookup")
    with_, without = fast.generate("abcabcabc"), fast.generate("abcabcabc", speculative=False)
    same(with_, plain.generate("abcabcabc"))
    same(with_, without)
    assert with_[0].accepted > 40 and with_[0].drafted >= with_[0].accepted and without[0].drafted == 0
    before = model.calls
    fast.generate("abcabcabc", max_new_tokens=64)
    assert model.calls - before < 20  # calls are what is saved


def test_samples_are_distributed_as_the_model_says():
    """Texts of three tokens over a vocabulary of 3, with drafts of another model: chi-square against enumeration."""
    model, draft = HistoryModel(vocab_size=3, scale=1.0), HistoryModel(vocab_size=3, scale=1.5)
    engine = Engine(model, drafter=draft)
    engine.speculation.always = True
    count, found = 3000, collections.Counter()
    for seed in range(count // 500):
        for done in engine.generate([[0, 1]], max_new_tokens=3, temperature=1.0, n=500, seed=seed, stop_ids=[]):
            found[tuple(done.ids)] += 1
    statistic = 0.0
    for text in itertools.product(range(3), repeat=3):
        expected = count * math.exp(
            sum(float(model.logits_of([0, 1, *text[:i]]).log_softmax(-1)[t]) for i, t in enumerate(text))
        )
        statistic += (found[text] - expected) ** 2 / expected
    assert statistic < 54.1  # chi-square with 26 degrees of freedom, p = 0.001
    assert 0 < engine.speculation.accepted < engine.speculation.proposed


def steps_of(extra, count=400, tokens=2):
    """Which steps draft, where a step takes a second and `extra` more for each drafted token."""
    cost, steps = DraftCost(), []
    for _ in range(count):
        steps.append(cost.drafts())
        cost.add(1, tokens * steps[-1], 1.0 + extra * tokens * steps[-1])
    return cost, steps


def test_drafting_pauses_where_no_acceptance_pays_and_is_tried_again():
    cost, steps = steps_of(1.5)
    assert steps[: PLAIN + DRAFTED] == [False] * PLAIN + [True] * DRAFTED
    assert sum(steps) < 30 and any(steps[PLAIN + DRAFTED :])
    cost, steps = steps_of(0.25)
    assert sum(steps) > 390 and cost.price(1) == pytest.approx(0.25) and cost.price(2) == pytest.approx(0.5)


def repeats(ids):
    """Texts that begin with a go on in threes, and others with what never came before."""
    return 97 + len(ids) % 3 if ids[0] == 97 else 65 + (len(ids) ** 2 + len(ids) // 7) % 25


def test_a_text_whose_drafts_lose_pauses_and_the_next_one_drafts():
    """A clock that counts a second a call and a quarter for each further token; two kinds of texts in turns."""
    model = HistoryModel(script=repeats)
    engine = Engine(model, ByteTokenizer(), drafter=HistoryModel(script=lambda ids: 97 + len(ids) % 3))
    cost = engine.speculation.cost(1)
    cost.plain, cost.extra, cost.steps = 1.0, 0.25, [PLAIN, DRAFTED]
    engine.speculation.costs = {1: Fixed(cost)}
    for _ in range(3):
        good, bad = (engine.generate(text, max_new_tokens=60)[0] for text in ("abcabc", "xyz"))
        assert good.accepted > 35 and good.drafted - good.accepted < 6
        assert bad.accepted == 0 and bad.drafted < 30  # three tokens after 8, 16, 32 steps


class Fixed:
    """Costs that no clock changes."""

    def __init__(self, cost):
        self.drafts, self.price = lambda: True, cost.price

    def add(self, rows, proposed, seconds):
        pass


def test_an_engine_stops_drafting_with_a_slow_drafter():
    model = HistoryModel(seconds=0.0)
    engine = Engine(model, ByteTokenizer(), drafter=HistoryModel(seconds=0.01, scale=0.1))
    engine.generate("abc", max_new_tokens=90)
    assert engine.speculation.proposed < 60


def test_what_cannot_draft_is_refused():
    with pytest.raises(RequestError, match="drafter"):
        Engine(HistoryModel(vocab_size=5), drafter=HistoryModel(vocab_size=6))
    with pytest.raises(SpecError, match="draft"):
        Engine(HistoryModel(), drafter="model")
    with pytest.raises(SpecError, match="prompt-lookup"):
        Engine(HistoryModel(), drafter="prompt-lokup")
    with pytest.raises(SpecError, match="tokens"):
        DrafterSpec(tokens=0)


def test_a_draft_model_in_training_mode_evaluates_meanwhile(monkeypatch):
    model, draft = lm(), lm(seed=1).train()
    modes, forward = [], draft.forward
    monkeypatch.setattr(draft, "forward", lambda *given: modes.append(draft.training) or forward(*given))
    plain, fast = engines(model, draft)
    same(plain.generate(PROMPTS, max_new_tokens=20), fast.generate(PROMPTS, max_new_tokens=20))
    "".join(piece.text for piece in fast.stream("abc", max_new_tokens=9))
    assert modes and not any(modes) and draft.training and not model.training


@pytest.mark.parametrize("drafter", ["prompt-lookup", "near"])
@pytest.mark.parametrize("name", ["transformer", "gru"])
def test_scored_prompts_and_prompts_that_fill_the_context(name, drafter):
    model = lm(**MODELS[name])
    plain, fast = engines(model, near(model) if drafter == "near" else drafter, rows=3)
    prompts = [list(range(97, 97 + n)) for n in (1, 93, 94, 95, 96)] + PROMPTS
    asked = {"max_new_tokens": 50, "prompt_logprobs": 1, "stop_ids": []}
    one, other = plain.generate(prompts, **asked), fast.generate(prompts, **asked)
    same(one, other)
    for a, b in zip(one, other, strict=True):
        assert [t.id for t in a.prompt_token_logprobs] == [t.id for t in b.prompt_token_logprobs]
        scores = [[t.logprob for t in done.prompt_token_logprobs[1:]] for done in (a, b)]
        torch.testing.assert_close(*scores)


@pytest.mark.parametrize("drafter", ["prompt-lookup", "near"])
@pytest.mark.parametrize("name", ["transformer", "gru"])
def test_requests_that_are_cancelled_and_come_later(name, drafter):
    """A drafter follows rows that leave, move and join; at the end it holds nothing."""
    model = lm(**MODELS[name])
    plain, fast = engines(model, near(model) if drafter == "near" else drafter, rows=3)
    alone = [plain.generate(p, max_new_tokens=40, stop_ids=[])[0] for p in PROMPTS]
    scheduler = fast.scheduler()
    asked = [fast.request(p, max_new_tokens=40, stop_ids=[]) for p in PROMPTS]
    for request in asked[:3]:
        scheduler.submit(request)
    for _ in range(6):
        scheduler.step()
    scheduler.cancel(asked[1])
    scheduler.submit(asked[3])
    while scheduler.busy:
        scheduler.step()
    for i in (0, 2, 3):
        assert asked[i].sequences[0].ids == alone[i].ids
    assert not asked[1].finished
    if drafter == "near":
        assert scheduler.drafter._state is None
    else:
        del asked, request
        assert not scheduler.drafter._tables
