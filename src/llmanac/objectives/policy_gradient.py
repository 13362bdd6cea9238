"""Policy gradient: answers that earned more than expected become more likely. Four choices make the known methods.

    loss = sum over answers' tokens of  weight * (S(rho_t, A_t) + beta * KL_t),   rho_t = pi(x_t) / mu(x_t)

    surrogate     reinforce  -A log pi                          ppo-clip  -min(rho A, clip(rho, 1 - e, 1 + e') A)
                  cispo      -min(rho, e') A log pi, min(..) a constant
                  gspo       ppo-clip with rho = (pi(y) / mu(y))^(1 / |y|) of the complete answer
    KL            k1-reward  log(pi / ref) taken off each token's reward (the source does it)
                  k2         log(pi / ref)^2 / 2: its gradient is that of KL(pi || ref)
                  k3         ref / pi - log(ref / pi) - 1: its gradient is that of KL(ref || pi)
                  k3-ratio   k3 times rho: the gradient of KL(pi || ref) again (with gspo not exactly)
    aggregation   sequence   mean over an answer's tokens, then over answers
                  tokens     mean over all tokens of the step
                  micro-tokens  mean over the tokens of the batch, which must then not be cut
                  constant   sum over tokens / a constant length, mean over answers

mu is what the answers were sampled from, at the same temperature. Advantages are computed by the source of
rollouts, from rewards. With `gae` a value model is trained along: its loss on the same tokens is value_weight / 2 *
max((V - R)^2, (clip(V) - R)^2), where clip keeps V near the value at sampling time.

    none             A = r
    moving-average   A = r - b,  b an average of earlier steps' rewards
    rloo             A_i = r_i - mean of the other answers to the prompt
    grpo             A_i = (r_i - mean of the group) / (standard deviation of the group + 1e-4)
    dr-grpo          A_i = r_i - mean of the group
    optimal          A = r - E[w r] / E[w],  w the squared norm of the sample's score: the constant of least variance
    gae              A_t = sum_l (gamma lambda)^l (r_t+l + gamma V_t+l+1 - V_t+l), of rewards by token

`none`, `moving-average`, `rloo`, and `optimal` with a constant from other samples leave the gradient unbiased. The mean
of a group contains r_i: the expected gradient of `dr-grpo` is (1 - 1/n) times the true one. The standard deviation of
`grpo` weighs prompts by their difficulty.

Shapes: (B, T) of each token's log-probability, advantage and mask.

Papers: Williams 1992; Schulman et al. 2017, arXiv:1707.06347 (PPO); MiniMax 2025, arXiv:2506.13585 (CISPO); Zheng et
al. 2025, arXiv:2507.18071 (GSPO); Schulman 2020, "Approximating KL divergence"; Yu et al. 2025, arXiv:2503.14476
(tokens); Kool et al. 2019 (rloo); Shao et al. 2024, arXiv:2402.03300 (grpo); Liu et al. 2025, arXiv:2503.20783
(dr-grpo); Hao et al. 2025, arXiv:2505.23585 (optimal); Schulman et al. 2016, arXiv:1506.02438 (gae).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from llmanac.core.errors import DataError, SpecError
from llmanac.core.ranges import COUNT, FRACTION, NOT_NEGATIVE, POSITIVE, within
from llmanac.core.types import HIDDEN, IGNORE, Batch, LossSum
from llmanac.kernels.nn.log_probabilities import chunked_log_probabilities
from llmanac.objectives import ObjectiveSpec
from llmanac.objectives._base import BaseObjective
from llmanac.objectives._shared import Span, hidden_at_targets, sharing, spans
from llmanac.objectives.instruction import reading

CARD = {
    "title": "Policy gradient (REINFORCE, RLOO, PPO, GRPO, Dr. GRPO, CISPO, GSPO)",
    "paper": "https://arxiv.org/abs/1707.06347",
    "reference": "enumeration of a small policy, and TRL's GRPOTrainer: loss and gradient",
    "test": "tests/references/test_policy_gradient.py::test_gradient_is_that_of_the_expected_reward",
    "rows": "rollouts",
    "aliases": {
        "reinforce": {"advantage": "moving-average", "surrogate": "reinforce"},
        "rloo": {"advantage": "rloo", "surrogate": "reinforce", "kl": "k1-reward", "kl_weight": 0.05},
        "grpo": {"advantage": "grpo", "aggregation": "sequence"},
        "dr-grpo": {"advantage": "dr-grpo", "aggregation": "constant"},
        "dapo": {"advantage": "grpo", "clip_high": 0.28},
        "cispo": {"advantage": "grpo", "surrogate": "cispo", "clip_high": 5.0},
        "gspo": {"surrogate": "gspo", "clip_low": 3e-4, "clip_high": 4e-4, "aggregation": "sequence"},
        "ppo": {"advantage": "gae", "kl": "k1-reward", "kl_weight": 0.05},
    },
}
Advantage = Literal["none", "moving-average", "rloo", "grpo", "dr-grpo", "optimal", "gae"]
GROUPED = ("rloo", "grpo", "dr-grpo")
EPSILON = 1e-4  # TRL's


@dataclass(frozen=True, kw_only=True)
class Spec(ObjectiveSpec):
    """Attributes:
    advantage, surrogate, kl, aggregation: the four choices.
    clip_low, clip_high: e and e'; kl_weight: beta; constant: the length that `constant` divides by, None for the
        longest answer that the source allows.
    temperature: of sampling and of the log-probabilities.
    gamma, decay: of gae; value_weight: of the value model's loss.
    """

    advantage: Advantage = "grpo"
    surrogate: Literal["reinforce", "ppo-clip", "cispo", "gspo"] = "ppo-clip"
    kl: Literal["off", "k1-reward", "k2", "k3", "k3-ratio"] = "off"
    aggregation: Literal["sequence", "tokens", "micro-tokens", "constant"] = "tokens"
    clip_low: float = 0.2
    clip_high: float = 0.2
    kl_weight: float = 0.0
    constant: int | None = None
    temperature: float = 1.0
    gamma: float = 1.0
    decay: float = 0.95
    value_weight: float = 0.5

    ranges = (
        within(POSITIVE, "clip_low clip_high temperature")
        | within(FRACTION, "gamma decay")
        | within(NOT_NEGATIVE, "kl_weight value_weight")
        | within(COUNT, "constant")
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kl == "off" and self.kl_weight:
            raise SpecError(
                f"kl_weight: {self.kl_weight} has no effect with kl = off; choose k1-reward, k2 or k3-ratio"
            )

    @property
    def grouped(self) -> bool:
        """Whether an answer's advantage needs other answers to its prompt."""
        return self.advantage in GROUPED

    @property
    def reads_reference(self) -> bool:
        """Whether rollouts need the reference's log-probabilities."""
        return self.kl != "off" and self.kl_weight > 0

    def build(self, *, tokenizer: Any = None, models: dict[str, Any] | None = None, **dims: Any) -> PolicyGradient:
        """models: {"value": a ScalarModel} with advantage = gae, trained along."""
        return PolicyGradient(self, models or {})


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """One sampled answer. Arrays are over its n tokens, the end token included where it was sampled.

    Attributes:
        prompt, completion: token ids, as the engine read and drew them.
        logprobs: (n,) under the distribution that they were drawn from.
        reward: of the complete answer; parts: of each reward by name.
        group: answers to one prompt have one number. finished: whether it ended by itself.
        advantages, returns, values: (n,), what the source computed from the rewards.
        reference: (n,) log-probabilities of the reference, where the objective reads them.
    """

    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    logprobs: np.ndarray
    reward: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)
    group: int = 0
    finished: bool = True
    advantages: np.ndarray | None = None
    returns: np.ndarray | None = None
    values: np.ndarray | None = None
    reference: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class RolloutBatch(Batch):
    """Rollouts padded on the right. Each further tensor is (B, T), 0 where no answer's token is predicted.

    Attributes:
        spans: neighbours that answer one prompt, and its tokens; see `objectives/_shared.py`.
    """

    spans: tuple[Span, ...] = ()
    old: Tensor | None = None
    advantages: Tensor | None = None
    returns: Tensor | None = None
    values: Tensor | None = None
    reference: Tensor | None = None


