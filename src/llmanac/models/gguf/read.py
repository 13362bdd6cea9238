"""The tensors of a GGUF file for `load_model`."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from llmanac.kernels.gguf.blocks import KINDS
from llmanac.models.gguf.blocks import GGUFForm
from llmanac.models.gguf.file import PackedFile
from llmanac.models.quantized import Quantized
from llmanac.models.weights import TensorEntry, Weights, check_finite


class PackedWeights(PackedFile, Weights):
    """The tensors of a GGUF file under a family's names; see `PackedFile`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.prefix, kind = "", self.file.kind
        self.entries = {name: TensorEntry(path, self.file.shape(own), kind(own)) for name, own in self._own.items()}

    def take(self, name: str) -> Tensor:
        return torch.from_numpy(self.vector(name))

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
