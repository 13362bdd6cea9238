"""The loops of `pointwise.py` as operations of a compiled graph: torch.compile sees shapes, and calls them as they are.

What its own code makes of the formulas is slower on a CPU in bfloat16. Importing this module registers them.
"""

from typing import Any

import torch
from torch import Tensor

from llmanac.kernels.nn import pointwise
from llmanac.kernels.nn.takes import OPERATIONS

define = torch.library.custom_op


def _like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@define("llmanac::rms", mutates_args=())
def rms(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return pointwise.rms(x, weight, eps)


@define("llmanac::rms_back", mutates_args=())
def rms_back(above: Tensor, x: Tensor, weight: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    return pointwise.rms_back(above, x, weight, scale)


@define("llmanac::gated", mutates_args=())
def gated(gate: Tensor, up: Tensor) -> Tensor:
    return pointwise.gated(gate, up)


@define("llmanac::gated_back", mutates_args=())
def gated_back(above: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    return pointwise.gated_back(above, gate, up)


@define("llmanac::turned", mutates_args=())
def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return pointwise.turned(x, cos, sin)


@define("llmanac::turned_back", mutates_args=())
def turned_back(above: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return pointwise.turned_back(above, cos, sin)


rms.register_fake(lambda x, weight, eps: (_like(x), x.new_empty(x.shape[:-1].numel(), dtype=torch.float32)))
rms_back.register_fake(lambda above, x, weight, scale: (_like(x), torch.empty_like(weight)))
gated.register_fake(lambda gate, up: _like(gate))
gated_back.register_fake(lambda above, gate, up: (_like(gate), _like(up)))
turned.register_fake(lambda x, cos, sin: _like(x.transpose(1, 2)).transpose(1, 2))
turned_back.register_fake(lambda above, cos, sin: _like(above))


def _keep_rms(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs[:2], output[1])


def _keep_all(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _keep_tables(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs[1:])


rms.register_autograd(lambda ctx, above, _: (*rms_back(above, *ctx.saved_tensors), None), setup_context=_keep_rms)
gated.register_autograd(lambda ctx, above: gated_back(above, *ctx.saved_tensors), setup_context=_keep_all)
turned.register_autograd(
    lambda ctx, above: (turned_back(above, *ctx.saved_tensors), None, None), setup_context=_keep_tables
)
OPERATIONS.update(rms=lambda x, weight, eps: rms(x, weight, eps)[0], gated=gated, turned=turned)
