"""The values of a model without memory (device meta), one part of a tensor at a time: drawn, or read from its folder.

A rank of several takes what it has of each matrix. Of a folder only those rows and columns are read; what is drawn, or
stored fused with others, is there completely for a moment.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from llmanac.core.errors import SpecError
from llmanac.models.lm import draw_parameter
from llmanac.models.load import open_model
from llmanac.models.weights import Weights, check_finite

Window = tuple[slice, ...]


def parts(model: Any, values_at: Mapping[str, Any]) -> Callable[[str, Window], Tensor]:
    """What gives a parameter's part by name; `values_at` is that of a model of these names, and this one is on meta.

    Raises:
        SpecError: a folder of packed weights. What is read raises as `load_model` does.
    """
    shapes = {name: (tuple(p.shape), p.dtype) for name, p in model.named_parameters()}
    if "seed" in values_at:

        def drawn(name: str, window: Window) -> Tensor:
            shape, dtype = shapes[name]
            whole = torch.empty(shape, dtype=dtype)
            draw_parameter(model, name, whole, values_at["seed"])
            return whole[window].clone()

        return drawn
    _, sources, weights = open_model(**values_at)
    if type(weights) is not Weights:
        raise SpecError(f"{values_at['path']}: packed weights are not read in parts; load them on a device")

    def read(name: str, window: Window) -> Tensor:
        source = sources[name]
        if source.alone:
            stored = weights.take_part(source.name, window[::-1] if source.transposed else window)
            stored = stored.t() if source.transposed else stored
        else:
            stored = source.take(weights.take_part(source.name, (slice(None),)))[window]
        found = stored.to(shapes[name][1]).contiguous()
        check_finite(found, found, weights.entry(source.name), source.name)
        return found

    return read
