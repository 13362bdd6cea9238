"""Matrices of a GGUF file as parameters: the file's own blocks, unpacked a piece at a time where they are used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from llmanac.kernels.gguf.blocks import KINDS, Array
from llmanac.kernels.gguf.file import Mapped
from llmanac.models._quantized import Form, Quantized

PIECE = 1 << 22  # numbers that are unpacked at a time


@dataclass(frozen=True)
class Blocks(Form):
    """Rows of blocks (N, bytes) of one kind.

    Attributes:
        file: whose memory they may be; it is asked before each use whether it is what it was.
    """

    kind: str
    file: Mapped | None = field(default=None, compare=False, repr=False)

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.kind

    @property
    def quantizer(self) -> dict[str, Any]:
        return {}

    def data(self, parts: Mapping[str, Tensor]) -> Tensor:
        """The bytes. Raises CheckpointError where the file is not what it was."""
        if self.file is not None:
            self.file.check()
        return parts[""]

    def blocks(self, parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> tuple[str, Array]:
        if self.kind == "MXFP4":  # scales beyond those of float16
            return super().blocks(parts, shape)
        kind = {"F16": "float16", "BF16": "bfloat16"}.get(self.kind, self.kind.lower())
        return kind, self.data(parts).numpy()

    def release(self) -> None:
        if self.file is not None:
            self.file.release()

    def rows(self, parts: Mapping[str, Tensor], shape: tuple[int, ...], ids: Any) -> Tensor:
        data = self.data(parts)[ids]
        if isinstance(ids, Tensor):  # rows here and there, for each of which the system maps its neighbourhood
            self.release()
        return torch.from_numpy(KINDS[self.kind].float32(data.cpu().numpy())).to(data.device)

    def dense(self, parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        return self.rows(parts, shape, slice(None))

    def _pieces(self, weight: Quantized, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        step = max(1, PIECE // weight.shape[1])
        for at in range(0, len(weight), step):
            piece = slice(at, at + step)
            yield piece, self.rows(weight.parts, tuple(weight.shape), piece).to(dtype)

    def multiply(self, x: Tensor, weight: Quantized) -> Tensor:
        return torch.cat([F.linear(x, rows) for _, rows in self._pieces(weight, x.dtype)], -1)

    def multiply_back(self, above: Tensor, weight: Quantized) -> Tensor:
        out = above.new_zeros(len(above), weight.shape[1])
        for piece, rows in self._pieces(weight, above.dtype):
            out += above[:, piece] @ rows
        return out
