"""8-bit integers with a scale for each output channel, and optionally 8-bit activations.

    w_ij = s_i q_ij,  s_i = max_j |w_ij| / 127,  q in -127..127                weight only: y = x (s q)^T
    x_tj = u_t p_tj,  u_t = max_j |x_tj| / 127                                 dynamic: y_ti = u_t s_i sum_j p_tj q_ij

Weight-only keeps activations exact and saves memory; dynamic activations are rounded anew for each token, and the
product is one of integers. Files have the layout of compressed-tensors (`int-quantized`), which vLLM and transformers
read.

Papers: Jacob et al. 2018, section 2; Dettmers et al. 2022 (LLM.int8()) for vector-wise scales.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from llmanac.core.errors import SpecError, shown
from llmanac.kernels.gguf.blocks import Array
from llmanac.kernels.infer import kinds
from llmanac.models.packed_files import Needs, PackedLayout, Small, expect, matrix
from llmanac.models.quantized import ByRows, PackedForm, Quantized
from llmanac.models.weights import TensorEntry
from llmanac.quant import Quantizer, QuantizerSpec
from llmanac.quant._fp8 import FP8Files
from llmanac.quant._gptq_files import PackQuantized

CARD = {
    "title": "8-bit integers",
    "paper": "https://arxiv.org/abs/2208.07339",
    "reference": "the formula in float64; integer products by int64",
    "aliases": {"int8-dynamic": {"activations": "dynamic"}},
    "test": "tests/references/test_quantizers.py::test_int8_equals_the_formula",
}
MOST = 127


@dataclass(frozen=True, kw_only=True)
class Spec(QuantizerSpec):
    """activations: exact, or rounded to 8 bits a token (dynamic)."""

    activations: Literal["exact", "dynamic"] = "exact"

    def build(self, **dims: Any) -> Int8:
        return Int8(self)


def rounded(x: Tensor) -> tuple[Tensor, Tensor]:
    """(..., K) -> codes int8 (..., K) and scales (..., 1) float32; a row of zeros has scale 0."""
    x = x.float()
    scale = x.abs().amax(-1, keepdim=True) / MOST
    codes = (x / scale.clamp(min=torch.finfo(torch.float32).tiny)).round().clamp(-MOST, MOST)
    return codes.to(torch.int8), scale


class Int8Form(ByRows):
    """Weights alone."""

    name = "int8"

    @property
    def quantizer(self) -> dict[str, Any]:
        return {"name": "int8", "activations": "dynamic" if isinstance(self, DynamicInt8Form) else "exact"}

    def rows(self, parts: Mapping[str, Tensor], shape: tuple[int, ...], ids: Any) -> Tensor:
        return parts[""][ids] * parts["scale"][ids]

    def blocks(self, parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> tuple[str, Array]:
        if not (size := kinds.reach(shape[1], shape[1])):
            return super().blocks(parts, shape)
        scale = parts["scale"].expand(-1, shape[1] // size)
        return kinds.blocks("int8", parts[""].numpy().view(np.uint8) ^ 128, scale.numpy())


class DynamicInt8Form(Int8Form):
    """Weights and activations."""

    name = "int8-dynamic"

    def multiply(self, x: Tensor, weight: Quantized) -> Tensor:
        codes, scale = rounded(x.flatten(0, -2))
        sums = torch._int_mm(codes.contiguous(), weight.parts[""].t())
        return (sums * scale * weight.parts["scale"][:, 0]).to(x.dtype).view(*x.shape[:-1], -1)


FORMS: dict[str, PackedForm] = {"exact": Int8Form(), "dynamic": DynamicInt8Form()}
NUMBERS = {"num_bits": 8, "type": "int", "symmetric": True}
WEIGHTS = {**NUMBERS, "strategy": "channel", "dynamic": False}
ACTIVATIONS = {**NUMBERS, "strategy": "token", "dynamic": True}
OTHERS = {"float-quantized": FP8Files.of_group, "pack-quantized": PackQuantized.of_group}


@dataclass(frozen=True)
class CompressedTensors(PackedLayout):
    """`int-quantized`: weight int8 (N, K), weight_scale (N, 1)."""

    form: PackedForm

    @classmethod
    def reading(cls, config: Mapping[str, Any]) -> PackedLayout:
        if config.get("quant_method") == "fp8":
            return FP8Files.reading(config)
        expect(config, {"kv_cache_scheme": None})
        groups = config.get("config_groups")
        if not isinstance(groups, dict) or len(groups) != 1 or not isinstance(one := next(iter(groups.values())), dict):
            raise SpecError(f"config_groups is {shown(groups)}, expected one group")
        expect(one, {"output_activations": None})
        if config.get("format") in OTHERS:
            return OTHERS[config["format"]](one)
        expect(config, {"format": "int-quantized"})
        expect(one.get("weights"), WEIGHTS, "weights: ")
        if one.get("input_activations") is not None:
            expect(one["input_activations"], ACTIVATIONS, "input_activations: ")
        return cls(FORMS["exact" if one.get("input_activations") is None else "dynamic"])

    @classmethod
    def holding(cls, weights: Sequence[Quantized]) -> Self | None:
        forms = {weight.form for weight in weights}
        return cls(forms.pop()) if len(forms) == 1 and forms <= set(FORMS.values()) else None

    def config(self, skipped: list[str]) -> dict[str, Any]:
        group = {
            "targets": ["Linear"],
            "weights": WEIGHTS,
            "input_activations": ACTIVATIONS if isinstance(self.form, DynamicInt8Form) else None,
            "output_activations": None,
        }
        return {
            "quant_method": "compressed-tensors", "format": "int-quantized", "quantization_status": "compressed",
            "config_groups": {"group_0": group}, "ignore": skipped, "kv_cache_scheme": None,
        }  # fmt: skip

    def needs(self, parts: Mapping[str, TensorEntry], small: Small) -> tuple[tuple[int, ...], Needs]:
        shape = matrix(parts)
        return shape, {"weight": (("I8",), shape), "weight_scale": (("F32", "F16", "BF16"), (shape[0], 1))}

    def read(self, tensors: Mapping[str, Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> Quantized:
        parts = {"": tensors["weight"], "scale": tensors["weight_scale"].float()}
        return Quantized(self.form, parts, shape, dtype)

    def write(self, weight: Quantized) -> dict[str, Tensor]:
        return {"weight": weight.parts[""], "weight_scale": weight.parts["scale"]}


class BitsAndBytes8(PackedLayout):
    """weight int8 (N, K), SCB (N,): 127 times the scale. What is read is saved as `CompressedTensors`."""

    optional = ("weight_format",)

    @classmethod
    def reading(cls, config: Mapping[str, Any]) -> PackedLayout:
        expect(config, {"load_in_4bit": False})
        return cls()

    def needs(self, parts: Mapping[str, TensorEntry], small: Small) -> tuple[tuple[int, ...], Needs]:
        shape = matrix(parts)
        return shape, {"weight": (("I8",), shape), "SCB": (("F32",), shape[:1]), "weight_format": (("U8",), ())}

    def read(self, tensors: Mapping[str, Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> Quantized:
        if int(tensors.get("weight_format", torch.tensor(0))):
            raise ValueError("weight_format is no order by rows; only that is read")
        return Quantized(FORMS["exact"], {"": tensors["weight"], "scale": tensors["SCB"][:, None] / MOST}, shape, dtype)


class Int8(Quantizer):
    """See the module."""

    spec: Spec
    layout = CompressedTensors

    def pack(self, weight: Tensor) -> Quantized:
        codes, scale = rounded(weight)
        return Quantized(FORMS[self.spec.activations], {"": codes, "scale": scale}, tuple(weight.shape), weight.dtype)
