"""Which tensors the compiled loops of a training step are for; apart, since asking must not import numba."""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST = 1 << 14  # numbers: below it torch's operations are as fast


def fused(x: Tensor, *others: Tensor) -> bool:
    """Whether loops in one pass take the place of torch's operations on `x`: to train on a CPU in bfloat16.

    Their results differ from those of the operations by the roundings between them, which they leave out. Where nothing
    is trained, in other precisions, for few numbers and under torch.compile, the formulas are computed as they are.
    """
    return (
        x.dtype == torch.bfloat16
        and x.device.type == "cpu"
        and x.numel() >= SMALLEST
        and torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and any(y.requires_grad for y in (x, *others))
        and all(type(y) in (Tensor, torch.nn.Parameter) for y in (x, *others))
    )
