"""Sampled answers as rows of a policy gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmanac.core.errors import DataError
from llmanac.core.types import IGNORE, Batch
from llmanac.models._shared import Span, spans


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
        spans: neighbours that answer one prompt, and its tokens; see `models/_shared.py`.
    """

    spans: tuple[Span, ...] = ()
    old: Tensor | None = None
    advantages: Tensor | None = None
    returns: Tensor | None = None
    values: Tensor | None = None
    reference: Tensor | None = None


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
