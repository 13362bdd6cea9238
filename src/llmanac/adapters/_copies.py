"""Trained copies of parameters, which take their place in the model: PEFT's `modules_to_save` and `bias`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from llmanac.adapters._linear import untie
from llmanac.core.errors import SpecError, shown
from llmanac.models.layers import upcast
from llmanac.models.quantized import Quantized


class Copies:
    """Copies of parameters by their names in the model; `exchange` puts them there, and again takes them back.

    Attributes:
        modules: the copies by the name of their module, as `Transform.modules` has them.
    """

    def __init__(self, model: Any, names: Iterable[str], copies: Mapping[str, nn.Parameter] | None = None) -> None:
        self._places = [(model.get_submodule(name.rpartition(".")[0]), name) for name in names]
        self._held: list[nn.Parameter] = []
        self._model, self._dtype = model, model.dtype
        self.modules: dict[str, nn.Module] = {}
        for module, name in self._places:
            path, _, own = name.rpartition(".")
            value = module._parameters[own]
            if value is None or isinstance(value, Quantized):
                raise SpecError(f"copies: {name} is packed; load the model dense")
            # in float32 at least, as other parts of adapters
            copy = copies[name] if copies else nn.Parameter(upcast(value.detach()).clone())
            if copy.shape != value.shape:
                raise SpecError(f"copies: {name} is {tuple(copy.shape)}, in this model {tuple(value.shape)}")
            self._held.append(copy)
            self.modules.setdefault(path, _Module()).register_parameter(own, copy)

    @property
    def values(self) -> dict[str, nn.Parameter]:
        """The copies by name."""
        return {f"{path}.{own}": p for path, module in self.modules.items() for own, p in module.named_parameters()}

    def on(self, model: nn.Module) -> Copies:
        """The same copies for another model of the same shape. Raises SpecError."""
        values = self.values
        return Copies(model, values, values)

    def exchange(self) -> None:
        """Swap the copies with what is in the model."""
        for i, (module, name) in enumerate(self._places):
            own = name.rpartition(".")[2]
            self._held[i], module._parameters[own] = module._parameters[own], self._held[i]
        # the embedding's dtype, which a copy has not, is otherwise that of the model
        model = self._model
        model.compute_dtype, self._dtype = self._dtype, model.compute_dtype

    @torch.no_grad()
    def keep(self, model: nn.Module) -> dict[str, float]:
        """Write the copies, which are not in the model, into it; returns what rounding took, as `Merged.errors`."""
        errors = {}
        for (module, name), copy in zip(self._places, self._held, strict=True):
            own = name.rpartition(".")[2]
            old: Any = module._parameters[own]
            kept = copy.to(old.dtype)
            change = float((copy - upcast(old)).norm())
            errors[name] = float((upcast(kept) - copy).norm()) / change if change else 0.0
            if sum(old is p for m in model.modules() for p in m._parameters.values()) > 1:
                module._parameters[own] = nn.Parameter(kept, old.requires_grad)
                untie(model, module)
            else:
                old.copy_(kept)
        return errors


class _Module(nn.Module):
    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """It starts as the model's own."""


def chosen_parameters(model: nn.Module, targets: Iterable[str], *, bias: str, patterns: Sequence[str]) -> list[str]:
    """Names of the parameters that are trained whole.

    Args:
        targets: names of the modules with low-rank terms; bias: `none`, that of the `targets`, or `all`.
        patterns: of the names of modules, as for targets.

    Raises:
        SpecError: a pattern that fits no module with parameters.
    """
    chosen, taken = set(), set(targets)
    names = [f"{path}.{own}" for path, m in model.named_modules() for own, p in m._parameters.items() if p is not None]
    for pattern in patterns:
        fitting = [path for path, _ in model.named_modules() if path and _fits(pattern, path)]
        found = {name for name in names for path in fitting if name.startswith(f"{path}.")}
        if not found:
            raise SpecError(f"copies: {shown(pattern)} fits no module with parameters of this model")
        chosen |= found
    for name in names:
        if name.endswith(".bias") and (bias == "all" or (bias == "targets" and name.rpartition(".")[0] in taken)):
            chosen.add(name)
    return [name for name in names if name in chosen]


def _fits(pattern: str, name: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}")
