"""Policy gradients on one task: baselines, the KL penalty, clipping, a value function.

The task is that of `llmanac run rlhf`: asked for some words, a decoder of {parameters:,} parameters writes them, after
{sft} steps of fine-tuning on demonstrations that are right most of the time. The true reward, from 0 to 1, is computed.
Every arm of a seed starts from the same weights and samples {draws} draws of {batch} answers ({answers:,} answers);
results are of {held} answers to prompts that were not trained on. {seeds} seeds; ± is half a 95% interval over them. The
rate of each arm was chosen among {rates} on two other seeds, except where a rate is named.

{findings}

Limits: one small model and one task with short answers. A seed collapsed if its true reward ends below its start's.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from evidence import _alignment as shared
from evidence._alignment import RATERS, SMALL, TOKENS, TRUTH, Task, fit, measured, reinforced, task
from evidence._page import bullets, with_interval
from evidence._synthetic import average, once, over, verdict
from llmanac.core.spec import make_method
from llmanac.generate.engine import Engine
from llmanac.lab.report import Section, table
from llmanac.lab.stats import interval, mean
from llmanac.models.scalar import ScalarModel
from llmanac.objectives._advantages import optimal_constant
from llmanac.train.rollouts import Rollouts, Sampling, batched

ROWS = ("rl/baseline", "rl/kl-penalty", "rl/ppo-clip", "rl/value-function", "rlhf/sft")
CLAIM = (
    "a baseline never biases the gradient by an offset of the reward and often, not always, lowers its variance; a KL "
    "penalty prevents drift from what raters stand for; clipping bounds an update; RL needs a start that is sometimes right"
)
SEEDS = 3
TIMED = ("seconds",)
TOLERANCE = 1e-3

DRAWS, PROMPTS, SAMPLES, RATE = 60, 8, 8, 3e-3
FIXED = 24  # gradients at a fixed policy
BASELINES = ("none", "moving-average", "rloo", "grpo", "dr-grpo", "optimal", "gae")
OFFSET = 1.0
PLAIN = {"surrogate": "reinforce", "aggregation": "tokens"}
REUSED = {"epochs": 4, "minibatches": 2}
WEIGHTS = (0.03, 0.1, 0.3)
SURROGATES: dict[str, dict[str, Any]] = {
    "clip": {}, "no clip": {"clip_low": 1.0, "clip_high": 1e9}, "no ratio": {"surrogate": "reinforce"},
}  # fmt: skip
# arm -> reward, sampling, fields of the objective
ARMS: dict[str, tuple[str, dict[str, int], dict[str, Any]]] = {
    **{name: ("truth", {}, {"advantage": name, **PLAIN}) for name in BASELINES},
    "gae, single": ("truth", {"prompts": 64, "samples": 1}, {"advantage": "gae", **PLAIN}),
    "without SFT": ("truth", {}, {"advantage": "rloo", **PLAIN}),
    **{name: ("truth", REUSED, {"advantage": "rloo", **fields}) for name, fields in SURROGATES.items()},
    "KL off": ("raters", {}, {"advantage": "rloo", **PLAIN}),
    **{
        f"KL {weight:g}": ("raters", {}, {"advantage": "rloo", **PLAIN, "kl": "k1-reward", "kl_weight": weight})
        for weight in WEIGHTS
    },
}


def measure(seed: int, size: str) -> dict[str, Any]:
    """The start, gradients at two fixed policies, and every arm."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _measure(seed, size)
    finally:
        torch.set_num_threads(threads)


def _measure(seed: int, size: str) -> dict[str, Any]:
    made = task(seed, size)
    names = list(ARMS) if made.full else ["gae", "clip", "KL 0.1"]
    arms: dict[str, Any] = {}
    for name in names:
        run = lambda name=name: trained(made, name)[0]  # noqa: E731
        arms[name] = once("policy_gradient", f"{seed}-{name}", run) if made.full else run()
    fixed = {"start": gradients(made, made.start, TRUTH)}
    if made.full:
        fixed["later"] = gradients(made, trained(made, "rloo")[1], TRUTH)
    return {"start": measured(made, made.start), "parameters": made.start.parameter_count(), "arms": arms, "fixed": fixed}


def trained(made: Task, name: str) -> tuple[dict[str, Any], Any]:
    """One arm: what it ends with, how it went; and its model."""
    reward, sampling, fields = ARMS[name]
    asked = {"prompts": PROMPTS, "samples": SAMPLES, "tokens": TOKENS, "unfinished": 0.0, **sampling}
    if not made.full:
        asked |= {key: min(asked[key], value) for key, value in SMALL.items() if key in asked}
    start = made.random if name == "without SFT" else made.start
    found = reinforced(
        start, made.tokenizer, made.prompts("prompts"), {"truth": TRUTH, "raters": RATERS}[reward], truth=TRUTH,
        seed=made.seed, draws=DRAWS if made.full else 2, lr=RATE, sampling=asked, **fields,
    )  # fmt: skip
    per = asked.get("epochs", 1) * asked.get("minibatches", 1)
    lines, steps = found["lines"], found["steps"]
    ends = [steps[at + per - 1]["kl_to_sampling"] for at in range(0, len(steps), per)]
    return {
        **measured(made, found["model"]),
        "curve": [mean([line["truth"] for line in lines[at : at + 10]]) for at in range(0, len(lines), 10)],
        "spread": mean([line["groups_with_spread"] or 0.0 for line in lines]),
        "update": mean(ends), "largest": max(ends), "clipped": mean([step["clipped"] for step in steps]),
        "norm": mean([step["norm"] for step in steps]), "seconds": found["seconds"], "sampled": found["tokens"],
    }, found["model"]  # fmt: skip