class PolicyGradient(BaseObjective):
    """See the module. Rows are `Rollout`s whose advantages are known."""

    trainable = ("value",)
    axes = ("data",)
    batch = RolloutBatch

    def __init__(self, spec: Spec, models: dict[str, Any]) -> None:
        if spec.advantage == "gae" and "value" not in models:
            raise SpecError("advantage: gae needs a value model; give models={'value': a ScalarModel}")
        super().__init__(models)
        self.spec = spec
        self.couples_batch = spec.aggregation == "micro-tokens"

    def collate(self, rows: Sequence[Any]) -> RolloutBatch:
        return collate_rollouts(rows)

    def loss(self, model: Any, batch: Any) -> LossSum:
        """The sum over units: answers, or tokens with aggregation = tokens.

        Metrics (sums over units): KL to the sampling policy and to the reference, entropy, how often the ratio was
        clipped, and the largest |log ratio| of the batch.
        """
        spec, keep = self.spec, batch.targets != IGNORE
        logs, entropy = self.log_probabilities(model, batch)
        mask = keep.to(logs.dtype)
        old, advantages = batch.old.to(logs.dtype), batch.advantages.to(logs.dtype)
        lengths = mask.sum(1)
        gap = (logs - old) * mask
        if spec.surrogate == "gspo":
            # the value of the sequence's ratio, with the gradient of its own mean log-ratio
            gap = (gap.sum(1) / lengths.clamp(min=1))[:, None].expand_as(gap)
        ratio = gap.exp()
        values, clipped = self.surrogate(ratio, logs, advantages)
        apart = None
        if spec.reads_reference and spec.kl != "k1-reward":
            apart = kl_estimate(spec.kl, logs, batch.reference.to(logs.dtype), ratio)
            values = values + spec.kl_weight * apart
        total, units, scale = self.aggregate(values * mask, mask, lengths)
        metrics = {
            "kl_to_sampling": ((ratio.detach() - 1 - gap.detach()) * mask * scale).sum(),
            "entropy": (entropy * mask * scale).sum(),
            "clipped": (clipped * mask * scale).sum(),
            "largest_gap": ((logs - old).detach() * mask).abs().max() * units,
        }
        if batch.reference is not None:
            metrics["kl_to_reference"] = ((logs.detach() - batch.reference.to(logs.dtype)) * mask * scale).sum()
        if "value" in self.models:
            extra = self.value_loss(batch, mask)
            total = total + spec.value_weight * (extra * scale).sum()
            metrics["value_loss"] = (extra.detach() * scale).sum()
        return total, units, metrics

    def log_probabilities(self, model: Any, batch: Any) -> tuple[Tensor, Tensor]:
        """(B, T) each: of the targets at the objective's temperature, and the entropies; 0 where there is no target."""
        want, head = reading(model)
        keep = batch.targets != IGNORE
        spans = batch.spans if isinstance(batch, RolloutBatch) else ()
        if want == HIDDEN and sharing(model, spans):
            places = hidden_at_targets(model, batch, spans)
        else:
            output = model(batch, want=want)
            places = (output.logits if output.hidden is None else output.hidden)[keep]
        logs, entropy = chunked_log_probabilities(
            head, places, batch.targets[keep], vocab_size=model.vocab_size, temperature=self.spec.temperature
        )
        empty = logs.new_zeros(batch.targets.shape)
        return empty.masked_scatter(keep, logs), empty.masked_scatter(keep, entropy)

    def surrogate(self, ratio: Tensor, logs: Tensor, advantages: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T): the loss of each token, and 1 where clipping stopped its gradient."""
        spec = self.spec
        low, high = 1 - spec.clip_low, 1 + spec.clip_high
        if spec.surrogate == "reinforce":
            return -advantages * logs, torch.zeros_like(logs)
        if spec.surrogate == "cispo":
            seen = ratio.detach()
            return -seen.clamp(max=spec.clip_high) * advantages * logs, (seen > spec.clip_high).to(logs.dtype)
        plain, cut = ratio * advantages, ratio.clamp(low, high) * advantages
        return -torch.minimum(plain, cut), (plain > cut).to(logs.dtype).detach()

    def aggregate(self, values: Tensor, mask: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor | int, Tensor]:
        """The summed loss, its units, and the weight (B, T) or (B, 1) of each token in it."""
        spec, count = self.spec, len(values)
        units: Tensor | int = count
        if spec.aggregation == "tokens":
            units, weight = mask.sum(), torch.ones_like(lengths)[:, None]
        elif spec.aggregation == "micro-tokens":
            total = torch.stack([lengths.new_tensor(count), lengths.sum()])
            self.add_up(total)
            weight = (total[0] / total[1].clamp(min=1)).expand(count)[:, None]
        elif spec.aggregation == "sequence":
            weight = (1 / lengths.clamp(min=1))[:, None]
        else:
            if spec.constant is None:
                raise SpecError("constant: set the length that `constant` divides by, the longest answer")
            weight = torch.full_like(lengths, 1 / spec.constant)[:, None]
        return (values * weight).sum(), units, weight

    def value_loss(self, batch: Any, mask: Tensor) -> Tensor:
        """(B, T): half the squared error of the value before each token, clipped as PPO's authors do."""
        value: Any = self.models["value"]
        found = value.values(batch)
        returns, before = batch.returns.to(found.dtype), batch.values.to(found.dtype)
        near = before + (found - before).clamp(-self.spec.clip_low, self.spec.clip_high)
        return 0.5 * torch.maximum((found - returns).square(), (near - returns).square()) * mask


