"""Transforms: small trained changes of a frozen model, of its products by name or of what comes before its text.

transform = make_method("adapter", {"name": "lora", "targets": ["q_proj", "v_proj"]}).build(seed=0).apply(model)
with transform.disabled():
    ...                       # the model computes as it did before
tensors = transform.state()   # what was trained, by name
transform.merge()             # fold it into the weights; or remove() it

`adapters.files` reads and writes them in PEFT's layout.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from llmanac.core.errors import CheckpointError, SpecError
from llmanac.core.rng import parameter_generator
from llmanac.core.spec import Spec
from llmanac.models.layers import Changeable
from llmanac.models.lm import TrainedModel

PREFIX = "base_model.model."  # what PEFT's files put before a module's name


@dataclass(frozen=True, kw_only=True)
class AdapterSpec(Spec):
    """`build(seed=) -> Transform`."""

    kind = "adapter"
    rank = 0  # a field of low-rank adapters, as is the next
    copies = cast("tuple[str, ...]", ())

    def build(self, *args: Any, **dims: Any) -> Transform:
        """seed: of the initial values, 0 by default."""
        raise NotImplementedError


class Transform:
    """Applies to one model at a time; several may be applied to a model where they change different products.

    A subclass defines `attach`, `detach` and, where it has a form as weights, `merge`.

    Attributes:
        model: what it is applied to, or None.
        enabled: whether the model computes with it.
        modules: what it trains, by name in the model. Each has an `init_parameter`.
    """

    def __init__(self, spec: AdapterSpec, seed: int = 0) -> None:
        self.spec, self.seed = spec, seed
        self.model: nn.Module | None = None
        self.enabled = True
        self.modules: dict[str, nn.Module] = {}
        self._frozen: list[nn.Parameter] = []

    def attach(self, model: nn.Module) -> dict[str, nn.Module]:
        """Put its modules on the model and return them by name. Raises SpecError before anything is changed."""
        raise NotImplementedError

    def detach(self, model: nn.Module) -> None:
        """Take them off."""
        raise NotImplementedError

    def apply(self, model: nn.Module) -> Self:
        """Add it to the model and freeze the model's own parameters; returns the Transform.

        Raises:
            SpecError: the model has no place for it, or it is applied to a model. The model is then as before.
        """
        if self.model is not None:
            raise SpecError("adapter: is applied to a model already; merge() or remove() it, or build another one")
        own = {id(p) for other in applied(model) for p in other.parameters().values()}
        frozen = [p for p in model.parameters() if p.requires_grad and id(p) not in own]
        self.modules, self.model, self._frozen = self.attach(model), model, frozen
        for parameter in frozen:
            parameter.requires_grad_(False)
        self.initialise()
        return self

    def initialise(self) -> None:
        """Draw every parameter from a stream named by (seed, its name in the model, its shape)."""
        for name, parameter in self.parameters().items():
            path, _, own = name.rpartition(".")
            owner: Any = self.modules.get(path) or self._applied().get_submodule(path)
            if parameter.device.type != "meta":
                owner.init_parameter(own, parameter, parameter_generator(self.seed, name, tuple(parameter.shape)))

    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by its name in the model; what two places share has the name of the first."""
        found: dict[int, tuple[str, nn.Parameter]] = {}
        for name, module in self.modules.items():
            for own, parameter in module.named_parameters():
                found.setdefault(id(parameter), (f"{name}.{own}", parameter))
        return dict(found.values())

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Within it the model computes exactly as without the Transform."""
        before, self.enabled = self.enabled, False
        try:
            yield
        finally:
            self.enabled = before

    def merge(self) -> Any:
        """Fold it into the weights and remove it. Raises SpecError where it has no form as weights."""
        raise SpecError(
            f"{self.spec.name}: is no change of weights and cannot be merged; save it with save_adapter and load it on "
            "the model"
        )

    def remove(self) -> None:
        """Take it off the model, whose own parameters can then be trained again as before."""
        model = self._applied()
        self.detach(model)
        others = applied(model)
        if others:  # they need the model frozen
            others[0]._frozen += self._frozen
        else:
            for parameter in self._frozen:
                parameter.requires_grad_(True)
        self.model, self.modules, self._frozen = None, {}, []

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
        transform = None
        if isinstance(module, TrainedModel):
            transform = module.soft_prompt
        elif isinstance(module, Changeable) and module.change is not None:
            transform = module.change.transform
        if isinstance(transform, Transform):
            found.setdefault(id(transform), transform)
    return list(found.values())
