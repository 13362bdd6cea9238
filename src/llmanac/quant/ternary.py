"""Ternary weights (BitNet b1.58): -1, 0 or 1 times one scale a matrix, with 8-bit activations.

    s = mean |W|,  q = round(clip(W / s, -1, 1)),  W ~ s q           x_t = u_t p_t with 8-bit p_t, as in `int8`

log2(3) = 1.58 bits of information, 2 bits as stored, four to a byte. After training the loss is large; a model that is
trained through the rounding (`train_through`: its gradient passes as if there were none) learns to use it.

Papers: Ma et al. 2024, "The Era of 1-bit LLMs", section 2; Bengio et al. 2013 for the straight-through gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from llmanac.core.errors import SpecError, shown
from llmanac.kernels.gguf.blocks import Array
from llmanac.kernels.infer import kinds
from llmanac.models.packed_files import Needs, PackedLayout, Small, expect, matrix
from llmanac.models.quantized import PackedForm, Quantized
from llmanac.models.weights import TensorEntry
from llmanac.quant import Quantizer, QuantizerSpec
from llmanac.quant.int8 import rounded

CARD = {
    "title": "Ternary weights",
    "paper": "https://arxiv.org/abs/2402.17764",
    "reference": "transformers' BitNet: packed codes, scale, and the layer's output",
    "test": "tests/references/test_quantizers.py::test_ternary_equals_bitnet",
}
SMALLEST = 1e-5  # of a scale, as in the paper's code


@dataclass(frozen=True, kw_only=True)
class Spec(QuantizerSpec):
    """activations: rounded to 8 bits a token (dynamic, as in the paper), or exact."""

    activations: Literal["exact", "dynamic"] = "dynamic"

    def build(self, **dims: Any) -> Ternary:
        return Ternary(self)


def codes_and_scale(weight: Tensor) -> tuple[Tensor, Tensor]:
    """q (N, K) of -1, 0, 1 and s (1,), float32."""
    weight = weight.float()
    scale = weight.abs().mean().clamp(min=SMALLEST)
    return (weight / scale).round().clamp(-1, 1), scale.reshape(1)


class TernaryForm(PackedForm):
    """Two bits a number."""

    name = "ternary"

    @property
    def quantizer(self) -> dict[str, Any]:
        return {"name": "ternary", "activations": "dynamic" if isinstance(self, DynamicTernaryForm) else "exact"}

    def codes(self, parts: Mapping[str, Tensor]) -> Tensor:
        """q, int8."""
        packed = parts[""]
        return torch.cat([(packed >> shift & 3).to(torch.int8) for shift in (0, 2, 4, 6)]) - 1

    def dense(self, parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        return self.codes(parts) * parts["scale"].float()

    def blocks(self, parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> tuple[str, Array]:
        if not (size := kinds.reach(shape[1], shape[1])):
            return super().blocks(parts, shape)
        scale = parts["scale"].float().expand(shape[0], shape[1] // size)
        return kinds.blocks("ternary", (self.codes(parts) + 1).numpy(), scale.numpy())


class DynamicTernaryForm(TernaryForm):
    """The same with 8-bit activations."""

    name = "ternary-dynamic"

    def multiply(self, x: Tensor, weight: Quantized) -> Tensor:
        given, scale = rounded(x.flatten(0, -2))
        sums = torch._int_mm(given.contiguous(), self.codes(weight.parts).t())
        return (sums * scale * weight.parts["scale"].float()).to(x.dtype).view(*x.shape[:-1], -1)


FORMS: dict[str, PackedForm] = {"exact": TernaryForm(), "dynamic": DynamicTernaryForm()}


@dataclass(frozen=True)
class BitNet(PackedLayout):
    """weight uint8 (N/4, K), weight_scale (1,), which is 1/s.

    Attributes:
        inverse: whether it is; files for `autobitlinear` have s.
    """

    inverse: bool = True

    @classmethod
    def reading(cls, config: Mapping[str, Any]) -> PackedLayout:
        kind = config.get("linear_class", "bitlinear")
        if kind not in ("bitlinear", "autobitlinear"):
            raise SpecError(f"linear_class is {shown(kind)}; only bitlinear and autobitlinear are read")
        expect(config, {"use_rms_norm": False})
        if kind == "autobitlinear":
            expect(config, {"quantization_mode": "offline"})
        return cls(kind == "bitlinear")

    @classmethod
    def holding(cls, weights: Sequence[Quantized]) -> Self | None:
        return cls() if {weight.form for weight in weights} == {FORMS["dynamic"]} else None

    def config(self, skipped: list[str]) -> dict[str, Any]:
        return {
            "quant_method": "bitnet", "linear_class": "bitlinear", "quantization_mode": "offline",
            "use_rms_norm": False, "modules_to_not_convert": skipped,
        }  # fmt: skip

    def needs(self, parts: Mapping[str, TensorEntry], small: Small) -> tuple[tuple[int, ...], Needs]:
        codes = matrix(parts)
        scale = parts["weight_scale"].shape if "weight_scale" in parts else (1,)
        return (4 * codes[0], codes[1]), {
            "weight": (("U8",), codes),
            "weight_scale": (("F32", "F16", "BF16"), () if scale == () else (1,)),
        }

    def read(self, tensors: Mapping[str, Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> Quantized:
        scale = tensors["weight_scale"].float().reshape(1)
        if self.inverse and not bool(scale > 0):
            raise ValueError(f"weight_scale is {float(scale)}, expected a number above 0")
        codes = tensors["weight"]
        if bool(((codes & codes >> 1) & 0x55).any()):
            raise ValueError("weight holds the code 3; only 0, 1 and 2 are used")
        return Quantized(FORMS["dynamic"], {"": codes, "scale": 1 / scale if self.inverse else scale}, shape, dtype)

    def write(self, weight: Quantized) -> dict[str, Tensor]:
        return {"weight": weight.parts[""], "weight_scale": 1 / weight.parts["scale"]}


class Ternary(Quantizer):
    """See the module."""

    spec: Spec
    layout = BitNet

    def check(self, shape: tuple[int, ...]) -> str | None:
        if len(shape) == 2 and shape[0] % 4:
            return f"has {shape[0]} rows, which is no multiple of 4"
        return super().check(shape)

    def pack(self, weight: Tensor) -> Quantized:
        codes, scale = codes_and_scale(weight)
        quarters = (codes + 1).to(torch.uint8).chunk(4)  # rows i, i + N/4, ... share a byte
        packed = quarters[0] | quarters[1] << 2 | quarters[2] << 4 | quarters[3] << 6
        return Quantized(FORMS[self.spec.activations], {"": packed, "scale": scale}, tuple(weight.shape), weight.dtype)

    def rounded(self, weight: Tensor) -> Tensor:
        codes, scale = codes_and_scale(weight)
        return (codes * scale).to(weight.dtype)

    def trained_product(self, x: Tensor, weight: Tensor) -> Tensor:
        if self.spec.activations == "dynamic":
            codes, scale = rounded(x.detach())
            x = x + (codes * scale - x).detach().to(x.dtype)
        return F.linear(x, self.train_through(weight).to(x.dtype))
