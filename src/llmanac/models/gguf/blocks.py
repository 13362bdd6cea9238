"""Matrices of a GGUF file as parameters: the file's own blocks, unpacked a piece at a time where they are used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from llmanac.kernels.gguf.blocks import KINDS, Array
from llmanac.kernels.gguf.file import Mapped
from llmanac.models.quantized import ByRows


@dataclass(frozen=True)
class GGUFForm(ByRows):
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
