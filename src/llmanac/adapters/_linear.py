"""Transforms that add a term to products x W^T, chosen by name patterns.

Rows of an embedding, and of the head that is tied to it, with values of their own: PEFT's `trainable_token_indices`.

E' = E + O (R - O^T E)      O (V, k) has a 1 where a row is one of the k tokens; R (k, D) is trained, initially O^T E
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmanac.adapters._transform import AdapterSpec, Transform, applied
from llmanac.core.errors import SpecError
from llmanac.models.layers import Changeable, Embedding, LinearMap, upcast
from llmanac.models.lm import TrainedModel
from llmanac.models.quantized import Quantized, dense, lookup
from llmanac.models.targets import find_targets

EMBEDDING = "embed_tokens"  # the only embedding that can be a target: others are added in ways of their own


@dataclass(frozen=True, kw_only=True)
class LinearTransformSpec(AdapterSpec):
    """targets: patterns of the names of linear maps (`q_proj`, `layers.0.*`, `lm_head`, `embed_tokens`).

    A pattern fits a full name or its last parts. `all-linear` is every one but the head.
    """

    targets: tuple[str, ...] = ("all-linear",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.targets:
            raise SpecError("targets: needs at least one pattern, for example all-linear")


class LinearTerm:
    """What a Transform does to one product, a `Change` of `models/layers.py`; a subclass defines what it adds.

    Attributes:
        modules: its trained modules by name; they become children of the product, so that their parameters are among
            the model's, under its name.
        follows: whether it is what another part does, to the matrix that both products share; that one is merged.
    """

    follows = False
    served = False

    def __init__(self, transform: LinearTransform, modules: Mapping[str, nn.Module]) -> None:
        self.transform, self.modules = transform, dict(modules)

    @property
    def enabled(self) -> bool:
        """Whether the model computes with it."""
        return self.transform.enabled

    @property
    def shape(self) -> tuple[int, int]:
        """Of the matrix that it changes: (outputs, inputs)."""
        raise NotImplementedError

    def columns(self, x: Tensor) -> tuple[Tensor, Tensor, float] | None:
        """The further term of the map of `x`, see `Changeable.changed`; None while the Transform is disabled."""
        return self.term(x) if self.transform.enabled else None

    def term(self, x: Tensor) -> tuple[Tensor, Tensor, float]:
        """c (..., r), U (outputs, r) and s of the term s c U^T, in the dtype of `x`."""
        raise NotImplementedError

    def factors(self) -> tuple[Tensor, Tensor, float, float] | None:
        """A, B, s and the dropout where the term is low-rank and all that is added; None else, and while disabled."""
        return None

    def gain(self, weight: Tensor) -> Tensor | None:
        """What the product and its term, without the bias, are multiplied by: (outputs,), or None for nothing."""
        return None

    def merged(self, weight: Tensor) -> Tensor:
        """`weight` (outputs, inputs) with the change in it, in float32 at least."""
        raise NotImplementedError


@dataclass(frozen=True)
class Merged:
    """What `merge` did.

    Attributes:
        errors: for each matrix, how far what is stored is from the exact sum, relative to the change (Frobenius
            norms): rounding to the weight's dtype, and packing where it was packed again.
        packed: names of matrices that had a packed form, which were made dense first.
    """

    errors: dict[str, float]
    packed: tuple[str, ...] = ()

    @property
    def error(self) -> float:
        """The largest."""
        return max(self.errors.values(), default=0.0)


class LinearTransform(Transform):
    """See the module.

    Attributes:
        parts: what it does to each product, by the product's name.
    """

    spec: LinearTransformSpec

    def __init__(self, spec: LinearTransformSpec, seed: int = 0) -> None:
        super().__init__(spec, seed)
        self.parts: dict[str, LinearTerm] = {}

    def make_parts(self, model: nn.Module, layers: Mapping[str, Changeable]) -> dict[str, LinearTerm]:
        """A part for each product, its parameters without values yet."""
        raise NotImplementedError

    def targets_of(self, model: nn.Module) -> dict[str, Changeable]:
        """The modules that the targets mean, by name. Raises SpecError."""
        named = any(pattern.endswith(EMBEDDING) for pattern in self.spec.targets)
        found = find_targets(model, self.spec.targets, (LinearMap, Embedding) if named else (LinearMap,))
        return {name: m for name, m in found.items() if isinstance(m, LinearMap) or name.endswith(EMBEDDING)}

    def attach(self, model: nn.Module) -> dict[str, nn.Module]:
        layers = self.targets_of(model)
        parts = self.make_parts(model, layers)
        for name in parts:
            if model.get_submodule(name).change is not None:
                raise SpecError(f"targets: {name} has an adapter already; merge() or remove() that one first")
        self.parts, modules = parts, {}
        for name, part in parts.items():
            layer: Any = model.get_submodule(name)
            for child, module in part.modules.items():
                layer.add_module(child, module.train(layer.training))
                modules[f"{name}.{child}"] = module
            layer.change = part
        return modules

    def detach(self, model: nn.Module) -> None:
        for name, part in self.parts.items():
            layer: Any = model.get_submodule(name)
            layer.change = None
            for child in part.modules:
                delattr(layer, child)
        self.parts = {}

    @torch.no_grad()
    def merge(self, *, repack: bool = False) -> Merged:
        """Fold it into the weights and remove it. A tied head gets its own matrix; the embedding stays as it is.

        A packed matrix (NF4 and others) is made dense first, and with `repack` packed again as it was.
        """
        model = self._applied()
        layers: dict[str, Any] = {name: model.get_submodule(name) for name in self.parts}
        parts = {name: part for name, part in self.parts.items() if not part.follows}
        followed = len(parts) < len(self.parts)
        sums = {name: part.merged(upcast(dense(layers[name].matrix))) for name, part in parts.items()}
        self.remove()
        errors, packed = {}, []
        for name, total in sums.items():
            layer = layers[name]
            old = layer.weight
            exact = total.t() if isinstance(layer, Embedding) else total
            norm = float((exact - upcast(dense(old))).norm())
            kept: Tensor = exact.to(old.dtype)
            if isinstance(old, Quantized):
                packed.append(name)
                kept = _pack(old, kept) if repack and old.form.quantizer else kept
            sharing = sum(m._parameters.get("weight") is old for m in model.modules())
            alone = sharing == 1 or (followed and isinstance(layer, Embedding))
            if alone and not isinstance(old, Quantized):
                old.copy_(kept)
            else:
                self._replace(model, layer, kept, alone)
            errors[name] = float((upcast(dense(layer.weight)) - exact).norm()) / norm if norm else 0.0
        return Merged(errors, tuple(packed))

    def _replace(self, model: nn.Module, layer: Any, kept: Tensor, alone: bool) -> None:
        """Give a layer a parameter of its own."""
        old = layer.weight
        trained = not isinstance(kept, Quantized) and (isinstance(old, Quantized) or old.requires_grad)
        layer.weight = nn.Parameter(kept, trained)
        if not alone:
            untie(model, layer)
        others = applied(model)
        if others:
            layer.weight.requires_grad_(False)
            if trained or any(p is old for other in others for p in other._frozen):
                others[0]._frozen.append(layer.weight)


def _pack(old: Quantized, exact: Tensor) -> Tensor:
    from llmanac.core.spec import make_method

    quantizer: Any = make_method("quantizer", old.form.quantizer)
    packed: Tensor = quantizer.build().pack(exact)
    return packed


def untie(model: nn.Module, layer: nn.Module) -> None:
    """Say in the Spec of the model that has this head that it is no longer tied."""
    for module in model.modules():
        if isinstance(module, TrainedModel) and module.spec.tied and any(child is layer for child in module.modules()):
            module.spec = dataclasses.replace(module.spec, tied=False)


class TokenRows(nn.Module):
    """R, as `weight`."""

    ids: Tensor  # (k,)

    def __init__(self, layer: Changeable, ids: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("ids", torch.tensor(ids, device=layer.weight.device), persistent=False)
        self._of = [layer]  # in a list, so that the layer is no child
        self.weight = nn.Parameter(upcast(self.own()).clone())

    def own(self) -> Tensor:
        """The rows of the model itself."""
        return lookup(self.ids, self._of[0].weight.detach())

    @torch.no_grad()
    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        parameter.copy_(self.own())


class TokenTerm(LinearTerm):
    """What the rows do to the embedding, or to a head.

    Args:
        follows: see `LinearTerm`.
    """

    def __init__(self, transform: LinearTransform, rows: TokenRows, follows: bool = False) -> None:
        super().__init__(transform, {} if follows else {"lora_tokens": rows})
        self.rows, self.follows = rows, follows
        layer: Any = rows._of[0]
        self.looks_up = isinstance(layer, Embedding) and not follows
        self.tokens = layer.weight.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        width = self.rows.weight.shape[1]
        return (width, self.tokens) if self.looks_up else (self.tokens, width)

    def term(self, x: Tensor) -> tuple[Tensor, Tensor, float]:
        change, ids = self.rows.weight - self.rows.own(), self.rows.ids
        if self.looks_up:
            return (x[..., None] == ids).to(change.dtype), change.t(), 1.0
        places = torch.arange(self.tokens, device=ids.device)[:, None] == ids
        return F.linear(x, change.to(x.dtype)), places.to(x.dtype), 1.0

    def merged(self, weight: Tensor) -> Tensor:
        values = self.rows.weight.to(weight.dtype)
        if self.looks_up:
            return weight.index_copy(1, self.rows.ids, values.t())
        return weight.index_copy(0, self.rows.ids, values)
