"""The low-rank terms of requests' adapters, s (x A^T) B^T, as the compiled forward pass adds them line by line."""

from typing import Any

import numpy as np

from llmanac.adapters import AdapterRegistry
from llmanac.core.errors import RequestError

# in the order of the matrices in `kernels/infer/lines.py`
PRODUCTS = [f"self_attn.{name}_proj" for name in "qkvo"] + [f"mlp.{name}_proj" for name in ("gate", "up", "down")]


def _layers(registry: AdapterRegistry) -> int:
    model: Any = registry.model
    return len(model.model.layers)


def refusal(registry: AdapterRegistry) -> str | None:
    """Why the native runner cannot compute these adapters; None where it can."""
    known = {f"model.layers.{layer}.{product}" for layer in range(_layers(registry)) for product in PRODUCTS}
    if registry.soft_prompts:
        return f"{next(iter(registry.soft_prompts))} comes before the text"
    if registry.copies:
        return f"{next(iter(registry.copies))} has copies of parameters"
    for product, parts in registry.parts.items():
        for name, part in parts.items():
            if product not in known or part.factors() is None:
                return f"{name} changes {product} by more than a low-rank term of a layer's product, or is disabled"
    return None


class Terms:
    """The terms of one adapter.

    Attributes:
        table: (L, 7, 3) int64: rank, address of A (r, inputs), address of s B^T (r, outputs); 0 for no term.

    Raises:
        RequestError: an adapter that is not, or no longer, one that the native runner computes.
    """

    def __init__(self, registry: AdapterRegistry, name: str) -> None:
        if (reason := refusal(registry)) is not None:
            raise RequestError(f"adapter: the native runner cannot compute it ({reason}); use the torch runner")
        self._held: list[np.ndarray[Any, Any]] = []  # what the addresses point into
        layers = _layers(registry)
        self.table = np.zeros((layers, len(PRODUCTS), 3), np.int64)
        for layer, (which, product) in ((x, y) for x in range(layers) for y in enumerate(PRODUCTS)):
            part = registry.parts.get(f"model.layers.{layer}.{product}", {}).get(name)
            if part is not None and (factors := part.factors()) is not None:
                a, b, scale = (factors[0].detach().float(), factors[1].detach().float(), factors[2])
                pair = [np.ascontiguousarray(x.numpy()) for x in (a, (b * scale).t())]
                self.table[layer, which] = len(a), *(x.ctypes.data for x in pair)
                self._held += pair
