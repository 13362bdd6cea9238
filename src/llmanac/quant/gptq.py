"""GPTQ: 4 bits a number with a scale for each group, and the rounding error of a column corrected in those after it.

    minimise |X W^T - X Q^T|^2 row by row; H = X^T X + damping over calibration text, U the upper Cholesky factor of
    H^-1; for columns j = 0, 1, ...:   q_j = round(w_j),   w_k -= (w_j - q_j) U_jk / U_jj for all k > j

The optimal correction of optimal brain surgeon, for all rows in one order of columns. Blocks of the model are packed
one after the other, each on the activations that the packed blocks before it give. Levels are symmetric: s (q - 8) with
q in 0..15 and s the group's largest number over 7.5. `int4` is the same with plain rounding. Files have the layout of
GPTQ checkpoints (`quant_method: gptq`).

Paper: Frantar et al. 2022, "GPTQ", algorithm 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from llmanac.core.errors import SpecError
from llmanac.models.layers import unfuse
from llmanac.models.quantized import Quantized
from llmanac.models.targets import find_targets
from llmanac.quant import Quantizer, QuantizerSpec
from llmanac.quant._gptq_files import GPTQFiles, Grouped

CARD = {
    "title": "GPTQ: 4 bits with error correction",
    "paper": "https://arxiv.org/abs/2210.17323",
    "reference": "optimal brain surgeon column by column in float64, with an inverse for each",
    "aliases": {"int4": {"rounding": "nearest"}},
    "test": "tests/references/test_gptq.py::test_equals_optimal_brain_surgeon",
}
BLOCK = 128  # columns whose corrections are applied together
BLOCK_OF = re.compile(r"(.*\.layers\.\d+)\.")


@dataclass(frozen=True, kw_only=True)
class Spec(QuantizerSpec):
    """group: numbers of a row that share a scale; damping: of H, relative to its mean diagonal; rounding."""

    group: int = 128
    damping: float = 0.01
    rounding: Literal["corrected", "nearest"] = "corrected"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group < 2 or self.group % 2:
            raise SpecError(f"group: {self.group} is not an even number of at least 2")
        if not 0 < self.damping <= 1:
            raise SpecError(f"damping: {self.damping} is not in (0, 1]")

    def build(self, **dims: Any) -> GPTQ:
        return GPTQ(self)


class GPTQ(Quantizer):
    """See the module."""

    spec: Spec
    layout = GPTQFiles

    def check(self, shape: tuple[int, ...]) -> str | None:
        if len(shape) == 2 and shape[1] % 2:
            return f"has rows of {shape[1]} numbers, which is odd"
        return super().check(shape)

    def pack(self, weight: Tensor, hessian: Tensor | None = None) -> Quantized:
        """hessian: X^T X (K, K); without it every number is rounded to the nearest level."""
        codes, scale = (
            nearest(weight.float(), self.spec.group)
            if hessian is None
            else corrected(weight.float(), hessian, self.spec.group, self.spec.damping)
        )
        form = Grouped(self.spec.group)
        packed = (codes[:, 0::2] | codes[:, 1::2] << 4).contiguous()
        return Quantized(form, {"": packed, "scale": scale}, tuple(weight.shape), weight.dtype)

    def pack_all(self, model: nn.Module, layers: dict[str, Any], calibration: Iterable[Any]) -> None:
        if self.spec.rounding == "nearest":
            return super().pack_all(model, layers, calibration)
        batches = list(calibration)
        if not batches:
            raise SpecError("calibration: gptq looks at activations; give some batches of text, or use int4")
        unfuse(model)  # hooks see the inputs of single layers
        walk = Walk(model, batches)
        groups: dict[str, list[str]] = {}
        for name in layers:
            found = BLOCK_OF.match(name)
            groups.setdefault(found[1] if found else "", []).append(name)
        after = groups.pop("", [])
        for block, names in [*groups.items(), *([("", after)] if after else [])]:
            hessians = walk.products(block, {name: layers[name] for name in names})
            for name in names:
                layer = layers[name]
                self._replace(model, layer, self.pack(layer.weight.detach(), hessians.get(name)))
            if block:
                walk.past(block)
        return None


class Walk:
    """Runs a model block by block: what is after a block is not computed, what is before it only once."""

    def __init__(self, model: Any, batches: list[Any]) -> None:
        self.model, self.batches = model, batches
        self.done: list[nn.Module] = []
        self.hidden: list[Tensor] = []
        self.real: Tensor | None = None  # (B, T): which tokens of the batch in hand are no padding

    def products(
        self, block: str, layers: Mapping[str, nn.Module], of: Callable[[Tensor], Tensor] = lambda x: x.T @ x
    ) -> dict[str, Tensor]:
        """X^T X of what each layer reads by name, or another sum over its rows; layers whose matrix is used in another
        way are left out."""
        found: dict[str, Tensor] = {}

        def add(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
                x = inputs[0]
                if x.is_floating_point():
                    x = (
                        x.flatten(0, -2) if self.real is None or x.shape[:2] != self.real.shape else x[self.real]
                    ).float()
                    found[name] = found.get(name, 0.0) + of(x)

            return hook

        with ExitStack() as stack:
            for name, layer in layers.items():
                stack.callback(layer.register_forward_pre_hook(add(name)).remove)
            self._run(block)
        return found

    def past(self, block: str) -> None:
        """Go on behind a block, which is as it will stay."""
        self.hidden = self._run(block)
        self.done.append(self.model.get_submodule(block))

    def _run(self, block: str) -> list[Tensor]:
        """What the block gives for each batch (nothing for ``, all of the model)."""
        out: list[Tensor] = []
        last = self.model.get_submodule(block) if block else None
        for number, batch in enumerate(self.batches):
            lengths = batch.lengths
            self.real = None if lengths is None else torch.arange(batch.shape[1]) < lengths[:, None]
            with ExitStack() as stack:
                for module in self.done:
                    stack.callback(delattr, module, "forward")
                    kept = self.hidden[number]
                    module.forward = lambda x, *rest, kept=kept: kept
                if last is not None:

                    def stop(module: nn.Module, inputs: Any, output: Tensor) -> None:
                        out.append(output)
                        raise _Stop

                    stack.callback(last.register_forward_hook(stop).remove)
                with suppress(_Stop):
                    self.model(batch)
        return out


def importance(model: Any, batches: Iterable[Any]) -> dict[str, Any]:
    """Sums of squares of what each column of a linear map is multiplied with, (K,) float32 by the weight's name."""
    unfuse(model)  # hooks see the inputs of single layers
    with torch.no_grad():
        found = Walk(model, list(batches)).products(
            "", find_targets(model, ("all-linear",)), lambda x: x.square().sum(0)
        )
    return {f"{name}.weight": squares.cpu().numpy() for name, squares in found.items()}