def kl_estimate(kind: str, logs: Tensor, reference: Tensor, ratio: Tensor) -> Tensor:
    """k2, k3 or k3 times ratio, of log-probabilities of one shape."""
    gap = reference - logs
    if kind == "k2":
        return 0.5 * gap.square()
    k3 = gap.exp() - gap - 1
    return k3 * ratio if kind == "k3-ratio" else k3


def collate_rollouts(rows: Sequence[Any]) -> RolloutBatch:
    """Rollouts to one batch. Raises DataError for an answer without a token, or without advantages."""
    ids, targets = [], []
    for number, row in enumerate(rows):
        if not isinstance(row, Rollout) or not row.completion or not row.prompt:
            raise DataError(f"row {number}: a Rollout with a prompt and a completion was expected")
        if row.advantages is None:
            raise DataError(f"row {number}: has no advantages; the source of rollouts computes them")
        whole = [*row.prompt, *row.completion]
        ids.append(whole[:-1])
        targets.append([IGNORE] * (len(row.prompt) - 1) + list(row.completion))
    batch = Batch.padded(ids, targets)
    shape = batch.shape

    def placed(name: str) -> Tensor | None:
        if any(getattr(row, name) is None for row in rows):
            return None
        out = torch.zeros(shape, dtype=torch.float64)
        for line, row in zip(out, rows, strict=True):
            start = len(row.prompt) - 1
            line[start : start + len(row.completion)] = torch.from_numpy(np.array(getattr(row, name), np.float64))
        return out

    further: dict[str, Any] = {name: placed(name) for name in ("advantages", "returns", "values", "reference")}
    return RolloutBatch(**vars(batch), old=placed("logprobs"), spans=spans([row.prompt for row in rows]), **further)


