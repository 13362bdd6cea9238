"""Decoding methods against transformers' warpers, and the draw against the exact distribution."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pytest
import scipy.stats
import torch
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from llmanac.core.errors import RequestError
from llmanac.core.rng import torch_generator
from llmanac.generate._sampling import choose
from llmanac.generate.decoding import (
    compose,
    count_penalty,
    greedy,
    largest,
    logit_bias,
    min_p,
    no_repeat_ngram,
    repetition_penalty,
    temperature,
    top_k,
    top_p,
    typical,
)
from llmanac.generate.requests import Noise, Options, Request, decoding_of

torch.set_num_threads(1)  # the tensors here are tiny: a second thread only waits


def logits_of(seed: int, rows: int = 7, size: int = 501, scale: float = 2.0) -> torch.Tensor:
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def composed(specs):
    """The methods one after the other, over tensors."""
    return lambda logits, *texts: torch.from_numpy(compose(tuple(specs))(logits.numpy(), *texts))


def built(spec):
    return composed([spec])


def same_distribution(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert torch.equal(ours == -torch.inf, theirs == -torch.inf)
    torch.testing.assert_close(ours.softmax(-1), theirs.softmax(-1), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("scale", [0.05, 2.0, 20.0])
@pytest.mark.parametrize("k", [1, 2, 50, 500, 501, 9999])
def test_top_k_equals_transformers(k, scale):
    logits = logits_of(k, scale=scale)
    same_distribution(built(top_k.Spec(k=k))(logits), TopKLogitsWarper(k)(None, logits))
    if k < 501:
        assert int((built(top_k.Spec(k=k))(logits) > -torch.inf).sum(-1).max()) == k  # it does cut


def test_top_k_keeps_every_tie_as_transformers_does():
    logits = torch.tensor([[1.0, 3.0, 2.0, 2.0, 2.0, 0.0], [0.0] * 6])
    same_distribution(built(top_k.Spec(k=2))(logits), TopKLogitsWarper(2)(None, logits))


@pytest.mark.parametrize("scale", [0.05, 2.0, 20.0])
@pytest.mark.parametrize("p", [0.0, 0.01, 0.3, 0.9, 0.99, 0.9999])
def test_top_p_equals_transformers(p, scale):
    logits = logits_of(round(p * 100), scale=scale)
    ours = built(top_p.Spec(p=p))(logits)
    same_distribution(ours, TopPLogitsWarper(p)(None, logits))
    kept = (logits.softmax(-1) * (ours > -torch.inf)).sum(-1)
    smallest = logits.softmax(-1).masked_fill(ours == -torch.inf, 2).amin(-1)
    assert bool((kept >= p - 1e-12).all()) and bool(
        ((kept - smallest < p) | (kept == smallest)).all()
    )  # the smallest set


@pytest.mark.parametrize("p", [0.0, 0.3, 0.9, 0.999])
def test_top_p_of_a_large_vocabulary_equals_transformers(p):
    """Peaked rows, whose nucleus is in the head that is sorted first, beside flat rows, whose nucleus is not."""
    logits = torch.cat([logits_of(1, rows=4, size=5000, scale=s) for s in (0.05, 1.0, 3.0, 30.0)])
    ours = built(top_p.Spec(p=p))(logits)
    same_distribution(ours, TopPLogitsWarper(p)(None, logits))
    sizes = (ours > -torch.inf).sum(-1)
    assert p != 0.9 or (int(sizes.min()) < 20 and int(sizes.max()) > top_p.HEAD)
    alone = torch.cat([built(top_p.Spec(p=p))(row[None]) for row in logits])
    assert torch.equal(alone, ours)


@pytest.mark.parametrize("scale", [0.05, 2.0, 20.0])
@pytest.mark.parametrize("m", [0.0, 0.01, 0.3, 1.0])
def test_min_p_equals_transformers(m, scale):
    logits = logits_of(round(m * 100), scale=scale)
    same_distribution(built(min_p.Spec(m=m))(logits), MinPLogitsWarper(m)(None, logits))


@pytest.mark.parametrize("scale", [0.05, 2.0, 20.0])
@pytest.mark.parametrize("p", [0.01, 0.3, 0.9, 0.999])
def test_typical_equals_transformers(p, scale):
    logits = logits_of(round(p * 1000), scale=scale)
    cut = logits.masked_fill(logits_of(2) > 3, -torch.inf)  # what another method cut
    for given in (logits, cut):
        same_distribution(built(typical.Spec(p=p))(given), TypicalLogitsWarper(p)(None, given))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_typical_keeps_every_tie_as_transformers_does(p):
    logits = torch.stack([torch.zeros(6), torch.tensor([1.0, 2.0, 2.0, 2.0, 0.0, 0.0])]).double()
    ours = built(typical.Spec(p=p))(logits)
    same_distribution(ours, TypicalLogitsWarper(p)(None, logits))
    assert bool((ours[0] == 0).all())


class Text(NamedTuple):
    prompt_ids: tuple
    ids: list


def texts(rows=7, size=501, alphabet=6, length=40):
    generator = np.random.default_rng(4)
    drawn = generator.integers(0, alphabet, (rows, length)) * (size // alphabet)
    return [Text(tuple(row[:9]), row[9:].tolist()) for row in drawn], torch.tensor(drawn)


@pytest.mark.parametrize("penalty", [0.5, 1.0, 1.3, 5.0])
def test_repetition_penalty_equals_transformers(penalty):
    rows, ids = texts()
    logits = logits_of(5)
    ours = built(repetition_penalty.Spec(penalty=penalty))(logits, rows)
    torch.testing.assert_close(ours, RepetitionPenaltyLogitsProcessor(penalty)(ids, logits))


@pytest.mark.parametrize("n", [1, 2, 3, 5, 60])
def test_no_repeat_ngram_equals_transformers(n):
    rows, ids = texts()
    logits = logits_of(6)
    ours = built(no_repeat_ngram.Spec(n=n))(logits, rows)
    assert torch.equal(ours, NoRepeatNGramLogitsProcessor(n)(ids, logits.clone()))
    assert n > 3 or bool((ours == -torch.inf).any())
    every = [Text((0, 1, 2), [])]
    assert torch.equal(built(no_repeat_ngram.Spec(n=1))(logits[:1, :3], every), logits[:1, :3])  # nothing would be left


def test_count_penalties_equal_the_formula():
    rows, _ = texts()
    logits = logits_of(7)
    ours = built(count_penalty.Spec(presence=0.7, frequency=-0.2))(logits, rows)
    counts = np.stack([np.bincount(row.ids, minlength=501) for row in rows])
    expected = logits.numpy() - 0.7 * (counts > 0) + 0.2 * counts
    torch.testing.assert_close(ours.numpy(), expected)


def test_logit_bias_equals_transformers():
    rows, ids = texts()
    logits = logits_of(8)
    ours = built(logit_bias.Spec(ids=(3, 77), biases=(-100.0, 2.3)))(logits, rows)
    torch.testing.assert_close(ours, SequenceBiasLogitsProcessor([[[3], -100.0], [[77], 2.3]])(ids, logits))
    assert ours[0, 77] == logits[0, 77] + 2.3  # in float64 as the logits are


def test_options_make_methods_in_the_order_of_transformers():
    options: Options = {
        "typical_p": 0.5, "min_p": 0.1, "top_p": 0.9, "top_k": 7, "temperature": 0.8, "no_repeat_ngram": 3,
        "frequency_penalty": 0.3, "presence_penalty": 0.2, "repetition_penalty": 1.1, "logit_bias": {"5": -1},
    }  # fmt: skip
    names = [spec.name for spec in decoding_of(options)]
    assert names == [
        "logit-bias", "repetition-penalty", "count-penalty", "no-repeat-ngram", "temperature", "top-k", "top-p",
        "min-p", "typical",
    ]  # fmt: skip
    assert [s.name for s in decoding_of({**options, "temperature": 0.0})] == [*names[:4], "greedy"]
    assert decoding_of({"min_p": 0.0, "top_p": 1.0, "repetition_penalty": 1.0, "temperature": 1.0}) == ()
    for bad in ({"min_p": 2.0}, {"typical_p": 0.0}, {"repetition_penalty": 0.0}, {"presence_penalty": 3.0},
                {"no_repeat_ngram": 0.5}, {"logit_bias": {"x": 1}}, {"logit_bias": [1]},
                {"logit_bias": {65.7: 1}}, {"logit_bias": {True: 1}}, {"logit_bias": {-1: 1}},
                {"logit_bias": {1: 1e38}},
                {"temperature": 1e-46}, {"repetition_penalty": 1e-30}, {"repetition_penalty": 101}):  # fmt: skip
        with pytest.raises(RequestError, match=next(iter(bad))):
            decoding_of({"temperature": 1.0, **bad})


@pytest.mark.parametrize("heat", [0.1, 0.7, 1.0, 1.5, 10.0])
def test_temperature_equals_transformers_and_scales_log_odds(heat):
    logits = logits_of(3)
    ours = built(temperature.Spec(temperature=heat))(logits)
    same_distribution(ours, TemperatureLogitsWarper(heat)(None, logits))
    before, after = logits.log_softmax(-1), ours.log_softmax(-1)
    odds = (before[:, :, None] - before[:, None, :]) / heat
    torch.testing.assert_close(after[:, :, None] - after[:, None, :], odds, rtol=1e-10, atol=1e-10)


def test_temperature_near_zero_is_greedy_and_does_not_overflow():
    logits = logits_of(4).float() * 1e3
    cold = built(temperature.Spec(temperature=1e-30))(logits).softmax(-1)
    torch.testing.assert_close(cold, built(greedy.Spec())(logits).softmax(-1))


def test_greedy_keeps_the_first_of_equal_maxima():
    kept = built(greedy.Spec())(torch.tensor([[0.0, 5.0, 5.0, 1.0]]))
    assert kept.softmax(-1).tolist() == [[0.0, 1.0, 0.0, 0.0]]


@pytest.mark.parametrize("options", [(0.7, 20, 0.9), (1.3, 3, 0.5), (1.0, 400, 0.99), (0.2, 50, 0.2)])
def test_the_engines_order_is_that_of_transformers(options):
    heat, k, p = options
    logits = logits_of(11)
    theirs = LogitsProcessorList([TemperatureLogitsWarper(heat), TopKLogitsWarper(k), TopPLogitsWarper(p)])
    ours = composed(decoding_of(Options(temperature=heat, top_k=k, top_p=p)))(logits)
    same_distribution(ours, theirs(None, logits))


def test_the_order_of_methods_matters():
    logits, hot, nucleus = logits_of(11), temperature.Spec(temperature=1.3), top_p.Spec(p=0.5)
    cut = [composed(order)(logits) == -torch.inf for order in ((hot, nucleus), (nucleus, hot))]
    assert not torch.equal(*cut)


CASES = [
    {"temperature": 1.0},
    {"temperature": 0.6},
    {"temperature": 1.7, "top_k": 7},
    {"temperature": 1.0, "top_p": 0.8},
    {"temperature": 1.2, "top_k": 12, "top_p": 0.7},
]


def one_request(prompt: list[int], **options) -> Request:
    return Request(prompt, Options(**options), stop_ids=frozenset(), context=None, tokenizer=None)


def draws_of(logits: torch.Tensor, count: int, seed: int, **options) -> np.ndarray:
    request = one_request([1, 2, 3], seed=seed, n=8, **options)
    rows = logits.expand(8, -1)
    return np.array([score.id for _ in range(count // 8) for score in choose(rows.numpy(), request.sequences)])


@pytest.mark.parametrize("options", CASES, ids=str)
def test_draws_follow_the_exact_distribution(options):
    logits, count = logits_of(21, rows=1, size=24, scale=1.2), 16_000
    exact = composed(decoding_of(Options(**options)))(logits).softmax(-1)[0].numpy()
    seen = np.bincount(draws_of(logits, count, seed=1, **options), minlength=24)
    assert seen[exact == 0].sum() == 0
    inside = exact > 0
    assert scipy.stats.chisquare(seen[inside], exact[inside] * count).pvalue > 1e-3
    # the test has power: a temperature that is wrong by a third does not pass it
    wrong = composed(decoding_of(Options(**{**options, "temperature": options["temperature"] * 1.33})))(logits)
    wrong = wrong.masked_fill(torch.from_numpy(~inside)[None], -torch.inf).softmax(-1)[0].numpy()
    off = inside & (wrong > 0)
    assert scipy.stats.chisquare(seen[off], wrong[off] / wrong[off].sum() * seen[off].sum()).pvalue < 1e-3


def test_successive_draws_of_a_stream_and_different_samples_are_independent():
    logits = torch.zeros(1, 4, dtype=torch.float64)
    draws = draws_of(logits, 16_000, seed=5, temperature=1.0).reshape(-1, 8)
    for first, second in ((draws[:-1, 0], draws[1:, 0]), (draws[:, 0], draws[:, 1])):
        table = np.zeros((4, 4))
        np.add.at(table, (first, second), 1)
        assert scipy.stats.chi2_contingency(table).pvalue > 1e-3


def test_rounding_changes_a_draw_only_at_a_near_tie():
    """With noise of size d on the logits, every changed token had a margin of at most 2 d; and changes are rare."""
    logits, noise = logits_of(31, rows=64, size=2000), 1e-3
    requests, again = ([one_request([i], temperature=1.0, seed=2) for i in range(64)] for _ in range(2))
    generator, changed = torch.Generator().manual_seed(0), 0
    for _ in range(40):
        a = choose(logits.numpy(), [r.sequences[0] for r in requests])
        off = (torch.rand(logits.shape, generator=generator, dtype=torch.float64) * 2 - 1) * noise
        b = choose((logits + off).numpy(), [r.sequences[0] for r in again])
        for x, y in zip(a, b, strict=True):
            if x.id != y.id:
                changed += 1
                assert x.margin <= 2 * noise
    assert changed <= 64 * 40 * 4 * noise * math.e


def test_bad_choices_are_refused():
    from llmanac.core.errors import SpecError

    for bad, why in (
        (lambda: top_k.Spec(k=0), "k: 0 must be at least 1"),
        (lambda: top_p.Spec(p=1.1), "p: 1.1 must be from 0 to 1"),
        (lambda: top_p.Spec(p=float("nan")), "p: nan must be from 0 to 1"),
        (lambda: temperature.Spec(temperature=0.0), "temperature: 0.0 is not above 0"),
    ):
        with pytest.raises(SpecError, match=why):
            bad()


def test_the_largest_numbers_are_those_of_a_stable_sort():
    """Rows with ties and rows of which most was ruled out, of vocabularies below, at and above the size of a piece."""
    draws = np.random.default_rng(0)
    for size in (5, 63, 64, 65, 500, 5000):
        plain = draws.standard_normal((3, size)).astype(np.float32)
        few = np.where(draws.random(size) < 0.97, np.float32(-np.inf), plain)
        for rows in (plain, np.round(plain), few, np.full_like(plain, -np.inf)):
            for count in (1, 2, 20, 512, 9999):
                values, places = largest(rows, count)
                wanted = np.argsort(-rows, -1, kind="stable")[:, :count]
                np.testing.assert_array_equal(places, wanted)
                np.testing.assert_array_equal(values, np.take_along_axis(rows, wanted, -1))


def test_noise_is_that_of_torch():
    """To the last bit of a logarithm, whatever the vocabulary, also ahead of its turn."""
    for seed in (0, 7, 2**40):
        for size in (1, 5, 1000, 50_000):
            generator, noise = torch_generator(seed, "sample", "key", 1), Noise(seed, "sample", "key", 1)
            wanted = [
                torch.empty(size, dtype=torch.float64).exponential_(generator=generator).log_().neg_() for _ in range(3)
            ]
            np.testing.assert_allclose(noise.ahead(size, 2), wanted[2], rtol=0, atol=2e-15)
            for one in wanted:
                np.testing.assert_allclose(noise.take(size), one, rtol=0, atol=2e-15)
