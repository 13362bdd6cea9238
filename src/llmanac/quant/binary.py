"""1-bit weights: the sign, and a scale for each group of 128 numbers of a row.

    w ~ a sign(w),  a = mean |w| over the group, the a that makes the squared error least; sign(0) = 1

1 bit a number and 16 for each group: 1.125 bits, 96.48% less than float32 (without scales 96.875%).

Papers: Rastegari et al. 2016, "XNOR-Net", section 3.1; Wang et al. 2023, "BitNet".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from llmanac.core.errors import SpecError
from llmanac.models.quantized import ByRows, Quantized
from llmanac.quant import Quantizer, QuantizerSpec

CARD = {
    "title": "1-bit weights",
    "paper": "https://arxiv.org/abs/1603.05279",
    "reference": "the formula in float64, and the least squared error over all scales",
    "aliases": {"1bit": {}},
    "test": "tests/references/test_quantizers.py::test_binary_has_the_least_error_of_all_scales",
}


@dataclass(frozen=True, kw_only=True)
class Spec(QuantizerSpec):
    """group: numbers of a row that share a scale, a multiple of 8."""

    group: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group < 8 or self.group % 8:
            raise SpecError(f"group: {self.group} is not a multiple of 8")

    def build(self, **dims: Any) -> Binary:
        return Binary(self)


class Binary(Quantizer):
    """See the module."""

    spec: Spec

    def check(self, shape: tuple[int, ...]) -> str | None:
        if len(shape) == 2 and shape[1] % 8:
            return f"has rows of {shape[1]} numbers, which is no multiple of 8"
        return super().check(shape)

    def pack(self, weight: Tensor) -> Quantized:
        parts = weight.float().split(self.spec.group, 1)
        scale = torch.stack([part.abs().mean(1) for part in parts], 1).to(torch.float16)
        bits = (weight >= 0).long().view(len(weight), -1, 8) << torch.arange(8, device=weight.device)
        codes = bits.sum(-1).to(torch.uint8)
        form = Signs(self.spec.group)
        return Quantized(form, {"": codes, "scale": scale}, tuple(weight.shape), weight.dtype)

    def trained_product(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x, self.train_through(weight).to(x.dtype))


@dataclass(frozen=True)
class Signs(ByRows):
    """Eight signs to a byte, the first in the lowest bit."""

    group: int
    name = "binary"

    @property
    def quantizer(self) -> dict[str, Any]:
        return {"name": "binary", "group": self.group}

    def rows(self, parts: Mapping[str, Tensor], shape: tuple[int, ...], ids: Any) -> Tensor:
        codes, scale = parts[""][ids], parts["scale"][ids]
        bits = codes[..., None] >> torch.arange(8, device=codes.device, dtype=torch.uint8) & 1
        signs = bits.flatten(-2).float() * 2 - 1
        return signs * scale.float().repeat_interleave(self.group, -1)[..., : shape[1]]
