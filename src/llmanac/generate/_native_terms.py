"""The low-rank terms of requests' adapters, s (x A^T) B^T, as the compiled forward pass adds them line by line."""

from __future__ import annotations

from typing import Any

import numpy as np

from llmanac.adapters._bank import Bank
from llmanac.core.errors import RequestError

# in the order of the matrices in `kernels/infer/_lines.py`
PRODUCTS = [f"self_attn.{name}_proj" for name in "qkvo"] + [f"mlp.{name}_proj" for name in ("gate", "up", "down")]


def _layers(bank: Bank) -> int:
    model: Any = bank.model
    return len(model.model.layers)


def refusal(bank: Bank) -> str | None:
    """Why the native runner cannot compute these adapters; None where it can."""
    known = {f"model.layers.{layer}.{product}" for layer in range(_layers(bank)) for product in PRODUCTS}
    if bank.leads:
        return f"{next(iter(bank.leads))} comes before the text"
    if bank.copies:
        return f"{next(iter(bank.copies))} has copies of parameters"
    for product, parts in bank.parts.items():
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

    def __init__(self, bank: Bank, name: str) -> None:
        if (reason := refusal(bank)) is not None:
            raise RequestError(f"adapter: the native runner cannot compute it ({reason}); use the torch runner")
        self._held: list[np.ndarray[Any, Any]] = []  # what the addresses point into
        layers = _layers(bank)
        self.table = np.zeros((layers, len(PRODUCTS), 3), np.int64)
        for layer, (which, product) in ((x, y) for x in range(layers) for y in enumerate(PRODUCTS)):
            part = bank.parts.get(f"model.layers.{layer}.{product}", {}).get(name)
            if part is not None and (factors := part.factors()) is not None:
                a, b, scale = (factors[0].detach().float(), factors[1].detach().float(), factors[2])
                pair = [np.ascontiguousarray(x.numpy()) for x in (a, (b * scale).t())]
                self.table[layer, which] = len(a), *(x.ctypes.data for x in pair)
                self._held += pair
