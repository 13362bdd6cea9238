"""One optimizer step: micro-batches, one division by all their units, clipping, a guard against what is not finite.

What its micro-batches add up to (`Sums`) stays on the device until the step ends: one transfer a step.

The load-balance loss of experts over a complete step, however it is cut into micro-batches and shared by ranks.

    balance * experts * sum_i (F_i / N) (P_i / N)        F_i assignments to expert i, P_i its probabilities, of N tokens

F_i and N are sums over the step, and no gradient passes through them; P_i is a sum of terms of single tokens. So the
tokens are counted first, in a pass without gradients, and then each micro-batch adds its terms of P_i. The pass is
left out where one forward pass is the step. Random numbers are the same in both, so that dropout is.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from llmanac.core.errors import SpecError, TrainingError
from llmanac.core.files import atomic_folder, write_json
from llmanac.core.types import Batch, LossSum, capabilities
from llmanac.models.ffn.experts import Experts
from llmanac.objectives import BaseObjective
from llmanac.train.calibration import preserve_objective, preserve_random_state
from llmanac.train.optimizers._base import Optimizer
from llmanac.train.plan import Threads, divides


@contextlib.contextmanager
def of_step(
    model: nn.Module,
    objective: Any,
    batches: Iterable[Any],
    read: Callable[[Any], Tensor | int],
    *,
    several: bool,
    add_up: Callable[[Tensor], object] = lambda totals: None,
) -> Iterator[Iterable[Any]]:
    """The batches of a step; inside, the loss of the model's experts is that of all of them.

    Args:
        read: computes the loss of one batch, which is thrown away, and returns its units.
        several: whether the step has more than one micro-batch or rank.
        add_up: replaces counts by their sums over ranks.
    """
    experts = [layer for layer in model.modules() if isinstance(layer, Experts) and layer.balance]
    in_parts = type(objective).losses is not BaseObjective.losses
    if not experts or not objective.adds_aux or not (several or in_parts):
        yield batches
        return
    batches = list(batches)
    for layer in experts:
        layer.seen = torch.zeros(layer.count + 1, dtype=torch.long, device=layer.router.weight.device)
    try:
        with preserve_random_state(objective.generators), preserve_objective(objective), torch.no_grad():
            units = sum(read(batch) for batch in batches)
        seen = [layer.seen for layer in experts if layer.seen is not None]
        totals = torch.cat([*seen, torch.as_tensor(units).reshape(1).to(seen[0])])
        add_up(totals)
        *counts, units = totals.split([*map(len, seen), 1])
        objective.step_units = units.squeeze(0)
        for layer, count in zip(experts, counts, strict=True):
            layer.seen, layer.of_step = None, count
        yield batches
    finally:
        objective.step_units = None
        for layer in experts:
            layer.seen = layer.of_step = None


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
            micro-batches, so that it changes the result by rounding only. Where experts balance their load, tokens are
            counted in a pass of their own (`_balance`). Sums, units and the gradient's norm are
            fetched from the device together, once a step.
        clip: the largest norm of the mean loss's gradient; 0 for any.
        dtype: what the model computes in.
        folder: where a batch whose loss is not finite is saved.
        threads: of several, each computes micro-batches of its own where the model and the objective allow it
            (`_threads`); `micro_batch` rows are then computed at a time by all of them together.

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
        threads: int = 1,
    ) -> None:
        self.model, self.objective, self.optimizer = model, objective, optimizer
        self.micro_batch, self.clip, self.dtype, self.folder = micro_batch, clip, dtype, folder
        self.device = next(model.parameters()).device
        self._parameters = [p for _, p in optimizer.named_parameters()]
        self._casts = "compute_dtype" in capabilities(model).settings
        if self._casts:
            setattr(model, "compute_dtype", dtype)  # noqa: B010 - a Module's attributes are typed as tensors
        alone = threads > 1 and divides(model, objective)
        self._threads = Threads(model, threads, self._backward) if alone else None

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """For a model that does not cast by itself (`compute_dtype`): autocast, where the dtype is a short one."""
        if self._casts or self.dtype not in (torch.bfloat16, torch.float16):
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def gradients(self, rows: Sequence[Any]) -> Sums:
        """Add the gradients of the summed loss, micro-batch by micro-batch. The host waits for none of them."""
        if self.objective.couples_batch and self.micro_batch < len(rows):
            raise SpecError(
                f"micro_batch: {self.micro_batch} cuts {len(rows)} rows whose losses depend on each other; "
                f"leave it unset or set it to {len(rows)}"
            )
        sums = Sums()
        if self._threads is not None and (threads := self._threads.of(rows)):
            cut = [self.objective.collate(part) for part in self._threads.divided(rows, self.micro_batch)]
            for batch, found in zip(cut, self._threads(cut, threads), strict=True):
                sums.add(batch, found)
            return sums
        starts = range(0, len(rows), self.micro_batch)
        batches = (self.objective.collate(rows[start : start + self.micro_batch]) for start in starts)
        with of_step(self.model, self.objective, batches, self._units, several=len(starts) > 1) as counted:
            for batch in counted:
                sums.add(batch, self._backward(self.model, batch))
        return sums

    def _backward(self, model: nn.Module, batch: Any) -> LossSum:
        """The objective's loss of one micro-batch, whose gradients are added."""
        total: LossSum | None = None
        for loss, units, more in self._parts(model, batch):
            if loss.requires_grad and (isinstance(units, Tensor) or units):  # to look into a tensor would be to wait
                loss.backward()
            if total is None:
                total = loss.detach(), units, more
            else:
                sums = {name: total[2].get(name, 0.0) + value for name, value in more.items()}
                total = total[0] + loss.detach(), total[1] + units, sums
        assert total is not None
        return total

    def _parts(self, model: nn.Module, batch: Any) -> Iterator[LossSum]:
        """The objective's losses of one micro-batch, each computed when it is asked for."""
        batch = batch if self.device.type == "cpu" else batch.to(self.device)
        parts = self.objective.losses(model, batch)
        while True:
            with self.precision():
                found = next(parts, None)
            if found is None:
                return
            yield found

    def _units(self, batch: Any) -> Tensor | int:
        units: Tensor | int = 0
        for _, more, _ in self._parts(self.model, batch):
            units = units + more
        return units

    def __call__(self, rows: Sequence[Any], lr_scale: float, step: int) -> StepResult:
        """Do one step at `lr_scale` times the base learning rates.

        A step in which nothing carries loss changes nothing and is reported with 0 units.

        Raises:
            TrainingError: the loss or the gradient is not finite; the batch is saved and the weights are untouched.
        """
        sums = self.gradients(rows)
        found = sums.fetch(*self._norm())
        for number, loss in enumerate(found.losses):
            if not math.isfinite(loss):
                raise self._stopped(step, sums.batches, number, f"the loss is {loss}")
        if not found.units:
            self.optimizer.zero_grad()
            return StepResult(0.0, 0, sums.tokens, 0.0, {})
        units, norm = found.units, (found.more[0] if found.more else 0.0) / found.units
        if not math.isfinite(norm):
            number = self._first_broken(sums.batches)
            raise self._stopped(step, sums.batches, number, f"the gradient's norm is {norm} though the loss is finite")
        clipped = 1.0 if not self.clip else min(1.0, self.clip / (norm + 1e-6))
        self.optimizer.step(lr_scale, clipped / units)
        self.optimizer.zero_grad()
        metrics = {name: value / units for name, value in found.metrics.items()}
        return StepResult(found.loss / units, units, sums.tokens, norm, metrics)

    def _norm(self) -> list[Tensor]:
        """The norm () of all gradients together; none where there are none."""
        live = [p.grad for p in self._parameters if p.grad is not None]
        return [torch.linalg.vector_norm(torch.stack(torch._foreach_norm(live)))] if live else []

    def _first_broken(self, batches: Sequence[Any]) -> int:
        """The number of the first micro-batch whose gradient alone is not finite, computed again; else the last one."""
        for number, batch in enumerate(batches[:-1]):
            self.optimizer.zero_grad()
            self._backward(self.model, batch)
            if not all(math.isfinite(value) for value in numbers(self._norm())):
                return number
        return len(batches) - 1

    def _stopped(self, step: int, batches: Sequence[Any], number: int, why: str) -> TrainingError:
        """Save micro-batch `number` and say what is wrong with it."""
        self.optimizer.zero_grad()
        batch, folder = batches[number], self.folder / f"stopped-at-{step:08d}"
        which = f" (micro-batch {number + 1} of {len(batches)})" if len(batches) > 1 else ""
        parts = {f"{name}.": value for name, value in vars(batch).items() if isinstance(value, Batch)}
        tensors = {
            f"{prefix}{name}": value.detach().cpu().clone(memory_format=torch.contiguous_format)
            for prefix, part in {"": batch, **parts}.items()
            for name, value in vars(part).items()
            if isinstance(value, Tensor)
        }
        largest = {n: float(p.detach().abs().max()) for n, p in self.optimizer.named_parameters() if p.numel()}
        broken = [name for name, value in largest.items() if not math.isfinite(value)]
        top = sorted(set(largest) - set(broken), key=lambda name: -largest[name])[:10]
        with atomic_folder(folder) as target:
            save_file(tensors, target / "batch.safetensors")
            report = {
                "step": step,
                "why": why,
                "mask": batch.mask if isinstance(batch, Batch) else None,
                "weights_not_finite": broken,
            }
            report |= {"micro_batch": number + 1, "micro_batches": len(batches)}
            write_json(target / "report.json", report | {"largest_weights": {name: largest[name] for name in top}})
        return TrainingError(
            f"step {step}: {why}; the batch is in {folder}{which}, the weights are as they were before it. "
            "Lower optimizer.lr, set train.clip, or look at the batch"
        )


