"""Half precision: 16 bits a number, without scales.

    bfloat16: 8 bits of exponent, 7 of fraction (the range of float32);  float16: 5 and 10 (up to 65,504)

By default every parameter is cast, so that the model computes in that precision too. float16 refuses weights that it
cannot represent.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from llmanac.core.errors import SpecError
from llmanac.models.quantized import stored_bytes
from llmanac.quant import Quantization, Quantizer, QuantizerSpec

CARD = {
    "title": "Half precision",
    "paper": "https://arxiv.org/abs/1905.12322",
    "reference": "torch: the cast weights, to the bit",
    "aliases": {"fp16": {"dtype": "float16"}},
}


@dataclass(frozen=True, kw_only=True)
class Spec(QuantizerSpec):
    """dtype: of the weights; targets: `all` (the default) is every parameter, norms and embeddings included."""

    targets: tuple[str, ...] = ("all",)
    dtype: Literal["bfloat16", "float16"] = "bfloat16"

    def build(self, **dims: Any) -> Half:
        return Half(self)


class Half(Quantizer):
    """See the module."""

    spec: Spec
    layout = None

    def pack(self, weight: Tensor) -> Tensor:
        dtype = torch.bfloat16 if self.spec.dtype == "bfloat16" else torch.float16
        made = weight.to(dtype)
        if not bool(made.isfinite().all()):
            raise SpecError("dtype: float16 cannot represent a weight above 65504; use bf16")
        return made

    @torch.no_grad()
    def apply(self, model: nn.Module, calibration: Iterable[Any] = ()) -> Quantization:
        if self.spec.targets != ("all",):
            return super().apply(model, calibration)
        before = stored_bytes(model)
        made = {name: (p, self.pack(p.detach())) for name, p in model.named_parameters()}
        layers = {}
        for name, (parameter, packed) in made.items():
            layers[name] = (packed.numel(), parameter.nbytes, packed.nbytes)
            parameter.data = packed
        return Quantization(layers, before, stored_bytes(model))
