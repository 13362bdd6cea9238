"""Which tensors the compiled loops of a training step are for; apart, since asking must not import numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

OPERATIONS: dict[str, Callable[..., Any]] = {}  # the loops as operations of a compiled graph; `compiled.py` fills it
SMALLEST = 1 << 14  # numbers: below it torch's operations are as fast


def fused(x: Tensor, *others: Tensor) -> bool:
    """Whether loops in one pass take the place of torch's operations on `x`: to train on a CPU in bfloat16.

    Their results differ from those of the operations by the roundings between them, which they leave out. Where nothing
    is trained, in other precisions and for few numbers, the formulas are computed as they are. Under torch.compile the
    loops are operations of its graph, see `operation`.
    """
    return (
        not torch.compiler.is_compiling()
        and x.dtype in (torch.bfloat16, torch.float32)
        and x.device.type == "cpu"
        and x.numel() >= SMALLEST
        and torch.is_grad_enabled()
        and any(y.requires_grad for y in (x, *others))
        and all(type(y) in (Tensor, torch.nn.Parameter) for y in (x, *others))
    )


def operation(name: str, x: Tensor) -> Callable[..., Any] | None:
    """The loop of that name as an operation of the graph that is being compiled, where it is for `x`; else None."""
    taken = x.dtype == torch.bfloat16 and x.device.type == "cpu" and torch.is_grad_enabled()
    return OPERATIONS.get(name) if taken else None
