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

mu is what the answers were sampled from, at the same temperature. Advantages (`_advantages.py`) are computed by the
source of rollouts. With `gae` a value model is trained along: its loss on the same tokens is value_weight / 2 *
max((V - R)^2, (clip(V) - R)^2), where clip keeps V near the value at sampling time.

Shapes: (B, T) of each token's log-probability, advantage and mask.

Papers: Williams 1992; Schulman et al. 2017, arXiv:1707.06347 (PPO); MiniMax 2025, arXiv:2506.13585 (CISPO); Zheng et
al. 2025, arXiv:2507.18071 (GSPO); Schulman 2020, "Approximating KL divergence"; Yu et al. 2025, arXiv:2503.14476
(tokens).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from llmanac.core.errors import SpecError
from llmanac.core.ranges import COUNT, FRACTION, NOT_NEGATIVE, POSITIVE, within
from llmanac.core.types import HIDDEN, IGNORE, LossSum
from llmanac.kernels.nn.log_probabilities import chunked_log_probabilities
from llmanac.models._shared import hidden_at_targets, sharing
from llmanac.objectives import ObjectiveSpec
from llmanac.objectives._advantages import GROUPED, Advantage
from llmanac.objectives._base import BaseObjective
from llmanac.objectives._rollouts import RolloutBatch, collate_rollouts
from llmanac.objectives._teacher import reading

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


class PolicyGradient(BaseObjective):
    """See the module. Rows are `Rollout`s whose advantages are known."""

    trainable = ("value",)

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
        if want == HIDDEN and sharing(model, getattr(batch, "spans", ())):
            places = hidden_at_targets(model, batch, batch.spans)
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
            weight = (count / lengths.sum().clamp(min=1)).expand(count)[:, None]
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
