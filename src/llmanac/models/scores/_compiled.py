"""Block attention as one operation of a compiled graph: torch.compile sees its shapes and calls its loops as they are.

Importing this module registers it; `models/compiling.py` does so before a model is compiled.
"""

from typing import Any

import torch
from torch import Tensor

from llmanac.kernels.nn.takes import OPERATIONS
from llmanac.models.scores._blocks import read_back, read_blocks, weights_size


@torch.library.custom_op("llmanac::block_attention", mutates_args=())
def block_attention(
    queries: Tensor, keys: Tensor, values: Tensor, first: Tensor, last: Tensor, causal: bool, window: int | None,
    scale: float, block: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """What `BlockAttention` gives with ranges, and the weights that its backward pass needs."""
    return read_blocks(queries, keys, values, None, (causal, window), scale, block, (first, last))


@torch.library.custom_op("llmanac::block_attention_back", mutates_args=())
def block_attention_back(
    above: Tensor, queries: Tensor, keys: Tensor, values: Tensor, weights: Tensor, first: Tensor, last: Tensor,
    causal: bool, window: int | None, scale: float, block: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return read_back(above, queries, keys, values, weights, (causal, window), scale, block, (first, last))


@block_attention.register_fake
def _(queries, keys, values, first, last, causal, window, scale, block):
    shape = (*queries.shape[:3], values.shape[-1])
    return queries.new_empty(shape), queries.new_empty(weights_size(queries, keys, (causal, window), block))


@block_attention_back.register_fake
def _(above, queries, keys, values, *rest):
    return tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in (queries, keys, values))


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    *tensors, causal, window, scale, block = inputs
    ctx.save_for_backward(*tensors[:3], output[1], *tensors[3:])
    ctx.settings = causal, window, scale, block


def _back(ctx: Any, above: Tensor, _: Any) -> Any:
    return *block_attention_back(above, *ctx.saved_tensors, *ctx.settings), None, None, None, None, None, None


block_attention.register_autograd(_back, setup_context=_keep)
OPERATIONS["blocks"] = block_attention
