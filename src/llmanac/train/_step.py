"""One optimizer step: micro-batches, one division by all their units, clipping, a guard against what is not finite."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from llmanac.core.errors import SpecError, TrainingError
from llmanac.core.files import atomic_folder, write_json
from llmanac.core.types import Batch
from llmanac.train.optimizers._base import Optimizer


@dataclass(frozen=True)
class StepResult:
    """What one step did: the mean loss in nats over `units`, the gradient's norm before clipping, further means."""

    loss: float
    units: int
    tokens: int
    grad_norm: float
    metrics: dict[str, float]


class Stepper:
    """Computes steps of one objective on one model.

    Args:
        micro_batch: rows computed at a time. Losses are sums and the one division is by the units of all
            micro-batches, so that it changes the result by rounding only.
        clip: the largest norm of the mean loss's gradient; 0 for any.
        dtype: what the model computes in.
        folder: where a batch whose loss is not finite is saved.

    Raises:
        SpecError: rows that must stay together are to be cut into micro-batches.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Any,
        optimizer: Optimizer,
        *,
        micro_batch: int,
        clip: float,
        dtype: torch.dtype,
        folder: Path,
    ) -> None:
        self.model, self.objective, self.optimizer = model, objective, optimizer
        self.micro_batch, self.clip, self.dtype, self.folder = micro_batch, clip, dtype, folder
        self.device = next(model.parameters()).device
        self._parameters = [p for _, p in optimizer.named_parameters()]
        self._last: Batch
        self._casts = hasattr(model, "compute_dtype")
        if self._casts:
            setattr(model, "compute_dtype", dtype)  # noqa: B010 - a Module's attributes are typed as tensors

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """For a model that does not cast by itself (`compute_dtype`): autocast, where the dtype is a short one."""
        if self._casts or self.dtype not in (torch.bfloat16, torch.float16):
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def gradients(self, rows: Sequence[Any], step: int) -> tuple[Tensor, int, int, dict[str, float]]:
        """Add the gradients of the summed loss; returns `(sum of losses, units, tokens, sums of metrics)`.

        Raises:
            TrainingError: the loss of a micro-batch is not finite; that batch is saved.
        """
        if getattr(self.objective, "couples_batch", False) and self.micro_batch < len(rows):
            raise SpecError(
                f"micro_batch: {self.micro_batch} cuts {len(rows)} rows whose losses depend on each other; "
                f"leave it unset or set it to {len(rows)}"
            )
        total = torch.zeros((), dtype=torch.float64, device=self.device if self.device.type != "mps" else "cpu")
        units = tokens = 0
        sums: dict[str, float] = {}
        for start in range(0, len(rows), self.micro_batch):
            batch = self.objective.collate(rows[start : start + self.micro_batch])
            if self.device.type != "cpu":
                batch = batch.to(self.device)
            with self.precision():
                loss, count, metrics = self.objective.loss(self.model, batch)
            if not math.isfinite(float(loss.detach())):
                raise self._stopped(step, batch, f"the loss is {float(loss.detach())}")
            if count:
                loss.backward()
            total += loss.detach().to(total)
            units, tokens = units + count, tokens + batch.ids.numel()
            for key, value in metrics.items():
                sums[key] = sums.get(key, 0.0) + value
            self._last = batch
        return total, units, tokens, sums

    def __call__(self, rows: Sequence[Any], lr_scale: float, step: int) -> StepResult:
        """Do one step at `lr_scale` times the base learning rates.

        A step in which nothing carries loss changes nothing and is reported with 0 units.

        Raises:
            TrainingError: the loss or the gradient is not finite; the batch is saved and the weights are untouched.
        """
        total, units, tokens, sums = self.gradients(rows, step)
        if not units:
            return StepResult(0.0, 0, tokens, 0.0, {})
        live = [p.grad for p in self._parameters if p.grad is not None]
        norm = float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(live)))) / units if live else 0.0
        if not math.isfinite(norm):
            raise self._stopped(step, self._last, f"the gradient's norm is {norm} though the loss is finite")
        clipped = 1.0 if not self.clip else min(1.0, self.clip / (norm + 1e-6))
        self.optimizer.step(lr_scale, clipped / units)
        self.optimizer.zero_grad()
        return StepResult(float(total) / units, units, tokens, norm, {k: v / units for k, v in sums.items()})

    def _stopped(self, step: int, batch: Batch, why: str) -> TrainingError:
        self.optimizer.zero_grad()
        folder = self.folder / f"stopped-at-{step:08d}"
        tensors = {k: v.detach().cpu().contiguous() for k, v in vars(batch).items() if isinstance(v, Tensor)}
        largest = {n: float(p.detach().abs().max()) for n, p in self.optimizer.named_parameters() if p.numel()}
        broken = [name for name, value in largest.items() if not math.isfinite(value)]
        top = sorted(set(largest) - set(broken), key=lambda name: -largest[name])[:10]
        with atomic_folder(folder) as target:
            save_file(tensors, target / "batch.safetensors")
            report = {"step": step, "why": why, "mask": batch.mask, "weights_not_finite": broken}
            write_json(target / "report.json", report | {"largest_weights": {name: largest[name] for name in top}})
        return TrainingError(
            f"step {step}: {why}; the batch is in {folder}, the weights are as they were before it. "
            "Lower optimizer.lr, set train.clip, or look at the batch"
        )
