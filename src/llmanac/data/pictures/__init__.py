"""Images with texts in memory: the rows of a training step, the batch a model reads, a resumable stream over them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmanac.core.errors import DataError, SpecError
from llmanac.core.rng import numpy_generator
from llmanac.core.types import SourceState


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """A batch of images, each with what belongs to it; a slice of it is one too.

    Attributes:
        pixels: (B, C, H, W) floating point, normalized.
        ids: (B, T) token ids of the texts, padded on the right; lengths: (B,) how many are real, None for all.
        targets: (B, T) the next token of each place, `IGNORE` where it carries no loss.
        labels: (B,) the class of an image (an answer, what a generator is told), -1 for none.
    """

    pixels: Tensor
    ids: Tensor | None = None
    lengths: Tensor | None = None
    targets: Tensor | None = None
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, rows: slice) -> Pictures:
        return self._each(lambda value: value[rows])

    def to(self, device: torch.device) -> Pictures:
        """The same with every tensor on `device`."""
        return self._each(lambda value: value.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Pictures:
        return replace(self, **{name: change(value) for name, value in vars(self).items() if value is not None})

    @property
    def shape(self) -> tuple[int, int]:
        """(B, T), T the tokens of a text, or 1."""
        return len(self.pixels), 1 if self.ids is None else self.ids.shape[1]


class PictureStream:
    """`rows` new pictures a step, drawn by `draw(generator, rows) -> Pictures` from a generator named by the step.

    What a step draws depends on the seed and its number alone, so that a resumed training sees the same.
    """

    def __init__(self, draw: Callable[[np.random.Generator, int], Any], *, rows: int, seed: int, name: str) -> None:
        if rows < 1:
            raise SpecError(f"rows: {rows} must be at least 1")
        self.draw, self.rows, self.seed, self.name, self.step = draw, rows, seed, name, 0

    def __next__(self) -> Any:
        self.step += 1
        return self.draw(numpy_generator(self.seed, self.name, "step", self.step), self.rows)

    def state(self) -> SourceState:
        return {"name": self.name, "seed": self.seed, "step": self.step}, {}

    def restore(self, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        if (state.get("name"), state.get("seed")) != (self.name, self.seed):
            raise DataError(f"{self.name}: the checkpoint was drawing {state.get('name')} of seed {state.get('seed')}")
        self.step = int(state["step"])
