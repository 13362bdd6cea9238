"""Several adapters on one model at once, chosen row by row: what an engine serves different requests with.

    with registry.rows(["french", None, "legal"]):
        model(batch, state)      # row 0 with one adapter, row 1 without, row 2 with another

The terms of the rows' adapters are one product: their columns side by side, and a row's columns of the others set to 0.
What comes before the text (prefixes, prompts) is put into a row's state when it begins, by the runner.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from llmanac.adapters._copies import Copies
from llmanac.adapters._linear import LinearTerm
from llmanac.adapters._soft_prompt import SoftPromptTransform
from llmanac.adapters._transform import Transform, applied
from llmanac.adapters.lora import LoRA
from llmanac.core.errors import RequestError, SpecError
from llmanac.models.layers import Changeable


class _Pass(threading.local):
    """The forward pass that this thread runs: `(registry, the adapter of each row)`, and the axes of what enters."""

    rows: tuple[int, tuple[str | None, ...]] = (0, ())
    axes = 0


_now = _Pass()
_swapping = threading.RLock()  # held by passes over a model of which adapters have copies of parameters


class AdapterRegistry:
    """The adapters of one model by name.

    Args:
        adapters: folders in PEFT's layout, or Transforms that are applied to another model of the same shape; those
            are read as they are at each step, so training that model changes what is served.

    Attributes:
        one_by_one: whether rows with different adapters need passes of their own: some layer mixes rows, or an adapter
            has copies of parameters. They are in the model during such a pass: another thread may then use it through
            registries with such adapters only.

    Raises:
        SpecError, CheckpointError: an adapter that does not fit the model.
    """

    def __init__(self, model: Any, adapters: Mapping[str, str | Path | Transform]) -> None:
        if not isinstance(model, nn.Module):
            raise RequestError("adapters: this model is counted, not trained, and has none")
        if applied(model):
            raise SpecError("adapters: the model has one applied already; remove() or merge() it first")
        self.model = model
        self.soft_prompts: dict[str, SoftPromptTransform] = {}
        self.parts: dict[str, dict[str, LinearTerm]] = {}  # by product and adapter
        self.copies: dict[str, Copies] = {}
        for name, given in adapters.items():
            if not isinstance(name, str) or not name:
                raise SpecError(f"adapters: {name!r} is no name; give each adapter one that requests can say")
            transform = _taken(model, given) if isinstance(given, (str, Path)) else given
            self._add(name, transform)
        self.names = tuple(adapters)
        self.one_by_one = bool(self.copies) or any(
            ".experts." in name or name.endswith("kv_b_proj") for name in self.parts
        )
        for name, parts in self.parts.items():
            layer: Any = model.get_submodule(name)
            if layer.change is None:
                layer.change = Chosen()
            layer.change.parts[id(self)] = parts

    def _add(self, name: str, transform: Transform) -> None:
        if isinstance(transform, SoftPromptTransform) and transform.modules:
            self.soft_prompts[name] = transform
            return
        parts: dict[str, Any] = transform.parts if isinstance(transform, LoRA) else {}
        if not parts:
            raise SpecError(f"adapters: {name} is not applied to a model, or of a kind that cannot be served")
        modules = dict(self.model.named_modules(remove_duplicate=False))
        for product, part in parts.items():
            layer = modules.get(product)
            if not isinstance(layer, Changeable) or tuple(layer.matrix.shape) != part.shape:
                raise SpecError(f"adapters: {name} changes {product} {part.shape}, which this model has not")
            self.parts.setdefault(product, {})[name] = part
        copies = transform.copies if isinstance(transform, LoRA) else None
        if copies is not None:
            self.copies[name] = copies.on(self.model)

    def detach(self) -> None:
        """Take it off the model."""
        for name in self.parts:
            layer: Any = self.model.get_submodule(name)
            if isinstance(layer.change, Chosen):
                layer.change.parts.pop(id(self), None)
                layer.change = layer.change if layer.change.parts else None

    @contextmanager
    def rows(self, names: Sequence[str | None]) -> Iterator[None]:
        """Within it a forward pass of this thread computes row i with the adapter `names[i]`."""
        before = _now.rows
        _now.rows = (id(self), tuple(names))
        swapped = self.copies.get(names[0] or "")  # one_by_one: all rows have this one
        with _swapping if self.copies else nullcontext():
            try:
                if swapped is not None:
                    swapped.exchange()
                yield
            finally:
                if swapped is not None:
                    swapped.exchange()
                _now.rows = before


class Chosen:
    """The `Change` of a product of which each row may have another."""

    enabled = True
    served = True  # the model's weights are its own
    transform = None

    def __init__(self) -> None:
        self.parts: dict[int, dict[str, LinearTerm]] = {}  # by registry and adapter

    def _active(self) -> tuple[dict[str, LinearTerm], tuple[str | None, ...]]:
        """The parts that rows of this pass have, and the adapter of each row."""
        registry, names = _now.rows
        parts = self.parts.get(registry, {})
        return {name: parts[name] for name in dict.fromkeys(names) if name in parts}, names

    def factors(self) -> None:
        """None: see `columns`."""

    def columns(self, x: Tensor) -> tuple[Tensor, Tensor, float] | None:
        """See `Change`."""
        active, names = self._active()
        if not active:
            return None
        terms = {name: part.term(x) for name, part in active.items()}
        _now.axes = next(iter(terms.values()))[0].ndim
        if len(set(names)) == 1:
            return next(iter(terms.values()))
        found = []
        for name, (columns, _, scale) in terms.items():
            own = torch.tensor([scale * (name == other) for other in names]).to(columns)
            found.append(columns * own.view(-1, *[1] * (columns.ndim - 1)))
        return torch.cat(found, -1), torch.cat([b for _, b, _ in terms.values()], 1), 1.0

    def gain(self, weight: Tensor) -> Tensor | None:
        """See `Change`; one row of factors a row, where rows differ."""
        active, names = self._active()
        found = {name: part.gain(weight) for name, part in active.items()}
        if all(gain is None for gain in found.values()):
            return None
        if len(set(names)) == 1:
            return next(iter(found.values()))
        one = torch.ones(weight.shape[0], device=weight.device)
        rows = [found.get(name) if name is not None else None for name in names]
        gains = torch.stack([(one if gain is None else gain.to(one.dtype)) for gain in rows])
        return gains.view(len(names), *[1] * (_now.axes - 2), -1)


def _taken(model: nn.Module, folder: str | Path) -> Transform:
    """The adapter of a folder, with its values, off the model."""
    from llmanac.adapters.load import load_adapter

    others = {
        module: module.change
        for module in model.modules()
        if isinstance(module, Changeable) and isinstance(module.change, Chosen)
    }
    for module in others:  # of other engines
        module.change = None
    try:
        transform: Any = load_adapter(model, folder)
        modules = transform.modules
        kept = (transform.parts, transform.copies) if isinstance(transform, LoRA) else None
        transform.remove()
    finally:
        for module, change in others.items():
            module.change = change
    transform.modules = modules
    if kept is not None:
        transform.parts, transform.copies = kept
    return cast(Transform, transform)
