"""Transforms: small trained changes of a frozen model's products, chosen by name.

transform = make_method("adapter", {"name": "lora", "targets": ["q_proj", "v_proj"]}).build(seed=0).apply(model)
with transform.disabled():
    ...                       # the model computes as it did before
tensors = transform.state()   # what was trained, by name
transform.merge()             # fold it into the weights; or remove() it
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from llmanac.adapters._targets import find_targets
from llmanac.core.errors import CheckpointError, SpecError
from llmanac.core.rng import parameter_generator
from llmanac.core.spec import Spec
from llmanac.models._layers import Product, upcast

PREFIX = "base_model.model."  # what PEFT's files put before a module's name


@dataclass(frozen=True, kw_only=True)
class AdapterSpec(Spec):
    """`build(seed=) -> Transform`.

    targets: patterns of the names of linear maps (`q_proj`, `layers.0.*`, `lm_head`); a pattern fits a full name or its
    last parts. `all-linear` is every one but the head.
    """

    kind = "adapter"
    targets: tuple[str, ...] = ("all-linear",)

    def __post_init__(self) -> None:
        if not self.targets:
            raise SpecError("targets: needs at least one pattern, for example all-linear")

    def build(self, *args: Any, **dims: Any) -> Transform:
        """seed: of the initial values, 0 by default."""
        raise NotImplementedError


class Part:
    """What a Transform does to one product, a `Change` of `models/_layers.py`; a subclass defines what it adds.

    Attributes:
        modules: its trained modules by name; they become children of the product, so that their parameters are among
            the model's, under its name. Each has one parameter, `weight`, and an `init_parameter`.
    """

    def __init__(self, transform: Transform, modules: Mapping[str, nn.Module]) -> None:
        self.transform, self.modules = transform, dict(modules)

    @property
    def enabled(self) -> bool:
        """Whether the model computes with it."""
        return self.transform.enabled

    def columns(self, x: Tensor) -> tuple[Tensor, Tensor, float] | None:
        """The further term of the product of `x` (..., inputs); None while the Transform is disabled."""
        return self.term(x) if self.transform.enabled else None

    def term(self, x: Tensor) -> tuple[Tensor, Tensor, float]:
        """c (..., r), U (outputs, r) and s of the term s c U^T, in the dtype of `x`."""
        raise NotImplementedError

    def delta(self) -> Tensor:
        """The same as a change (outputs, inputs) of the weight."""
        raise NotImplementedError


class Transform:
    """Applies to one model at a time; several may be applied to a model on disjoint targets.

    Attributes:
        model: what it is applied to, or None.
        enabled: whether the model computes with it.
        parts: what it does to each product, by the product's name.
    """

    def __init__(self, spec: AdapterSpec, seed: int = 0) -> None:
        self.spec, self.seed = spec, seed
        self.model: nn.Module | None = None
        self.enabled = True
        self.parts: dict[str, Part] = {}
        self._frozen: list[nn.Parameter] = []

    def make_part(self, name: str, layer: Product) -> Part:
        """The part for the product `layer` of this name, its parameters without values yet."""
        raise NotImplementedError

    def apply(self, model: nn.Module) -> Self:
        """Add it to the model's targets and freeze the model's own parameters; returns the Transform.

        Raises:
            SpecError: a target that is not there, is no linear map, or has a Transform already; or this Transform is
                applied to a model. The model is then as before.
        """
        if self.model is not None:
            raise SpecError("adapter: is applied to a model already; merge() or remove() it, or build another one")
        layers = find_targets(model, self.spec.targets)
        for name, layer in layers.items():
            if layer.change is not None:
                raise SpecError(f"targets: {name} has an adapter already; merge() or remove() that one first")
        parts = {name: self.make_part(name, layer) for name, layer in layers.items()}
        own = {id(p) for other in applied(model) for p in other.parameters().values()}
        self._frozen = [p for p in model.parameters() if p.requires_grad and id(p) not in own]
        for parameter in self._frozen:
            parameter.requires_grad_(False)
        self.model, self.parts = model, parts
        for name, part in parts.items():
            for child, module in part.modules.items():
                layers[name].add_module(child, module.train(layers[name].training))
            layers[name].change = part
        self.initialise()
        return self

    def initialise(self) -> None:
        """Draw every parameter from a stream named by (seed, its name in the model, its shape)."""
        for name, parameter in self.parameters().items():
            if parameter.device.type != "meta":
                owner: Any = self._applied().get_submodule(name.rpartition(".")[0])
                owner.init_parameter("weight", parameter, parameter_generator(self.seed, name, tuple(parameter.shape)))

    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by its name in the model."""
        return {
            f"{name}.{child}.weight": module.get_parameter("weight")
            for name, part in self.parts.items()
            for child, module in part.modules.items()
        }

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Within it the model computes exactly as without the Transform."""
        before, self.enabled = self.enabled, False
        try:
            yield
        finally:
            self.enabled = before

    @torch.no_grad()
    def merge(self) -> None:
        """Fold it into the weights and remove it. A tied head gets its own matrix; the embedding stays as it is."""
        model = self._applied()
        deltas = {name: part.delta() for name, part in self.parts.items()}
        self.remove()
        for name, delta in deltas.items():
            layer: Any = model.get_submodule(name)
            old = layer.weight
            merged = (upcast(old) + delta).to(old.dtype)
            if sum(m._parameters.get("weight") is old for m in model.modules()) == 1:
                old.copy_(merged)
                continue
            layer.weight = nn.Parameter(merged, old.requires_grad)
            _untie(model, layer)
            for other in applied(model):
                if any(p is old for p in other._frozen):
                    other._frozen.append(layer.weight)

    def remove(self) -> None:
        """Take it off the model, whose own parameters can then be trained again as before."""
        model = self._applied()
        for name, part in self.parts.items():
            layer: Any = model.get_submodule(name)
            layer.change = None
            for child in part.modules:
                delattr(layer, child)
        others = applied(model)
        if others:  # they need the model frozen
            others[0]._frozen += self._frozen
        else:
            for parameter in self._frozen:
                parameter.requires_grad_(True)
        self.model, self.parts, self._frozen = None, {}, []

    def state(self) -> dict[str, Tensor]:
        """A copy of what was trained, by name."""
        self._applied()
        return {name: p.detach().clone() for name, p in self.parameters().items()}

    @torch.no_grad()
    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take values as `state` gives them; names may begin with `base_model.model.`, as in PEFT's files.

        Raises:
            CheckpointError: a tensor is missing, unknown, of another shape, or not finite. Nothing is then changed.
        """
        self._applied()
        own = self.parameters()
        given = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
        if own.keys() != given.keys():
            missing, unused = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
            raise CheckpointError(
                f"adapter: the state is that of other targets (missing {missing[:3]}, unused {unused[:3]})"
            )
        for name, tensor in given.items():
            if tensor.shape != own[name].shape:
                shapes = f"{tuple(tensor.shape)}, here {tuple(own[name].shape)}"
                raise CheckpointError(f"{name}: is {shapes}; the state is of another model or rank")
            if not bool(tensor.isfinite().all()):
                raise CheckpointError(f"{name}: holds a value that is not finite")
        for name, tensor in given.items():
            own[name].copy_(tensor)

    def _applied(self) -> nn.Module:
        if self.model is None:
            raise SpecError("adapter: is not applied to a model; call apply(model) first")
        return self.model


def applied(model: nn.Module) -> list[Transform]:
    """The Transforms on a model, in the order of its modules."""
    found: dict[int, Transform] = {}
    for module in model.modules():
        change = module.change if isinstance(module, Product) else None
        if isinstance(change, Part):
            found.setdefault(id(change.transform), change.transform)
    return list(found.values())


def _untie(model: nn.Module, layer: nn.Module) -> None:
    """Say in the Spec of the model that has this head that it is no longer tied."""
    for module in model.modules():
        spec = getattr(module, "spec", None)
        if getattr(spec, "tied", False) and any(child is layer for child in module.children()):
            module.spec = dataclasses.replace(spec, tied=False)  # type: ignore[type-var, assignment]
