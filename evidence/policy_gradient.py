"""Policy gradients on one task: baselines, the KL penalty, clipping, a value function.

The task is that of `llmanac run rlhf`: asked for some words, a decoder of {parameters:,} parameters writes them, after
{sft} steps of fine-tuning on demonstrations that are right most of the time. The true reward, from 0 to 1, is computed.
Every arm of a seed starts from the same weights and samples {draws} draws of {batch} answers ({answers:,} answers);
results are of {held} answers to prompts that were not trained on. {seeds} seeds; ± is half a 95% interval over them.
All arms have the rate {rate} (AdamW, gradients cut at norm 1, so that the scale of advantages hardly matters).

Only the arms with and without KL are rewarded by a reward model, as the third stage of RLHF is; all others by the true
reward itself. The recipe's own bar, a true reward above the fine-tuned start over five seeds, failed: its interval
contains 0 ([align](../../align.md)).

Limits: one small model and one task with short answers. A seed collapsed if its true reward ends below its start's.
The arms with and without KL first used the raters' exact score, which was not fooled in {draws} draws; they were given
a reward model, and weights 0.3 and 1 in place of 0.1, after that was seen.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch

from evidence import _alignment as shared
from evidence._alignment import SMALL, TOKENS, TRUTH, Task, fit, measured, reinforced, task
from evidence._page import with_interval
from evidence._synthetic import average, once, over
from evidence.preferences import judge
from llmanac.core.pages import Section, table
from llmanac.core.spec import make_method
from llmanac.generate.engine import Engine
from llmanac.lab.complexity import one_thread
from llmanac.lab.stats import interval, mean
from llmanac.models.scalar import ScalarModel
from llmanac.objectives import BaseObjective
from llmanac.objectives.policy_gradient import optimal_constant
from llmanac.rewards.model import ModelReward
from llmanac.train.rollouts import Rollouts, Sampling, batched

ROWS = ("rl/baseline", "rl/kl-penalty", "rl/ppo-clip", "rl/value-function", "rlhf/sft", "rlhf/rl")
CLAIM = (
    "a baseline never biases the gradient by an offset of the reward and often, not always, lowers its variance; a KL "
    "penalty prevents drift from what raters stand for; clipping bounds an update; RL needs a start that is "
    "sometimes right"
)
SEEDS = 3
TIMED = ("seconds", "kl", "norm")  # on another machine rounding may turn a draw of the small run, and these with it
TOLERANCE = 1e-3

DRAWS, PROMPTS, SAMPLES, RATE = 60, 8, 8, 3e-3
FIXED = 24  # gradients at a fixed policy
BASELINES = ("none", "moving-average", "rloo", "grpo", "dr-grpo", "optimal", "gae")
OFFSET = 1.0
PLAIN = {"surrogate": "reinforce", "aggregation": "tokens"}
REUSED = {"epochs": 4, "minibatches": 2}
PAIRS = 2000  # of the reward model that the KL penalty is measured with
WEIGHTS = (0.3, 1.0)
SURROGATES: dict[str, dict[str, Any]] = {
    "clip": {}, "no clip": {"clip_low": 1.0, "clip_high": 1e9}, "no ratio": {"surrogate": "reinforce"},
}  # fmt: skip
# arm -> reward, sampling, fields of the objective
ARMS: dict[str, tuple[str, dict[str, int], dict[str, Any]]] = {
    **{name: ("truth", {}, {"advantage": name, **PLAIN}) for name in BASELINES},
    "gae, single": ("truth", {"prompts": 64, "samples": 1}, {"advantage": "gae", **PLAIN}),
    "without SFT": ("truth", {}, {"advantage": "rloo", **PLAIN}),
    **{name: ("truth", REUSED, {"advantage": "rloo", **fields}) for name, fields in SURROGATES.items()},
    "KL off": ("judge", {}, {"advantage": "rloo", **PLAIN}),
    **{
        f"KL {weight:g}": ("judge", {}, {"advantage": "rloo", **PLAIN, "kl": "k1-reward", "kl_weight": weight})
        for weight in WEIGHTS
    },
}


@one_thread()
def measure(seed: int, size: str) -> dict[str, Any]:
    """The start, gradients at two fixed policies, and every arm."""
    made = task(seed, size)
    names = list(ARMS) if made.full else ["clip", "KL 0.3"]
    arms: dict[str, Any] = {}
    for name in names:
        run = lambda name=name: trained(made, name)[0]  # noqa: E731
        arms[name] = once("policy_gradient", f"{seed}-{name}", run) if made.full else run()
    if made.full:
        fixed = once("policy_gradient", f"{seed}-fixed", lambda: gradients(made, made.start, TRUTH))
    else:
        fixed = gradients(made, made.start, TRUTH)
    return {
        "start": measured(made, made.start),
        "parameters": made.start.parameter_count(),
        "arms": arms,
        "fixed": fixed,
    }


@cache
def judged(made: Task) -> Any:
    """A reward model of the task's pairs."""
    return ModelReward(judge(made, PAIRS if made.full else 6)["model"], made.tokenizer)