class _Stop(Exception):
    """The block has run."""


def levels(part: Tensor) -> Tensor:
    """The scale (N, 1) of a group (N, columns), as float16 holds it."""
    scale = (part.abs().amax(1, keepdim=True) / 7.5).to(torch.float16).float()
    return torch.where(scale > 0, scale, 1.0)


def codes_of(part: Tensor, scale: Tensor) -> Tensor:
    return ((part / scale).round() + 8).clamp(0, 15)


def nearest(weight: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Codes (N, K) uint8 and scales (N, groups) float16."""
    parts = weight.split(group, 1)
    scales = [levels(part) for part in parts]
    codes = torch.cat([codes_of(part, scale) for part, scale in zip(parts, scales, strict=True)], 1)
    return codes.to(torch.uint8), torch.cat(scales, 1).to(torch.float16)


def corrected(weight: Tensor, hessian: Tensor, group: int, damping: float) -> tuple[Tensor, Tensor]:
    """The same, with each column's error carried over to the columns after it. A column that is never used is 0."""
    rows, columns = weight.shape
    weight, hessian = weight.clone(), hessian.to(torch.float64, copy=True)
    unused = hessian.diagonal() == 0
    hessian.diagonal()[unused] = 1
    weight[:, unused] = 0
    hessian.diagonal().add_(damping * hessian.diagonal().mean())
    upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True).float()
    codes = torch.empty(rows, columns, dtype=torch.uint8, device=weight.device)
    scales: list[Tensor] = []
    for start in range(0, columns, BLOCK):
        stop = min(start + BLOCK, columns)
        errors = torch.empty(rows, stop - start, device=weight.device)
        for j in range(start, stop):
            if j % group == 0:  # from the numbers as they are corrected by now
                end = min(j + group, columns)
                part = weight[:, j:end].clone()
                if end > stop and j > start:
                    part[:, stop - j :] -= errors[:, : j - start] @ upper[start:j, stop:end]
                scales.append(levels(part))
            scale = scales[-1]
            code = codes_of(weight[:, j : j + 1], scale)
            error = (weight[:, j] - ((code - 8) * scale)[:, 0]) / upper[j, j]
            weight[:, j:stop] -= error[:, None] * upper[j, j:stop]
            codes[:, j], errors[:, j - start] = code[:, 0].to(torch.uint8), error
        weight[:, stop:] -= errors @ upper[start:stop, stop:]
    return codes, torch.cat(scales, 1).to(torch.float16)
