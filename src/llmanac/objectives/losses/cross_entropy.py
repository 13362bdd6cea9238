"""Cross-entropy of scores over classes against the right class, plain and fused with the head that makes the scores.

    nll_i = log sum_c exp(z_ic) - z_iy                                          z (N, C), y (N,)
    loss_i = (1 - e) w_y nll_i + (e / C) sum_c w_c (log sum_k exp(z_ik) - z_ic)
    mean = sum_i loss_i / sum_i w_y                                             over the rows whose y is not ignored

e is the label smoothing, w a weight a class. The slope of nll_i is softmax(z_i) - 1[c = y].

The fused form takes the hidden states and the head, z = h W^T + b, and never holds the (N, C) scores: `nll` comes chunk
by chunk from `kernels/nn/cross_entropy.py`, and smoothing needs none either: the sum of a row's scores is itself a
product, sum_c w_c z_ic = h_i . (sum_c w_c W_c) + sum_c w_c b_c.

Papers: Bridle 1990 for softmax with cross-entropy; Szegedy et al. 2016 (https://arxiv.org/abs/1512.00567), section 7,
for smoothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llmanac.core.errors import SpecError
from llmanac.core.ranges import COUNT, FRACTION, within
from llmanac.core.types import IGNORE
from llmanac.kernels.nn.cross_entropy import fused_cross_entropy
from llmanac.objectives.losses import Loss, LossSpec, Reduction

CARD = {
    "title": "Cross-entropy, plain and fused",
    "paper": "Szegedy et al. 2016, arXiv:1512.00567, section 7",
    "reference": "torch.nn.functional.cross_entropy: value and gradient, for the fused form too",
}


@dataclass(frozen=True, kw_only=True)
class Spec(LossSpec):
    """Attributes: label_smoothing: e. ignore_index: the target of rows without loss. chunk: rows of scores that the
    fused form holds at a time; None for about 2^21 scores."""

    reduction: Reduction = "mean"
    label_smoothing: float = 0.0
    ignore_index: int = IGNORE
    chunk: int | None = None

    ranges = within(FRACTION, "label_smoothing") | within(COUNT, "chunk")

    def build(self, *args: Any, **dims: Any) -> CrossEntropy:
        """The loss."""
        return CrossEntropy(self)


class CrossEntropy(Loss):
    """See the module's formula."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec

    def __call__(self, logits: Tensor, targets: Tensor, *, weight: Tensor | None = None) -> Tensor:
        """The loss of logits (N, C), (C,) or (N, C, ...) against classes (N,), () or (N, ...).

        Args:
            targets: integers below C or `ignore_index`; or probabilities, of the logits' shape and floating.
            weight: (C,) one weight a class.

        Raises:
            SpecError: shapes that do not fit, or a target that is no class.
        """
        if logits.ndim == 0:
            raise SpecError("cross-entropy: logits need a dimension of classes")
        if logits.ndim == 1:
            values, counts = self._rows(logits[None], targets[None], weight)
            return self._reduce(values, counts, targets.shape if not targets.is_floating_point() else ())
        rows = logits.movedim(1, -1).flatten(0, -2)
        if targets.is_floating_point():
            if targets.shape != logits.shape:
                raise SpecError(
                    f"cross-entropy: probabilities {tuple(targets.shape)} must have the logits' shape "
                    f"{tuple(logits.shape)}"
                )
            values, counts = self._rows(rows, targets.movedim(1, -1).flatten(0, -2), weight)
        else:
            if targets.shape != (logits.shape[0], *logits.shape[2:]):
                raise SpecError(
                    f"cross-entropy: targets {tuple(targets.shape)} do not fit logits {tuple(logits.shape)}"
                )
            values, counts = self._rows(rows, targets.flatten(), weight)
        return self._reduce(values, counts, (logits.shape[0], *logits.shape[2:]))

    def fused(
        self, hidden: Tensor, head: Tensor, targets: Tensor, *, bias: Tensor | None = None, weight: Tensor | None = None
    ) -> Tensor:
        """The loss of logits hidden @ head^T + bias that are never held.

        Args:
            hidden: (N, D); head: (C, D); bias: (C,); targets: (N,) classes.
            weight: (C,) one weight a class.

        Raises:
            SpecError: a weight of another shape.
            LlmanacError: shapes that do not fit, or a target that is no class.
        """
        spec, classes = self.spec, len(head)
        kept = targets != spec.ignore_index
        if spec.ignore_index != IGNORE:
            targets = targets.masked_fill(~kept, IGNORE)
        if weight is None and not spec.label_smoothing and spec.reduction != "none":
            total = fused_cross_entropy(hidden, head, targets, bias=bias, chunk=spec.chunk)
            return total if spec.reduction == "sum" else total / kept.sum()
        nll = fused_cross_entropy(hidden, head, targets, bias=bias, chunk=spec.chunk, reduction="none")
        safe = targets.masked_fill(~kept, 0)
        counts = _class_weights(weight, classes, nll)[safe] * kept
        if not spec.label_smoothing:
            return self._reduce(counts * nll, counts, targets.shape)
        dtype = nll.dtype
        exact = hidden.to(dtype)
        right = (exact * head[safe].to(dtype)).sum(1)
        each = _class_weights(weight, classes, nll)
        others = exact @ (each @ head.to(dtype))
        if bias is not None:
            right = right + bias.to(dtype)[safe]
            others = others + (each * bias.to(dtype)).sum()
        smooth = (each.sum() * (nll + right) - others) * kept / classes
        return self._reduce(
            (1 - spec.label_smoothing) * counts * nll + spec.label_smoothing * smooth, counts, nll.shape
        )

    def _rows(self, logits: Tensor, targets: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
        """(values (N,), what each row counts in the mean (N,)) of logits (N, C)."""
        spec, classes = self.spec, logits.shape[1]
        log_sums = torch.logsumexp(logits, 1)
        each = _class_weights(weight, classes, logits)
        if targets.is_floating_point():
            soft = targets * (1 - spec.label_smoothing) + spec.label_smoothing / classes
            return (soft * each * (log_sums[:, None] - logits)).sum(1), torch.ones_like(log_sums)
        kept = targets != spec.ignore_index
        safe = targets.masked_fill(~kept, 0)
        if len(safe) and (int(safe.min()) < 0 or int(safe.max()) >= classes):
            wrong = safe[(safe < 0) | (safe >= classes)][0]
            raise SpecError(f"targets: {int(wrong)} is no class below {classes}, nor ignore_index {spec.ignore_index}")
        counts = each[safe] * kept
        nll = log_sums - logits.gather(1, safe[:, None])[:, 0]
        if weight is None and not spec.label_smoothing:
            return torch.where(kept, nll, 0.0), counts
        values = torch.where(kept, counts * nll, 0.0)
        if spec.label_smoothing:
            smooth = torch.where(kept, (each * (log_sums[:, None] - logits)).sum(1) / classes, 0.0)
            values = (1 - spec.label_smoothing) * values + spec.label_smoothing * smooth
        return values, counts

    def _reduce(self, values: Tensor, counts: Tensor, shape: Any) -> Tensor:
        if self.spec.reduction == "none":
            return values.reshape(shape)
        return values.sum() if self.spec.reduction == "sum" else values.sum() / counts.sum()

    def outputs(self, classes: int) -> int:
        """One score a class."""
        return classes

    def of_classes(self, logits: Tensor, classes: Tensor) -> Tensor:
        """(B, C) and (B,) -> (B,)."""
        return self._rows(logits, classes, None)[0]


def _class_weights(weight: Tensor | None, classes: int, like: Tensor) -> Tensor:
    if weight is None:
        return like.new_ones(classes)
    if weight.shape != (classes,):
        raise SpecError(f"weight: {tuple(weight.shape)} is not one weight for each of {classes} classes")
    return weight.to(like.dtype)
