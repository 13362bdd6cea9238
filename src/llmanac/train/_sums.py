"""What the micro-batches of one step add up to. It stays on the device until the step ends: one transfer a step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from llmanac.core.types import LossSum


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
