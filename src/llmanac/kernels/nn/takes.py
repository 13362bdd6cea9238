"""What a step on a CPU is computed with: compiled loops for which tensors, and oneDNN for which products.

Apart from the loops, since asking must not import numba.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from llmanac.core.device import onednn

OPERATIONS: dict[str, Callable[..., Any]] = {}  # the loops as operations of a compiled graph; `compiled.py` fills it
SMALLEST = 1 << 14  # numbers: below it torch's operations are as fast
LEAST = 1 << 22  # multiplications of a product; for fewer a call of oneDNN costs as much as it saves


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


class Again(NamedTuple):
    """How a tensor is computed once more, to the bit."""

    run: Callable[..., Tensor]
    given: tuple[Tensor, ...]


_AGAIN: Any = WeakTensorKeyDictionary()  # of tensors that are there


def remade(y: Tensor, run: Callable[..., Tensor], *given: Tensor) -> Tensor:
    """`y`, with the note that it is `run(*given)`, for a step that may keep `given` in its place (`again`)."""
    if y.requires_grad and not torch.compiler.is_compiling():
        _AGAIN[y] = Again(run, given)
    return y


def again(x: Tensor) -> Again | None:
    """How x is made again; None where it has to be kept."""
    return _AGAIN.get(x)


def counted() -> dict[Any, Callable[..., int]]:
    """The FLOPs of that operation by shapes, as `FlopCounterMode(custom_mapping=...)` of torch takes them."""
    if onednn() is None:
        return {}
    return {torch.ops.mkldnn._linear_pointwise: lambda x, weight, *_, **more: 2 * math.prod(x) * weight[0]}


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., K) W^T + b, for W (N, K) and b (N,) of the dtype of x."""
    if not large(x, weight):
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled() and (
        x.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
    ):
        made: Tensor = _Linear.apply(x, weight, bias)
        return made
    compute = onednn()
    assert compute is not None
    return compute(x, weight, bias)


def large(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN computes x W^T: its result has memory of its own."""
    return (
        not torch.compiler.is_compiling()
        and x.dtype == torch.float32
        and weight.dtype == torch.float32
        and x.numel() * weight.shape[0] >= LEAST
        and x.device.type == "cpu"
        and type(x) is Tensor
        and type(weight) in (Tensor, nn.Parameter)
        and not torch.is_autocast_enabled("cpu")
        and onednn() is not None
    )


class _Linear(torch.autograd.Function):
    """The product with its gradients, which are products by `linear` too and may be differentiated again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (above,) = grads
        x, weight = ctx.saved_tensors
        wanted, rows = ctx.needs_input_grad, above.flatten(0, -2)
        return (
            linear(above, weight.t()) if wanted[0] else None,
            linear(rows.t(), x.flatten(0, -2).t()) if wanted[1] else None,
            rows.sum(0) if wanted[2] else None,
        )