@dataclass
class Sums:
    """The sums of a step's micro-batches, in their order.

    Attributes:
        batches: the micro-batches as they were collated, on the host: the one to save where a loss is not finite.
        losses: () each, in nats.
        units: how many units each loss sums over; a tensor or a number.
        metrics: by name, the sum of each micro-batch that has it.
        tokens: places of all batches, padding included.
    """

    batches: list[Any] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)
    units: list[Tensor | int] = field(default_factory=list)
    metrics: dict[str, list[Tensor | float]] = field(default_factory=dict)
    tokens: int = 0

    def add(self, batch: Any, found: LossSum) -> None:
        """Add a micro-batch and what the objective gave for it."""
        loss, units, metrics = found
        self.batches.append(batch)
        self.losses.append(loss.detach())
        self.units.append(units)
        for name, value in metrics.items():
            self.metrics.setdefault(name, []).append(value)
        self.tokens += math.prod(batch.shape)

    def fetch(self, *more: Tensor) -> Fetched:
        """All of it as numbers, and `more` tensors (), in one transfer."""
        names = [name for name, values in self.metrics.items() for _ in values]
        metrics = [value for values in self.metrics.values() for value in values]
        found = numbers([*self.losses, *self.units, *more, *metrics])
        n = len(self.losses)
        sums: dict[str, float] = {}
        for name, value in zip(names, found[2 * n + len(more) :], strict=True):
            sums[name] = sums.get(name, 0.0) + value
        return Fetched(found[:n], int(sum(found[n : 2 * n])), sums, found[2 * n : 2 * n + len(more)])


@dataclass(frozen=True)
class Fetched:
    """`Sums` on the host: the loss of each micro-batch, the units and metrics of all, what else was fetched."""

    losses: list[float]
    units: int
    metrics: dict[str, float]
    more: list[float]

    @property
    def loss(self) -> float:
        """The sum of all losses."""
        return sum(self.losses)


def numbers(values: Sequence[Tensor | float]) -> list[float]:
    """The values of numbers and of tensors () as numbers; tensors of a device come in one transfer."""
    there = [v.detach() for v in values if isinstance(v, Tensor) and v.device.type != "cpu"]
    fetched: Iterator[float] = iter(())
    if there:
        wide = torch.float64 if there[0].device.type != "mps" else torch.float32
        fetched = iter(torch.stack([v.to(there[0].device, wide) for v in there]).tolist())
    return [
        float(v) if not isinstance(v, Tensor) else v.item() if v.device.type == "cpu" else next(fetched) for v in values
    ]