def gradients(made: Task, model: Any, reward: Any) -> dict[str, Any]:
    """Variance of the gradient of every baseline, from the same samples to the same prompts at the same weights.

    `variance` is the trace of the covariance of one draw's gradient, `noise` that over the squared norm of its mean
    (both without bias): the second is of the estimate's direction, whatever its scale.
    """
    count, prompts, samples = (FIXED, PROMPTS, SAMPLES) if made.full else (2, 2, 2)
    asked = Sampling(prompts=prompts, samples=samples, tokens=TOKENS if made.full else 4, unfinished=0.0)
    value = ScalarModel(copy.deepcopy(model), made.seed)
    sources, objectives = {}, {}
    for name in BASELINES:
        models = {"value": value} if name == "gae" else None
        fields = {"advantage": name, "surrogate": "reinforce", "aggregation": "constant", "constant": 1}
        objectives[name] = make_method("objective", {"name": "policy-gradient", **fields, "value_weight": 0.0}).build(models=models)
        sources[name] = Rollouts(
            made.prompts("prompts")[:prompts], Engine(model, made.tokenizer, rows=64), objectives[name], reward, asked,
            seed=made.seed, values=batched(value.values, objectives["gae"], value) if models else None,
        )  # fmt: skip
    draws = [sources["none"].draw() for _ in range(2 * count)]
    known, draws = draws[:count], draws[count:]  # the first half is for what must not be of the same samples
    _learn_values(value, objectives["gae"], sources["gae"], known)
    every = [row for rows in known for row in rows]
    sources["moving-average"].baseline = mean([row.reward for row in every])
    weights = [_squared_norm(model, objectives["none"], row) for row in every[: 4 * prompts * samples]]
    best = optimal_constant(np.array([row.reward for row in every[: len(weights)]]), np.array(weights))
    found = {}
    for offset in (0.0, OFFSET):
        for name in (*BASELINES, "constant"):
            kind = "none" if name == "constant" else name
            source, sums = sources[kind], []
            if name == "moving-average":
                source.baseline = mean([row.reward for row in every]) + offset
            for rows in draws:
                shift = offset - (best + offset if name == "constant" else 0.0)
                moved = [dataclasses.replace(row, reward=row.reward + shift, values=None) for row in rows]
                if name == "gae":
                    moved = [dataclasses.replace(row, values=v + offset) for row, v in zip(moved, source.values(rows), strict=True)]
                sums.append(_gradient(model, objectives[kind], source._with_advantages(moved)))
            found[f"{name}+{offset:g}"] = _spread(torch.stack(sums))
    return {"baselines": found, "best": best, "reward": mean([row.reward for row in every])}


def _learn_values(value: Any, objective: Any, source: Any, draws: Sequence[Any]) -> None:
    """Fit the value model to the returns of the policy, with the policy as it is."""

    class Regression:
        def collate(self, rows: Any) -> Any:
            return objective.collate(rows)

        def loss(self, model: Any, batch: Any) -> Any:
            mask = batch.targets >= 0
            error = (model.values(batch) - batch.returns.float())[mask]
            return error.square().sum(), int(mask.sum()), {}

    kept = [[dataclasses.replace(row, advantages=row.logprobs, returns=np.full(len(row.completion), row.reward))
             for row in rows] for rows in draws]  # fmt: skip
    turns = iter(kept * 3)
    fit(value, Regression(), lambda: next(turns), len(kept) * 3, 3e-3)


def _gradient(model: Any, objective: Any, rows: Sequence[Any]) -> torch.Tensor:
    loss, units, _ = objective.loss(model, objective.collate(rows))
    parts = torch.autograd.grad(loss / units, list(model.parameters()), allow_unused=True)
    return torch.cat([p.flatten() for p in parts if p is not None]).double()


def _squared_norm(model: Any, objective: Any, row: Any) -> float:
    own = dataclasses.replace(row, advantages=np.ones(len(row.completion)))
    return float(_gradient(model, objective, [own]).square().sum())


def _spread(found: torch.Tensor) -> dict[str, float | None]:
    """Of gradients (M, P): the trace of their covariance, and it over the squared norm of their mean."""
    count = len(found)
    total, own = found.sum(0).square().sum(), found.square().sum()
    signal = float((total - own) / (count * (count - 1)))
    variance = float((own - total / count) / (count - 1))
    return {"variance": variance, "noise": variance / signal if signal > 0 else None}
