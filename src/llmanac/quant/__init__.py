"""Quantizers: a model's matrices in fewer bits, chosen by name.

    quantizer = make_method("quantizer", {"name": "nf4", "targets": ["all-linear", "lm_head"]}).build()
    report = quantizer.apply(model)          # in place; report.bits, report.layers
    quantizer.attach(model)                  # or before training: through the rounding (ternary, binary)
    quantizer.pack(matrix)                   # one matrix (N, K) -> Quantized

A quantized model computes, scores, generates and is saved as any other. Its packed matrices carry no gradient; adapters
on top of them do (QLoRA).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from llmanac.core.errors import SpecError
from llmanac.core.progress import progress
from llmanac.core.spec import Spec
from llmanac.models.layers import Embedding, Linear, LinearMap, unfuse
from llmanac.models.packed_files import OwnLayout, PackedLayout
from llmanac.models.quantized import Quantized, stored_bytes
from llmanac.models.targets import find_targets


@dataclass(frozen=True)
class Quantization:
    """What a quantizer did.

    Attributes:
        layers: name -> (numbers, bytes before, bytes now) of each matrix.
        before, now: bytes of all the model's parameters.
    """

    layers: dict[str, tuple[int, int, int]]
    before: int
    now: int

    @property
    def bits(self) -> float:
        """Bits a number of the quantized matrices, scales included."""
        numbers = sum(count for count, _, _ in self.layers.values())
        return 8 * sum(now for _, _, now in self.layers.values()) / numbers


@dataclass(frozen=True, kw_only=True)
class QuantizerSpec(Spec):
    """targets: patterns of names of linear maps and embeddings (`q_proj`, `lm_head`, `embed_tokens`).

    `all-linear` is every linear map but the head.
    """

    kind: ClassVar[str] = "quantizer"
    targets: tuple[str, ...] = ("all-linear",)

    def __post_init__(self) -> None:
        if not self.targets:
            raise SpecError("targets: needs at least one pattern, for example all-linear")

    def build(self, **dims: Any) -> Quantizer:
        raise NotImplementedError


class Quantizer:
    """Packs matrices; see the module. Subclasses define `pack`, or `pack_all` where layers depend on each other."""

    layout: ClassVar[type[PackedLayout] | None] = OwnLayout  # of its files; None where nothing is packed

    def __init__(self, spec: QuantizerSpec) -> None:
        self.spec = spec

    def check(self, shape: tuple[int, ...]) -> str | None:
        """Why a matrix of this shape cannot be packed; None where it can."""
        return None if len(shape) == 2 else f"has {len(shape)} axes; only matrices are packed"

    def pack(self, weight: Tensor) -> Tensor:
        """(N, K) -> its packed form, on the same device."""
        raise NotImplementedError

    def pack_all(self, model: nn.Module, layers: dict[str, Any], calibration: Iterable[Any]) -> None:
        """Replace the weights of `layers`."""
        with progress("quantize", total=len(layers), unit="matrices") as bar:
            for layer in layers.values():
                self._replace(model, layer, self.pack(layer.weight.detach()))
                bar.advance()

    @torch.no_grad()
    def apply(self, model: nn.Module, calibration: Iterable[Any] = ()) -> Quantization:
        """Quantize the model's targets in place.

        Args:
            calibration: batches of text for methods that look at activations (`Batch`); ignored by the others.

        Raises:
            SpecError: a pattern that fits nothing, or a matrix that the method cannot pack; the model is as before.
        """
        layers: dict[str, Any] = find_targets(model, self.spec.targets, (LinearMap, Embedding))
        for name, layer in layers.items():
            if isinstance(layer.weight, Quantized):
                raise SpecError(f"targets: {name} is quantized already ({layer.weight.form.name})")
            if layer.change is not None:
                raise SpecError(f"targets: {name} has an adapter; merge() it first")
            if why := self.check(tuple(layer.weight.shape)):
                raise SpecError(f"targets: {name} {why}; leave it out of the targets")
        sizes = {name: (layer.weight.numel(), layer.weight.nbytes) for name, layer in layers.items()}
        before = stored_bytes(model)
        self.pack_all(model, layers, calibration)
        found = {}
        for name, layer in layers.items():
            weight = layer.weight
            found[name] = (*sizes[name], weight.stored if isinstance(weight, Quantized) else weight.nbytes)
        return Quantization(found, before, stored_bytes(model))

    def attach(self, model: nn.Module) -> list[str]:
        """Compute with rounded matrices from now on, and train the exact ones; returns the names of the layers.

        `apply` packs exactly what was trained, and ends it.

        Raises:
            SpecError: a method that is not trained through, or a matrix that it cannot pack.
        """
        self.check_trainable()
        layers: dict[str, Any] = find_targets(model, self.spec.targets, (Linear,))
        for name, layer in layers.items():
            if why := self.check(tuple(layer.weight.shape)):
                raise SpecError(f"targets: {name} {why}; leave it out of the targets")
        unfuse(model)
        for layer in layers.values():
            layer.through = self.trained_product
        return list(layers)

    def check_trainable(self) -> None:
        """Raises SpecError for a method that is not trained through."""
        if type(self).trained_product is Quantizer.trained_product:
            raise SpecError(
                f"through: {self.spec.name} is not trained through its rounding; ternary and binary are. "
                "`llmanac quantize MODEL --method M --text FILE` packs a trained model"
            )

    def trained_product(self, x: Tensor, weight: Tensor) -> Tensor:
        """x W^T as the packed form computes it; gradients pass the rounding as if there were none."""
        raise NotImplementedError

    def rounded(self, weight: Tensor) -> Tensor:
        """(N, K) -> the matrix that its packed form says, in its dtype."""
        dense: Tensor = self.pack(weight).dense(weight.dtype)  # type: ignore[attr-defined]
        return dense

    def train_through(self, weight: Tensor) -> Tensor:
        """The rounded matrix, whose gradient is that of the matrix itself."""
        return weight + (self.rounded(weight.detach()) - weight).detach()

    def _replace(self, model: nn.Module, layer: Any, packed: Tensor) -> None:
        """Give a layer its packed weight; a tied matrix stays one."""
        old = layer.weight
        new = nn.Parameter(packed, requires_grad=False)
        for module in model.modules():
            if module._parameters.get("weight") is old:
                module.weight = new
                if isinstance(module, Linear):
                    module.through = None
