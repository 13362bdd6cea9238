"""Measuring before the first step leaves no trace: all that a step moves is restored.

`capture` and `restore` take every random state of a process as JSON and back, which makes a resumed run equal to an
uninterrupted one.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from llmanac.core.errors import CheckpointError
from llmanac.core.rng import seed_of
from llmanac.core.types import capabilities


@contextlib.contextmanager
def preserve_models(modules: list[nn.Module]) -> Iterator[None]:
    """Gradients, buffers and modes of the models are after it as they were; inside, no parameter has a gradient.

    Weights are not copied: steps are taken at learning rate 0, which changes none.
    """
    inner = {id(m): m for module in modules for m in module.modules()}.values()
    parameters = {id(p): p for module in modules for p in module.parameters()}.values()
    gradients = [(p, p.grad) for p in parameters]
    modes = [(m, m.training) for m in inner]
    buffers = [(m, name, b, b.clone()) for m in inner for name, b in m._buffers.items() if b is not None]
    for parameter in parameters:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for one, mode in modes:
            one.training = mode
        with torch.no_grad():
            for one, name, buffer, value in buffers:
                one._buffers[name] = buffer.copy_(value)


@contextlib.contextmanager
def preserve_objective(objective: Any) -> Iterator[None]:
    """The objective's `state_dict` is after it what it was."""
    state = {name: value.detach().clone() for name, value in objective.state_dict().items()}
    try:
        yield
    finally:
        if state or objective.state_dict():
            objective.load_state_dict(state)


@contextlib.contextmanager
def preserve_all(model: nn.Module, objective: Any, generators: Mapping[str, Generator] | None) -> Iterator[None]:
    """What runs inside moves no model, no state of the objective, and no random generator, global or named."""
    named = {**(generators or {}), **objective.generators}
    models = [model, *objective.models.values()]
    settings = {
        name: getattr(model, name) for name in capabilities(model).settings & {"attention_form", "compute_dtype"}
    }
    with preserve_random_state(named), preserve_objective(objective), preserve_models(models):
        try:
            yield
        finally:
            for name, value in settings.items():
                setattr(model, name, value)


@contextlib.contextmanager
def trial_rows(source: Any) -> Iterator[Callable[[], Any]]:
    """What gives the rows of a trial step: the source's `sample_rows`, else its next rows, which are put back."""
    sample = getattr(source, "sample_rows", None)
    rows = sample() if sample else None
    if rows is not None:
        yield lambda: rows
        return
    state, tensors = source.state()
    state, tensors = copy.deepcopy(state), {name: value.detach().clone() for name, value in tensors.items()}
    try:
        yield lambda: next(source)
    finally:
        source.restore(state, tensors)


Generator = torch.Generator | np.random.Generator


def _pack(state: torch.Tensor) -> str:
    return base64.b64encode(state.cpu().numpy().tobytes()).decode("ascii")


def _unpack(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)


def capture(generators: Mapping[str, Generator] | None = None) -> dict[str, Any]:
    """The states of Python's, numpy's and torch's own generators, and of the named ones."""
    version, numbers, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()
    named: dict[str, Any] = {}
    for name, generator in (generators or {}).items():
        if isinstance(generator, np.random.Generator):
            named[name] = _numpy_state(generator)
        else:
            named[name] = {"torch": _pack(generator.get_state())}
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [kind, np.asarray(keys).tolist(), int(position), int(has_gauss), float(cached)],
        "torch": _pack(torch.get_rng_state()),
        "cuda": [_pack(state) for state in torch.cuda.get_rng_state_all()] if torch.cuda.is_available() else [],
        "named": named,
    }


def _numpy_state(generator: Any) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        return value.tolist() if isinstance(value, np.ndarray) else value

    return {"numpy": plain(generator.bit_generator.state)}


def restore(state: Mapping[str, Any], generators: Mapping[str, Generator] | None = None) -> None:
    """Put back what `capture` gave. Raises CheckpointError when the named generators are not the same ones."""
    generators = generators or {}
    if set(state["named"]) != set(generators):
        raise CheckpointError(f"random streams: used {sorted(generators)}, checkpointed {sorted(state['named'])}")
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.array(keys, np.uint32), position, has_gauss, cached))
    torch.set_rng_state(_unpack(state["torch"]))
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([_unpack(text) for text in state["cuda"]])
    for name, generator in generators.items():
        own = state["named"][name]
        if isinstance(generator, np.random.Generator):
            generator.bit_generator.state = own["numpy"]
        else:
            generator.set_state(_unpack(own["torch"]))


@contextlib.contextmanager
def preserve_random_state(generators: Mapping[str, Generator] | None = None) -> Iterator[None]:
    """What runs inside draws random numbers without moving any of the global generators, or of the named ones."""
    state = capture(generators)
    try:
        yield
    finally:
        restore(state, generators)


def seed_everything(seed: int) -> None:
    """Start the global generators of a training from the run's seed."""
    random.seed(seed_of(seed, "train", "python"))
    np.random.seed(seed_of(seed, "train", "numpy") % (1 << 32))
    torch.manual_seed(seed_of(seed, "train", "torch"))
