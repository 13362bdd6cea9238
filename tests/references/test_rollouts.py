"""Rollouts: sampled from the policy itself at ratio 1, scored, kept by checkpoints; a policy learns its task."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from _small_models import transformer

from llmanac.core.errors import DataError, SpecError, TrainingError
from llmanac.core.spec import make, make_method
from llmanac.generate.engine import Engine
from llmanac.models.scalar import ScalarModel
from llmanac.rewards import RewardScore
from llmanac.train import TrainSpec
from llmanac.train.alarms import Alarms, heard
from llmanac.train.loop import train
from llmanac.train.rollouts import RolloutPrompt, Rollouts, Sampling, batched

TOKENIZER = make_method("tokenizer", "utf8").train([""])
PROMPTS = [RolloutPrompt(ids=tuple(TOKENIZER.encode(f"{i}{i}=")), text=f"{i}{i}=", row={"n": i}) for i in range(6)]


def small(dtype=torch.float32):
    return transformer(vocab_size=TOKENIZER.vocab_size, dim=16, layers=1, max_length=32, dtype=dtype)


def even(samples):
    """The share of characters with an even code."""
    return [RewardScore(float(np.mean([ord(c) % 2 == 0 for c in s.text])) if s.text else 0.0) for s in samples]


def objective(models=None, **fields):
    return make_method("objective", {"name": "policy-gradient", **fields}).build(models=models)


def source(model, made, reward=even, seed=0, sampling=None, **more):
    chosen = Sampling(**{"prompts": 4, "samples": 4, "tokens": 6, **(sampling or {})})
    return Rollouts(PROMPTS, Engine(model, TOKENIZER, rows=16), made, reward, chosen, seed=seed, **more)


def test_the_first_minibatch_has_ratio_one():
    """The engine's log-probabilities are those of the training's forward pass, at any temperature, end included."""
    for temperature in (1.0, 0.7):
        model = small()
        made = objective(temperature=temperature)
        rows = next(source(model, made))
        assert len(rows) == 16 and len({row.group for row in rows}) == 4
        _, units, metrics = made.loss(model, made.collate(rows))
        assert float(metrics["largest_gap"] / units) < 1e-5


def test_an_answer_that_ends_holds_its_end_token():
    model = small()
    rows = next(source(model, objective(), sampling={"prompts": 6, "samples": 32, "tokens": 8}))
    ended = [row for row in rows if row.finished]
    end = TOKENIZER.eos_id
    assert all((row.completion[-1] == end) == row.finished for row in rows)
    assert all(len(row.completion) == len(row.logprobs) for row in rows) and (ended or end is None)


SETTINGS = {"dtype": "float32", "compile": "never", "attention": "sdpa", "checkpoint_every": 1, "batch_tokens": 256}


def trained(folder, steps, **more):
    model = small()
    made = more.pop("objective", None) or objective(advantage="rloo", surrogate="ppo-clip")
    spec = make(TrainSpec, {**SETTINGS, "steps": steps, "micro_batch": 8, "optimizer": {"name": "adamw", "lr": 0.02}})
    found = source(model, made, log=folder / "rollouts.jsonl", **more)
    train(model, found, made, spec, folder, seed=0, report=lambda line: None)
    return model, [json.loads(line) for line in (folder / "rollouts.jsonl").read_text().splitlines()]


def test_a_policy_learns_what_is_rewarded(tmp_path):
    _model, lines = trained(tmp_path, 25)
    assert len(lines) == 25 and lines[0]["draw"] == 0
    first, last = (np.mean([x["reward"] for x in part]) for part in (lines[:5], lines[-5:]))
    assert last > first + 0.15
    assert {"parts", "tokens", "finished", "groups_with_spread", "surprise", "sample"} <= lines[0].keys()


def test_a_training_goes_on_bit_for_bit_in_the_middle_of_a_draw(tmp_path):
    """Two epochs of two minibatches a draw; stopped after each step in turn, by a new process as it were."""
    sampling = {"epochs": 2, "minibatches": 2}
    whole, lines = trained(tmp_path / "whole", 7, sampling=sampling)
    for steps in (1, 2, 4):
        stopped(tmp_path / "cut", steps, sampling)
    cut, again = trained(tmp_path / "cut", 7, sampling=sampling)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), cut.state_dict().values(), strict=True))
    assert again == lines and len(lines) == 2


def stopped(folder, steps, sampling):
    """A training of seven steps that ends after some, without a word."""
    from llmanac.train.step import Stepper

    plain = Stepper.__call__

    def limited(self, rows, scale, step):
        if step == steps:
            raise SystemExit
        return plain(self, rows, scale, step)

    Stepper.__call__ = limited
    try:
        with pytest.raises(SystemExit):
            trained(folder, 7, sampling=sampling)
    finally:
        Stepper.__call__ = plain


def test_gae_trains_a_value_model_along(tmp_path):
    model = small()
    value = ScalarModel(small())
    made = objective({"value": value}, advantage="gae")
    found = source(model, made, values=batched(value.values, made, value))
    rows = next(found)
    assert all(row.values is not None and row.returns is not None for row in rows)
    every = np.concatenate([row.advantages for row in rows])
    assert every.mean() == pytest.approx(0, abs=1e-9) and every.std() == pytest.approx(1, rel=1e-6)
    before = value.score.weight.detach().clone()
    spec = make(TrainSpec, {**SETTINGS, "steps": 2, "optimizer": {"name": "adamw", "lr": 0.01}})
    train(model, found, made, spec, tmp_path, seed=0, report=lambda line: None)
    assert not torch.equal(before, value.score.weight)


def test_kl_in_the_reward_is_taken_off():
    model, start = small(), small()
    with torch.no_grad():
        for parameter in start.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    made = objective(advantage="none", kl="k1-reward", kl_weight=0.5)
    reference = batched(lambda batch: made.log_probabilities(start, batch)[0], made, start)
    for row in next(source(model, made, reference=reference)):
        assert row.advantages[0] == pytest.approx(row.reward - 0.5 * (row.logprobs - row.reference).sum(), rel=1e-9)


def test_rewards_of_unfinished_answers_and_the_baseline():
    model = small()
    rows = next(source(model, objective(advantage="none"), sampling={"unfinished": -1.0}))
    assert all(row.reward == -1.0 for row in rows if not row.finished) and any(not row.finished for row in rows)
    found = source(model, objective(advantage="moving-average"))
    first, second = next(found), next(found)
    mean = np.mean([row.reward for row in first])
    assert first[0].advantages[0] == first[0].reward
    assert second[0].advantages[0] == pytest.approx(second[0].reward - 0.1 * mean)


def test_a_reward_that_fails_ends_the_training_and_loses_nothing(tmp_path):
    calls = []

    def broken(samples):
        calls.append(1)
        return even(samples) if len(calls) < 3 else [RewardScore(float("nan"))] * len(samples)

    with pytest.raises(DataError, match="reward: gave nan"):
        trained(tmp_path, 6, reward=broken)
    _model, lines = trained(tmp_path, 6)
    assert len(lines) == 6
    assert [line["draw"] for line in lines] == list(range(6))


def test_refusals():
    model = small()
    for fields, sampling, words in (
        ({"advantage": "grpo"}, {"samples": 1}, "too few"),
        ({"kl": "k3-ratio", "kl_weight": 0.1}, {}, "needs a reference"),
        ({}, {"minibatches": 3}, "does not divide"),
    ):
        with pytest.raises(SpecError, match=words):
            source(model, objective(**fields), sampling=sampling)


def test_alarms_are_sentences_and_rare(tmp_path):
    said = []
    alarms = Alarms(said.append)
    line = {"groups_with_spread": 0.0, "finished": 0.2, "surprise": 0.001, "kl_to_reference": 200.0}
    for draw in range(12):
        alarms.look({**line, "draw": draw})
    assert len(said) == 8 and {text.split(": ")[1] for text in said} == {"reward", "length", "entropy", "kl"}
    fine = {"groups_with_spread": 0.9, "finished": 1.0, "surprise": 1.0, "kl_to_reference": None, "draw": 0}
    assert not Alarms(None).look(fine)
    log = tmp_path / "rollouts.jsonl"
    assert heard(log) == {}
    log.write_text('{"alarms": ["kl: far"]}\n{"draw": 1}\n{"alarms": ["kl: far", "gap: wide"]}\n')
    assert heard(log) == {"kl: far": 2, "gap: wide": 1}


def test_the_truth_is_logged_and_never_trained_on(tmp_path):
    seen = []

    def truth(samples):
        seen.append(len(samples))
        return [RewardScore(float(len(sample.text))) for sample in samples]

    plain, without = trained(tmp_path / "plain", 2)
    shown, lines = trained(tmp_path / "shown", 2, truth=truth)
    assert seen == [16, 16] and all(line["truth"] > 0 for line in lines) and without[0]["truth"] is None
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), shown.state_dict().values(), strict=True))


def test_alarm_where_the_reward_rises_and_the_truth_does_not():
    fine = {"groups_with_spread": 0.9, "finished": 1.0, "surprise": 1.0, "kl_to_reference": None}

    def said(rewards, truths):
        alarms = Alarms(None)
        pairs = enumerate(zip(rewards, truths, strict=True))
        return {
            text.split(":")[0]
            for n, (r, t) in pairs
            for text in alarms.look({**fine, "draw": n, "reward": r, "truth": t})
        }

    rising, falling = np.linspace(0, 1, 20), np.linspace(1, 0, 20)
    assert said(rising, falling) == {"truth"}
    assert not said(rising, rising) and not said(falling, falling)
    noise = np.random.default_rng(0).normal(size=20)
    assert not said(0.5 + 0.01 * noise, np.zeros(20)) and not said(rising[:15], falling[:15])


def test_a_first_minibatch_whose_ratio_is_not_one_ends_the_training():
    """The engine reads the weights that the training reads; a warning over 1e-5 nats, once, and an error over 1e-3."""
    said = []
    found = source(small(), objective(), report=said.append)
    next(found)
    for gap, words in ((5e-6, 0), (5e-5, 1), (5e-5, 1)):
        found.stepped({"largest_gap": gap})
        assert len([text for text in said if "ratio" in text]) == words
    with pytest.raises(TrainingError, match=r"draw 0: .*2\.0e-03 nats"):
        found.stepped({"largest_gap": 2e-3})
    found.served = 2
    found.stepped({"largest_gap": 1.0})  # the policy has moved since it sampled


def test_another_policy_than_the_engines_is_noticed(tmp_path):
    engine, model = small(), small()
    with torch.no_grad():
        model.embedding.weight.mul_(1.5)
    made = objective(advantage="rloo")
    spec = make(TrainSpec, {**SETTINGS, "steps": 2, "optimizer": {"name": "adamw", "lr": 0.01}})
    with pytest.raises(TrainingError, match="not 1 at the first minibatch"):
        train(model, source(engine, made), made, spec, tmp_path, seed=0, report=lambda line: None)


def test_log_probabilities_are_read_again_where_the_dtype_is_short():
    """Behaviour log-probabilities are then those of the training's own forward pass, and the engine's gap is kept."""
    model = small(torch.bfloat16)
    made = objective(advantage="rloo")
    found = source(model, made, behaviour=batched(lambda batch: made.log_probabilities(model, batch)[0], made, model))
    rows = next(found)
    _, units, metrics = made.loss(model, made.collate(rows))
    assert found.gap is not None and 0 <= found.gap < 0.2
    assert float(metrics["largest_gap"] / units) <= found.gap + 1e-3


def test_a_reward_is_that_of_the_last_token_and_kl_that_of_each():
    """PPO's details: the score at the end token, k1 off each token, advantages whitened, returns not."""
    model, start = small(), small()
    with torch.no_grad():
        for parameter in start.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    value = ScalarModel(small())
    made = objective({"value": value}, advantage="gae", kl="k1-reward", kl_weight=0.5, decay=1.0, gamma=1.0)
    reference = batched(lambda batch: made.log_probabilities(start, batch)[0], made, start)
    for row in next(source(model, made, values=batched(value.values, made, value), reference=reference)):
        by_token = -0.5 * (row.logprobs - row.reference)
        by_token[-1] += row.reward
        assert row.returns == pytest.approx(by_token[::-1].cumsum()[::-1], abs=1e-9)
