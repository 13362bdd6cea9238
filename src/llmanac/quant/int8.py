"""8-bit integers with a scale for each output channel, and optionally 8-bit activations.

    w_ij = s_i q_ij,  s_i = max_j |w_ij| / 127,  q in -127..127                weight only: y = x (s q)^T
    x_tj = u_t p_tj,  u_t = max_j |x_tj| / 127                                 dynamic: y_ti = u_t s_i sum_j p_tj q_ij

Weight-only keeps activations exact and saves memory; dynamic activations are rounded anew for each token, and the
product is one of integers. Files have the layout of compressed-tensors (`int-quantized`), which vLLM and transformers
read.

Papers: Jacob et al. 2018, section 2; Dettmers et al. 2022 (LLM.int8()) for vector-wise scales.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from llmanac.models._quantized import Form, Quantized
from llmanac.quant import Quantizer, QuantizerSpec

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


class Int8(Quantizer):
    """See the module."""

    spec: Spec

    def pack(self, weight: Tensor) -> Quantized:
        codes, scale = rounded(weight)
        return Quantized(FORMS[self.spec.activations], {"": codes, "scale": scale}, tuple(weight.shape), weight.dtype)


def rounded(x: Tensor) -> tuple[Tensor, Tensor]:
    """(..., K) -> codes int8 (..., K) and scales (..., 1) float32; a row of zeros has scale 0."""
    x = x.float()
    scale = x.abs().amax(-1, keepdim=True) / MOST
    codes = (x / scale.clamp(min=torch.finfo(torch.float32).tiny)).round().clamp(-MOST, MOST)
    return codes.to(torch.int8), scale


class Exact(Form):
    """Weights alone."""

    name = "int8"

    def dense(self, parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        return parts[""] * parts["scale"]

    def rows(self, parts: Mapping[str, Tensor], shape: tuple[int, ...], ids: Tensor) -> Tensor:
        return parts[""][ids] * parts["scale"][ids]


class Dynamic(Exact):
    """Weights and activations."""

    name = "int8-dynamic"

    def multiply(self, x: Tensor, weight: Quantized) -> Tensor:
        codes, scale = rounded(x.flatten(0, -2))
        sums = torch._int_mm(codes.contiguous(), weight.parts[""].t())
        return (sums * scale * weight.parts["scale"][:, 0]).to(x.dtype).view(*x.shape[:-1], -1)


FORMS: dict[str, Form] = {"exact": Exact(), "dynamic": Dynamic()}
