"""4-bit NormalFloat: 16 levels at quantiles of a normal distribution, a scale for each block of 64 numbers.

    w = a c[q],  a = max |w| over the block,  c: 16 numbers in -1..1, more of them near 0

The levels are those of a normal distribution cut at its 0.9677 quantile, 7 below zero, zero, and 8 above. With double
quantization the scales themselves, less their mean, are 8-bit floats with a scale for each 256 of them: 4.127 bits a
number in place of 4.5. Layout and values are those of bitsandbytes, so that its files are read and written.

Paper: Dettmers et al. 2023, "QLoRA", sections 3.1 and 3.2.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from llmanac.core.errors import SpecError, shown
from llmanac.kernels.gguf.blocks import Array
from llmanac.kernels.infer import kinds
from llmanac.models.folder import MOST
from llmanac.models.packed_files import Needs, PackedLayout, Small, expect
from llmanac.models.quantized import ByRows, Quantized
from llmanac.models.weights import TensorEntry
from llmanac.quant import Quantizer, QuantizerSpec
from llmanac.quant._gptq_files import nibbles
from llmanac.quant.int8 import BitsAndBytes8

CARD = {
    "title": "4-bit NormalFloat",
    "paper": "https://arxiv.org/abs/2305.14314",
    "reference": "bitsandbytes.functional.quantize_4bit: codes, scales and values",
    "aliases": {"nf4-single": {"scales": "float32"}},
    "test": "tests/references/test_quantizers.py::test_nf4_equals_bitsandbytes",
}
SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
NESTED = 256  # scales that share one
STATE = "weight.quant_state.bitsandbytes__nf4"


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


def packed_bytes(shape: tuple[int, ...], spec: Spec) -> int:
    """What a matrix takes: half a byte a number and its scales."""
    count = shape[0] * shape[1]
    blocks = -(-count // spec.block)
    nested = blocks + 4 * -(-blocks // NESTED) + 4  # codes of scales, theirs, and the mean
    return (count + 1) // 2 + (nested if spec.scales == "double" else 4 * blocks)


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


@dataclass(frozen=True)
class NormalFloat(ByRows):
    """Codes two to a byte, the first in the high half. `block`: numbers a scale; `nested`: how scales are kept."""

    block: int
    nested: str
    name = "nf4"

    @property
    def quantizer(self) -> dict[str, Any]:
        return {"name": "nf4", "block": self.block, "scales": self.nested}

    def scales(self, parts: Mapping[str, Tensor], blocks: slice | None = None) -> Tensor:
        """a, one a block (all, or a range of them), float32."""
        blocks = blocks or slice(0, len(parts["absmax"]))
        scale = parts["absmax"][blocks]
        if "nested_absmax" not in parts:
            return scale
        every = torch.arange(blocks.start, blocks.stop, device=scale.device) // NESTED
        outer = parts["nested_absmax"][every]
        table = eight_bit_levels().to(scale.device)
        return table[scale.long()] * outer + parts["nested_offset"]

    def dense(self, parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        found = torch.empty(shape, device=parts[""].device)
        for piece, rows in self.pieces(Quantized(self, parts, shape), found.dtype):
            found[piece] = rows
        return found

    def pieces(self, weight: Quantized, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        if dtype == torch.bfloat16 and self._loops(weight.parts, tuple(weight.shape)):
            for piece in self.slices(weight):
                yield piece, self._spread(weight.parts, tuple(weight.shape), piece, dtype)
        else:
            yield from super().pieces(weight, dtype)

    def _loops(self, parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> bool:
        """Whether compiled code reads rows: where they are made of whole blocks."""
        return shape[1] % self.block == 0 and parts[""].device.type == "cpu"

    def _spread(self, parts: Mapping[str, Tensor], shape: tuple[int, ...], rows: slice, dtype: torch.dtype) -> Tensor:
        from llmanac.kernels.nn.levels import spread  # numba is imported with the first product

        each = shape[1] // self.block
        codes = parts[""].flatten()[rows.start * shape[1] // 2 : rows.stop * shape[1] // 2]
        scales = self.scales(parts, slice(rows.start * each, rows.stop * each))
        return spread(codes, levels(), scales, dtype).view(-1, shape[1])

    def rows(self, parts: Mapping[str, Tensor], shape: tuple[int, ...], ids: Any) -> Tensor:
        if not isinstance(ids, slice):  # blocks follow each other, whatever a row has
            return super().rows(parts, shape, ids)
        if self._loops(parts, shape):
            return self._spread(parts, shape, ids, torch.float32)
        size, start, stop = self.block, ids.start * shape[1], ids.stop * shape[1]
        blocks = slice(start // size, -(-stop // size))
        codes = parts[""].flatten()[blocks.start * size // 2 : blocks.stop * size // 2]
        values = F.embedding(codes.int(), _pairs().to(codes.device)).flatten()  # int32 indices take half the memory
        if missing := (blocks.stop - blocks.start) * size - len(values):  # the last block may be cut
            values = F.pad(values, (0, missing))
        values.view(-1, size).mul_(self.scales(parts, blocks)[:, None])
        begin = start - blocks.start * size
        return values[begin : begin + stop - start].view(-1, shape[1])

    def blocks(self, parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> tuple[str, Array]:
        if not (size := kinds.reach(shape[1], self.block)):
            return super().blocks(parts, shape)
        codes = nibbles(parts[""].view(-1), high=True).view(shape)
        scale = self.scales(parts).repeat_interleave(self.block // size) if size < self.block else self.scales(parts)
        scale = scale[: codes.numel() // size].view(shape[0], -1) / kinds.NF4[-1]
        return kinds.blocks("nf4", codes.numpy(), scale.numpy())


@functools.cache
def _pairs() -> Tensor:
    """(256, 2): the two levels of each byte."""
    byte = torch.arange(256)
    return levels()[torch.stack([byte >> 4, byte & 15], 1)]


@dataclass(frozen=True)
class BitsAndBytes(PackedLayout):
    """Codes and scales as `parts` has them, the levels, and all that is no tensor as the bytes of a JSON object."""

    optional = ("weight.nested_absmax", "weight.nested_quant_map")
    scales: str = "double"

    @classmethod
    def reading(cls, config: Mapping[str, Any]) -> PackedLayout:
        if config.get("load_in_8bit"):
            return BitsAndBytes8.reading(config)
        expect(config, {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "load_in_8bit": False})
        if config.get("bnb_4bit_quant_storage", "uint8") != "uint8":
            raise SpecError(f"bnb_4bit_quant_storage is {shown(config['bnb_4bit_quant_storage'])}; only uint8 is read")
        return cls()

    @classmethod
    def holding(cls, weights: Sequence[Quantized]) -> Self | None:
        kinds = {weight.form.nested if isinstance(weight.form, NormalFloat) else "" for weight in weights}
        return cls(kinds.pop()) if len(kinds) == 1 and "" not in kinds else None

    def config(self, skipped: list[str]) -> dict[str, Any]:
        return {
            "quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False, "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": self.scales == "double", "bnb_4bit_compute_dtype": "float32",
            "bnb_4bit_quant_storage": "uint8", "llm_int8_skip_modules": skipped,
        }  # fmt: skip

    def needs(self, parts: Mapping[str, TensorEntry], small: Small) -> tuple[tuple[int, ...], Needs]:
        shape, block, nested = _state(small(STATE))
        count = shape[0] * shape[1]
        blocks = -(-count // block)
        found: Needs = {
            "weight": (("U8",), ((count + 1) // 2, 1)),
            "weight.absmax": (("U8" if nested else "F32",), (blocks,)),
            "weight.quant_map": (("F32",), (16,)),
            STATE: (("U8",), parts[STATE].shape),
        }
        if nested:
            found["weight.nested_absmax"] = ("F32",), (-(-blocks // NESTED),)
            found["weight.nested_quant_map"] = ("F32",), (256,)
        return shape, found

    def read(self, tensors: Mapping[str, Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> Quantized:
        _, block, nested = _state(tensors[STATE])
        if not torch.allclose(tensors["weight.quant_map"], levels(), rtol=0, atol=1e-6):
            raise ValueError("weight.quant_map has other levels than NF4")
        parts = {"": tensors["weight"], "absmax": tensors["weight.absmax"]}
        if nested:
            if "weight.nested_absmax" not in tensors or not torch.allclose(
                tensors.get("weight.nested_quant_map", torch.zeros(256)), eight_bit_levels(), rtol=0, atol=1e-6
            ):
                raise ValueError("weight.nested_absmax or weight.nested_quant_map is missing, or has other levels")
            parts["nested_absmax"] = tensors["weight.nested_absmax"]
            parts["nested_offset"] = torch.tensor([nested["nested_offset"]])
        return Quantized(NormalFloat(block, "double" if nested else "float32"), parts, shape, dtype)

    def write(self, weight: Quantized) -> dict[str, Tensor]:
        form, parts = weight.form, weight.parts
        assert isinstance(form, NormalFloat)
        state: dict[str, Any] = {
            "quant_type": "nf4", "blocksize": form.block, "dtype": str(weight.dtype).removeprefix("torch."),
            "shape": list(weight.shape),
        }  # fmt: skip
        found = {"weight": parts[""], "weight.absmax": parts["absmax"], "weight.quant_map": levels().clone()}
        if form.nested == "double":
            offset = float(parts["nested_offset"])
            state |= {"nested_blocksize": NESTED, "nested_dtype": "float32", "nested_offset": offset}
            found["weight.nested_absmax"] = parts["nested_absmax"]
            found["weight.nested_quant_map"] = eight_bit_levels().clone()
        return {**found, STATE: torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)}


def _state(data: Tensor) -> tuple[tuple[int, ...], int, dict[str, Any]]:
    """(shape, block, what double quantization adds or nothing) of the JSON object. Raises ValueError."""
    try:
        table = json.loads(bytes(data.tolist()))
    except (ValueError, TypeError, RecursionError):
        raise ValueError(f"{STATE} holds no JSON object") from None
    if not isinstance(table, dict) or table.get("quant_type") != "nf4":
        raise ValueError(f"{STATE} holds {shown(table)}, expected an object whose quant_type is nf4")
    shape, block = table.get("shape"), table.get("blocksize")
    if not isinstance(shape, list) or len(shape) != 2 or not all(type(n) is int and 0 < n <= MOST for n in shape):
        raise ValueError(f"shape is {shown(shape)}, expected two sizes")
    if type(block) is not int or block not in SIZES:
        raise ValueError(f"blocksize is {shown(block)}, expected one of {', '.join(map(str, SIZES))}")
    nested = {key: value for key, value in table.items() if key.startswith("nested_")}
    if nested:
        if nested.get("nested_blocksize") != NESTED or nested.get("nested_dtype") != "float32":
            raise ValueError(f"nested_blocksize and nested_dtype are not {NESTED} and float32")
        offset = nested.get("nested_offset")
        if not isinstance(offset, float) or not abs(offset) <= 1e30:
            raise ValueError(f"nested_offset is {shown(offset)}, expected a number")
        nested["nested_offset"] = float(offset)
    return tuple(shape), block, nested


class NF4(Quantizer):
    """See the module."""

    spec: Spec
    layout = BitsAndBytes

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
        return Quantized(NormalFloat(size, self.spec.scales), parts, tuple(weight.shape), weight.dtype)
