"""Floats of 8 bits (E4M3) with scales, as compressed-tensors (`float-quantized`) and `quant_method: fp8` have them.

    w_ij = s_ij q_ij      s of the matrix, of a row, or of a tile of it

Files are read, not written: a model that has them is saved dense.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llmanac.core.errors import SpecError, shown
from llmanac.models.packed_files import Needs, PackedLayout, Small, expect, matrix
from llmanac.models.quantized import PackedForm, Quantized
from llmanac.models.weights import TensorEntry

NUMBERS = {"num_bits": 8, "type": "float", "symmetric": True}


@dataclass(frozen=True)
class Float8(PackedForm):
    """Parts: the floats, and scales (rows / height, columns / width). `tile`: height and width; 0 for all there are."""

    tile: tuple[int, int]
    name = "fp8"

    @property
    def quantizer(self) -> dict[str, Any]:
        return {}

    def dense(self, parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        scale = parts["scale"]
        for axis, (size, whole) in enumerate(zip(self.tile, shape, strict=True)):
            scale = scale.repeat_interleave(size or whole, axis).narrow(axis, 0, whole)
        return parts[""].float() * scale


@dataclass(frozen=True)
class FP8Files(PackedLayout):
    """weight float8 (N, K), and its scale. `ending`: of the scale's name."""

    ending: str
    tile: tuple[int, int]

    @classmethod
    def reading(cls, config: Mapping[str, Any]) -> PackedLayout:
        size = config.get("weight_block_size")
        if not isinstance(size, list) or len(size) != 2 or not all(type(n) is int and n > 0 for n in size):
            raise SpecError(f"weight_block_size is {shown(size)}, expected two sizes")
        expect(config, {"activation_scheme": "dynamic"})
        return cls("weight_scale_inv", (size[0], size[1]))

    @classmethod
    def of_group(cls, group: Mapping[str, Any]) -> PackedLayout:
        """From the group of a compressed-tensors config."""
        strategy = expect(group.get("weights"), NUMBERS, "weights: ").get("strategy")
        if strategy not in ("tensor", "channel"):
            raise SpecError(f"weights: strategy is {shown(strategy)}; only tensor and channel are read")
        if group.get("input_activations") is not None:
            expect(group["input_activations"], {**NUMBERS, "dynamic": True}, "input_activations: ")
        return cls("weight_scale", (1 if strategy == "channel" else 0, 0))

    def needs(self, parts: Mapping[str, TensorEntry], small: Small) -> tuple[tuple[int, ...], Needs]:
        shape = matrix(parts)
        scales = tuple(-(-whole // (size or whole or 1)) for whole, size in zip(shape, self.tile, strict=True))
        if self.tile == (0, 0) and self.ending in parts and parts[self.ending].shape in ((), (1,)):
            scales = parts[self.ending].shape
        return shape, {"weight": (("F8_E4M3",), shape), self.ending: (("F32", "F16", "BF16"), scales)}

    def read(self, tensors: Mapping[str, Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> Quantized:
        scale = tensors[self.ending].float()
        parts = {"": tensors["weight"], "scale": scale if scale.ndim == 2 else scale.view(1, 1)}
        return Quantized(Float8(self.tile), parts, shape, dtype)
