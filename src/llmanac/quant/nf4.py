"""4-bit NormalFloat: 16 levels at quantiles of a normal distribution, a scale for each block of 64 numbers.

    w = a c[q],  a = max |w| over the block,  c: 16 numbers in -1..1, more of them near 0

The levels are those of a normal distribution cut at its 0.9677 quantile, 8 below zero, zero, and 7 above. With double
quantization the scales themselves, less their mean, are 8-bit floats with a scale for each 256 of them: 4.127 bits a
number in place of 4.5. Layout and values are those of bitsandbytes, so that its files are read and written.

Paper: Dettmers et al. 2023, "QLoRA", sections 3.1 and 3.2.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from llmanac.core.errors import SpecError
from llmanac.models._quantized import Form, Quantized
from llmanac.quant import Quantizer, QuantizerSpec

CARD = {
    "title": "4-bit NormalFloat",
    "paper": "https://arxiv.org/abs/2305.14314",
    "reference": "bitsandbytes.functional.quantize_4bit: codes, scales and values",
    "aliases": {"nf4-single": {"scales": "float32"}},
    "test": "tests/references/test_quantizers.py::test_nf4_equals_bitsandbytes",
}
SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
NESTED = 256  # scales that share one


@dataclass(frozen=True, kw_only=True)
class Spec(QuantizerSpec):
    """block: numbers a scale; scales: kept as they are, or quantized too (double)."""

    block: int = 64
    scales: Literal["float32", "double"] = "double"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block not in SIZES:
            raise SpecError(f"block: {self.block} is not one of {', '.join(map(str, SIZES))}")

    def build(self, **dims: Any) -> NF4:
        return NF4(self)


@functools.cache
def levels() -> Tensor:
    """c, (16,) float32, ascending."""
    offset = 0.9677083  # mean of 1 - 1/30 and 1 - 1/32: the outermost quantiles of the two halves

    def quantiles(count: int) -> Tensor:
        return torch.special.ndtri(torch.linspace(offset, 0.5, count, dtype=torch.float32).double()[:-1])

    found = torch.cat([quantiles(9), torch.zeros(1, dtype=torch.float64), -quantiles(8)]).sort().values.float()
    return found / found.max()  # these roundings give the published numbers to the bit


@functools.cache
def eight_bit_levels() -> Tensor:
    """(256,) float32: 8-bit floats whose exponent takes as many bits as it needs (Dettmers 2015)."""
    found = [0.0, 1.0]
    for exponent in range(7):
        edges = torch.linspace(0.1, 1, 2**exponent + 1, dtype=torch.float32)
        middles = (10.0 ** (exponent - 6) * ((edges[:-1] + edges[1:]) / 2)).tolist()
        found += [*middles, *(-value for value in middles)]
    return torch.tensor(sorted(found), dtype=torch.float32)


def nearest(x: Tensor, table: Tensor) -> Tensor:
    """The index of the nearest level for each number."""
    return torch.bucketize(x, ((table[1:] + table[:-1]) / 2).to(x.device))


class NF4(Quantizer):
    """See the module."""

    spec: Spec

    def pack(self, weight: Tensor) -> Quantized:
        flat = weight.float().flatten()
        size = self.spec.block
        padded = torch.cat([flat, flat.new_zeros(-len(flat) % size)]).view(-1, size)
        scale = padded.abs().amax(1)
        codes = nearest(padded / torch.where(scale > 0, scale, 1.0)[:, None], levels()).to(torch.uint8)
        codes = codes.flatten()[: len(flat) + len(flat) % 2]
        parts = {"": (codes[0::2] << 4 | codes[1::2])[:, None]}
        if self.spec.scales == "float32":
            parts["absmax"] = scale
        else:
            offset = scale.mean()
            rest = scale - offset
            outer = torch.stack([part.abs().amax() for part in rest.split(NESTED)])
            ratio = rest / torch.where(outer > 0, outer, 1.0).repeat_interleave(NESTED)[: len(rest)]
            parts |= {
                "absmax": nearest(ratio, eight_bit_levels()).to(torch.uint8),
                "nested_absmax": outer,
                "nested_offset": offset.reshape(1),
            }
        return Quantized(NormalFloat(size), parts, tuple(weight.shape), weight.dtype)


@dataclass(frozen=True)
class NormalFloat(Form):
    """Codes two to a byte, the first in the high half. `block`: numbers a scale."""

    block: int
    name = "nf4"

    def scales(self, parts: Mapping[str, Tensor]) -> Tensor:
        """a, one a block, float32."""
        scale = parts["absmax"]
        if "nested_absmax" not in parts:
            return scale
        outer = parts["nested_absmax"].repeat_interleave(NESTED)[: len(scale)]
        table = eight_bit_levels().to(scale.device)
        return table[scale.long()] * outer + parts["nested_offset"]

    def dense(self, parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        codes = parts[""].flatten()
        pairs = _pairs().to(codes.device)[codes.int()]  # (bytes, 2)
        scale = self.scales(parts)
        values, count = pairs.flatten(), shape[0] * shape[1]
        values = torch.cat([values, values.new_zeros(len(scale) * self.block - len(values))])
        return (values.view(-1, self.block) * scale[:, None]).flatten()[:count].view(shape)


@functools.cache
def _pairs() -> Tensor:
    """(256, 2): the two levels of each byte."""
    byte = torch.arange(256)
    return levels()[torch.stack([byte >> 4, byte & 15], 1)]