def by_group(kind: str, rewards: np.ndarray, groups: Sequence[int]) -> np.ndarray:
    """rloo, grpo and dr-grpo of answers (N,) to the prompts that `groups` (N,) names. One answer alone gets 0.

    Shapes: (N,), (N,) -> (N,) float64.
    """
    rewards, names = np.asarray(rewards, np.float64), np.asarray(groups)
    out = np.zeros_like(rewards)
    for group in np.unique(names):
        here = np.flatnonzero(names == group)
        own, n = rewards[here], len(here)
        if n < 2:
            continue
        out[here] = own - own.mean()
        if kind == "rloo":
            out[here] *= n / (n - 1)
        elif kind == "grpo":
            out[here] /= own.std(ddof=1) + EPSILON
    return out


def optimal_constant(rewards: np.ndarray, weights: np.ndarray) -> float:
    """E[w r] / E[w] of samples (N,); weights: squared norms of their scores, or what is proportional to them."""
    total = float(np.sum(weights))
    return float(np.sum(weights * rewards) / total) if total > 0 else float(np.mean(rewards))


def gae(rewards: np.ndarray, values: np.ndarray, gamma: float, decay: float) -> tuple[np.ndarray, np.ndarray]:
    """Advantages and returns (n,) of an answer's tokens, of rewards (n,) and values (n,); after the end V is 0.

    V_t is of the state before token t. decay 1 gives the return minus V, decay 0 the one-step error.
    """
    advantages, ahead, following = np.zeros(len(rewards)), 0.0, 0.0
    for t in range(len(rewards) - 1, -1, -1):
        ahead = rewards[t] + gamma * following - values[t] + gamma * decay * ahead
        advantages[t], following = ahead, values[t]
    return advantages, advantages + np.asarray(values, np.float64)


def group_spread(rewards: np.ndarray, groups: Sequence[int]) -> float:
    """The share of groups in which some answers earn more than others; groups without spread teach nothing."""
    rewards, owners = np.asarray(rewards, np.float64), np.asarray(groups)
    names = np.unique(owners)
    return float(np.mean([np.ptp(rewards[owners == name]) > 0 for name in names])) if len(names) else 0.0
