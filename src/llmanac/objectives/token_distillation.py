"""Token-level distillation: at each place the student learns the teacher's distribution, not only the token.

    loss = sum over t in answer of  (1 - w) * -log q(x_t | x_<t)  +  w * T^2 * D(p(. | x_<t), q(. | x_<t))

D is the forward KL divergence (covers all that the teacher may say), the reverse one (keeps to what it says most), or
the generalized Jensen-Shannon divergence. Both distributions are taken at the temperature T; T^2 keeps the size of the
gradient. With `top`, D is over the teacher's k most probable tokens and the sum of all the others. With `on_policy`
that share of the answers is sampled from the student as it is (`train/on_policy.py`).

Shapes: ids (B, T); hidden states (N, D) of the N places that carry loss; logits exist in chunks only.

Papers: Hinton et al. 2015 (https://arxiv.org/abs/1503.02531), section 2; Agarwal et al. 2024, GKD
(https://arxiv.org/abs/2306.13649), section 3 with b = beta. Rows are those of instruction tuning.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from llmanac.core.errors import SpecError
from llmanac.core.ranges import COUNT, FRACTION, POSITIVE, SOME, within
from llmanac.core.types import IGNORE, Batch, LossSum
from llmanac.kernels.nn.divergence import Divergence, chunked_divergence
from llmanac.objectives import ObjectiveSpec
from llmanac.objectives.instruction import WithTeacher, reading

CARD = {
    "title": "Token-level distillation",
    "paper": "https://arxiv.org/abs/1503.02531",
    "reference": "torch.nn.functional.kl_div, and TRL's generalized Jensen-Shannon loss",
    "test": "tests/references/test_distillation.py::test_divergences_equal_torch",
    "models": ["teacher"],
    "aliases": {
        "reverse-distillation": {"divergence": "reverse"},
        "jsd-distillation": {"divergence": "jensen-shannon"},
    },
}


@dataclass(frozen=True, kw_only=True)
class Spec(ObjectiveSpec):
    """Attributes:
    divergence: which one; beta: the teacher's share of the mixture in Jensen-Shannon's.
    temperature: T of both distributions; share: w, 1 for the divergence alone.
    top: how many of the teacher's tokens are told apart, None for all.
    on: which tokens carry loss, as in instruction tuning.
    on_policy: about this share of the rows is answered by the student itself (GKD's lambda); tokens: of such an answer.
    """

    divergence: Divergence = "forward"
    beta: float = 0.5
    temperature: float = 1.0
    share: float = 1.0
    top: int | None = None
    on: Literal["completion", "assistant", "all"] = "completion"
    on_policy: float = 0.0
    tokens: int = 128

    ranges = (
        within(POSITIVE, "temperature")
        | within(SOME, "share")
        | within(FRACTION, "on_policy")
        | within(COUNT, "tokens top")
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.beta < 1:
            raise SpecError(
                f"beta: {self.beta} must be between 0 and 1; use divergence = forward or reverse at the ends"
            )
        if self.on_policy and (self.share < 1 or self.on == "all"):
            raise SpecError(
                "on_policy: a student is not trained to repeat its own answers; share = 1 and on = completion"
            )

    def build(self, *, tokenizer: Any = None, models: dict[str, Any] | None = None, **dims: Any) -> TokenDistillation:
        """models: {"teacher": a language model of the same vocabulary}."""
        return TokenDistillation(self, tokenizer, models or {}, dims.get("reader"))


class TokenDistillation(WithTeacher):
    """See the module."""

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """The sum over the places that carry loss; metrics: the divergence without T^2, and the nll where it counts."""
        assert batch.targets is not None
        spec, keep = self.spec, batch.targets != IGNORE
        (want, student), (other, teacher) = reading(model), reading(self.teacher)
        output = model(batch, want=replace(want, nll="sum" if spec.share < 1 else None))
        with torch.no_grad():
            seen = self.teacher(batch, want=other)
        read = output.logits if output.hidden is None else output.hidden
        known = seen.logits if seen.hidden is None else seen.hidden
        apart = chunked_divergence(
            student, lambda x: teacher(x)[:, : model.vocab_size], read[keep], known[keep],
            vocab_size=model.vocab_size, kind=spec.divergence, temperature=spec.temperature, beta=spec.beta,
            top=spec.top,
        ).sum()  # fmt: skip
        units = keep.sum()
        total, metrics = spec.share * spec.temperature**2 * apart, {"divergence": apart.detach()}
        if output.nll is not None:
            total = total + (1 - spec.share) * output.nll
            metrics["nll"] = output.nll.detach()
        return self.with_aux(total, units, output)[0], units, metrics
