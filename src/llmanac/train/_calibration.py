"""Measuring before the first step leaves no trace: all that a step moves is restored."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from llmanac.train._random import Generator, preserve_random_state


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
    settings = {name: getattr(model, name) for name in ("attention_form", "compute_dtype") if hasattr(model, name)}
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