def trained(made: Task, name: str) -> tuple[dict[str, Any], Any]:
    """One arm: what it ends with, how it went; and its model."""
    reward, sampling, fields = ARMS[name]
    asked = {"prompts": PROMPTS, "samples": SAMPLES, "tokens": TOKENS, "unfinished": 0.0, **sampling}
    if not made.full:
        asked |= {key: min(asked[key], value) for key, value in SMALL.items() if key in asked}
    start = made.random if name == "without SFT" else made.start
    found = reinforced(
        start, made.tokenizer, made.prompts("prompts"), TRUTH if reward == "truth" else judged(made), truth=TRUTH,
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
        "earned": mean([line["reward"] for line in lines[-10:]]),
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
        objectives[name] = make_method("objective", {"name": "policy-gradient", **fields, "value_weight": 0.0}).build(
            models=models
        )
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
                    moved = [
                        dataclasses.replace(row, values=v + offset)
                        for row, v in zip(moved, source.values(rows), strict=True)
                    ]
                sums.append(_gradient(model, objectives[kind], source._with_advantages(moved)))
            found[f"{name}+{offset:g}"] = _spread(torch.stack(sums))
    return {"baselines": found, "best": best, "reward": mean([row.reward for row in every])}


def _learn_values(value: Any, objective: Any, source: Any, draws: Sequence[Any]) -> None:
    """Fit the value model to the returns of the policy, with the policy as it is."""

    class Regression(BaseObjective):
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


BLOCKS = {
    "Baselines": (*BASELINES, "gae, single", "without SFT"),
    "Clipping": tuple(SURROGATES),
    "The KL penalty": ("KL off", *(f"KL {weight:g}" for weight in WEIGHTS)),
}
WORDS = {"gae": "value model (gae)", "gae, single": "value model, one answer a prompt", "none": "no baseline"}
SAID = {
    "Baselines": "The reward is the truth; surrogate REINFORCE, each draw read once. Seconds are of CPU.",
    "Clipping": f"The same with leave-one-out advantages, each draw read in "
    f"{REUSED['epochs'] * REUSED['minibatches']} steps. "
    "An update's KL is of the sampling policy and that after the draw's last step but one, in nats a token.",
    "The KL penalty": f"The reward is a reward model of {PAIRS:,} pairs (deviation 1), its mean that of the last 10 "
    "draws; raters' score is "
    "what the pairs were made by. KL is to the start, in nats an answer.",
}  # fmt: skip


def collapsed(seeds: Sequence[dict[str, Any]], arm: str) -> int:
    """Seeds in which an arm ends with less truth than its start had."""
    return sum(
        end < start for end, start in zip(over(seeds, "arms", arm, "truth"), over(seeds, "start", "truth"), strict=True)
    )


def gain(
    seeds: Sequence[dict[str, Any]], arm: str, base: str = "start", key: str = "truth"
) -> tuple[float, float, float]:
    """The mean difference of an arm's end to another arm's, or to the start, paired by seed, and its 95% interval."""
    before = over(seeds, "start", key) if base == "start" else over(seeds, "arms", base, key)
    found = [a - b for a, b in zip(over(seeds, "arms", arm, key), before, strict=True)]
    return mean(found), *interval(found)


def said(found: tuple[float, float, float]) -> str:
    return f"{found[0]:+.3f} (95% interval {found[1]:+.3f} to {found[2]:+.3f})"


def relative(seeds: Sequence[dict[str, Any]], name: str, offset: int) -> list[float]:
    """The relative variance of a baseline at the start over that of none, in each seed where both are known."""
    fixed = [one["fixed"]["baselines"] for one in seeds]
    pairs = [(own[f"{name}+{offset}"]["noise"], own["none+0"]["noise"]) for own in fixed]
    return [a / b for a, b in pairs if a is not None and b is not None]


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    """The page."""
    out = []
    for title, arms in BLOCKS.items():
        keys = {"truth": 3, "kl": 2, "distinct": 2, "tokens": 1}
        keys |= {
            "Baselines": {"spread": 2},
            "Clipping": {"update": 3, "largest": 2},
            "The KL penalty": {"earned": 2, "raters": 3},
        }[title]
        cells = [["start", *(with_interval(over(seeds, "start", key), digits) if key in seeds[0]["start"] else ""
                             for key, digits in keys.items()), "", ""]]  # fmt: skip
        for arm in arms:
            values = [with_interval(over(seeds, "arms", arm, key), digits) for key, digits in keys.items()]
            cells.append([WORDS.get(arm, arm), *values, f"{collapsed(seeds, arm)} of {len(seeds)}",
                          f"{average(seeds, 'arms', arm, 'seconds'):.0f}"])  # fmt: skip
        heads = {"spread": "groups with spread", "update": "KL of an update", "largest": "largest", "kl": "KL to the "
            "start",
                 "earned": "reward", "raters": "raters' score", "distinct": "different answers", "truth": "true "
                 "reward"}  # fmt: skip
        out.append(
            Section(
                title, [SAID[title]], [table(["", *(heads.get(k, k) for k in keys), "collapsed", "seconds"], cells)]
            )
        )
    rows = []
    for name in (*BASELINES, "constant"):
        ratios = relative(seeds, name, 0), relative(seeds, name, 1)
        rows.append([{"constant": "optimal constant, exact norms", **WORDS}.get(name, name),
                     *(with_interval(found, 2) for found in ratios)])  # fmt: skip
    out.append(
        Section(
            "Variance at a fixed policy",
            [f"The trace of the covariance of a draw's gradient over the squared norm of its mean, as a ratio to that "
             f"without a baseline: {FIXED} draws of {PROMPTS} prompts and {SAMPLES} answers, the same for every "
             "baseline. "
             "The moving average is the mean reward of other draws, the value model and the exact constant were fitted "
             "to other draws. A seed whose squared norm is estimated as zero or less has no ratio and is left out; "
             "the verdicts take no part that lacks one."],
            [table(["", "ratio", "with 1 added to every reward"], rows)],
        )
    )  # fmt: skip
    return out


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "parameters": seeds[0]["parameters"], "sft": shared.SFT_STEPS, "draws": DRAWS, "batch": PROMPTS * SAMPLES,
        "answers": DRAWS * PROMPTS * SAMPLES, "held": 24 * shared.ANSWERS, "seeds": len(seeds), "rate": f"{RATE:g}",
    }  # fmt: skip
