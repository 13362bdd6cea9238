"""The tensors of a GGUF file for `load_model`.

Matrices of a GGUF file as parameters: the file's own blocks, unpacked a piece at a time where they are used.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmanac.kernels.gguf.blocks import KINDS, Array
from llmanac.kernels.gguf.file import Mapped
from llmanac.models.gguf.file import PackedFile
from llmanac.models.quantized import ByRows, Quantized
from llmanac.models.weights import TensorEntry, Weights, check_finite


class PackedWeights(PackedFile, Weights):
    """The tensors of a GGUF file under a family's names; see `PackedFile`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.prefix, kind = "", self.file.kind
        self.entries = {name: TensorEntry(path, self.file.shape(own), kind(own)) for name, own in self._own.items()}

    def take(self, name: str) -> Tensor:
        found = torch.from_numpy(self.vector(name))
        self.file.mapped.release()  # of which it is a copy, but where the file has float32
        return found

    def is_packed(self, name: str) -> bool:
        """Whether the tensor of this name is a matrix that stays as the file has it."""
        return len(self.entries[name].shape) == 2 and self.entries[name].dtype != "F32"

    def packed(self, name: str, dtype: torch.dtype) -> Quantized:
        """The matrix of this name in its packed form. Raises CheckpointError where a scale is not finite."""
        found = self.tensor(name)
        if not KINDS[found.kind].finite(found.data):
            check_finite(whole := torch.from_numpy(found.float32()), whole, self.entries[name], name)
        self.file.mapped.release()  # what was looked at
        return Quantized(GGUFForm(found.kind, self.file.mapped), {"": torch.from_numpy(found.data)}, found.shape, dtype)


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

    def pieces(self, weight: Quantized, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        for piece in super().pieces(weight, dtype):
            self.release()  # of what is a copy now; the system keeps the file as long as there is room
            yield piece

    def rows(self, parts: Mapping[str, Tensor], shape: tuple[int, ...], ids: Any) -> Tensor:
        data = self.data(parts)[ids]
        if isinstance(ids, Tensor):  # rows here and there, for each of which the system maps its neighbourhood
            self.release()
        return torch.from_numpy(KINDS[self.kind].float32(data.cpu().numpy())).to(data.device)
