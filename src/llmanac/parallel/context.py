"""Context parallelism: each rank computes some tokens of every row, and reads the keys and values of all of them.

A row of T tokens is cut into 2 c chunks, of which rank r of c has r and 2 c - 1 - r: under a causal mask every rank
then has the same number of pairs of a query and a key. In each layer

    q (b, H, T / c, d) of the rank's own tokens        k, v (b, H_kv, T, d) gathered from all ranks

and the backward pass adds up the gradients of keys and values over ranks (a reduce-scatter). Weights are those of data
parallelism over data x context ranks, since each gradient is a sum over tokens. Grattafiori et al. 2024 (Llama 3),
arXiv:2407.21783, section 3.3.2.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

from llmanac.core.errors import SpecError
from llmanac.core.types import Batch
from llmanac.models.ffn.experts import Experts
from llmanac.models.forward import documents
from llmanac.models.lm.transformer import Transformer
from llmanac.models.masks import AttentionMask, CallLayer, CallState, MaskRule
from llmanac.models.mixers import Mixer
from llmanac.models.mixers.latent import LatentAttention
from llmanac.models.mixers.softmax import SoftmaxAttention
from llmanac.models.state import SlotMapping
from llmanac.parallel.mesh import Mesh


def check(model: Any) -> None:
    """Raises SpecError that names the part of the model which does not read rows in parts."""
    fix = "use parallel.data"
    if type(model) is not Transformer:
        raise SpecError(f"parallel.context: {type(model).__name__} is not a decoder of blocks; {fix}")
    if model._compares or model._by_length:
        raise SpecError(f"parallel.context: {type(model.model.position).__name__} compares or counts places; {fix}")
    if model.lm_head.remembers:
        raise SpecError(f"parallel.context: the head {type(model.lm_head).__name__} looks back; {fix}")
    for number, layer in enumerate(model.model.layers):
        for module in layer.modules():
            attends = type(module) is LatentAttention or (type(module) is SoftmaxAttention and not module.sinks)
            if isinstance(module, Experts) or (isinstance(module, Mixer) and not attends):
                part = type(module).__name__
                what = "has a loss of a row's tokens" if isinstance(module, Experts) else "needs the tokens in order"
                raise SpecError(f"parallel.context: {part} of layer {number} {what}; {fix}")


def own_columns(length: int, rank: int, ranks: int) -> Tensor:
    """Places of a row that a rank has: (T / c,). `length` is a multiple of 2 c."""
    chunks = torch.arange(length).view(2 * ranks, -1)
    return torch.cat([chunks[rank], chunks[2 * ranks - 1 - rank]])


class GatheredRows(CallLayer):
    """The keys and values of all ranks, in the order of the row."""

    def __init__(self, axis: DeviceMesh, order: Tensor) -> None:
        self.axis, self.order = axis, order

    def append(self, slots: SlotMapping, *new: Tensor) -> tuple[Tensor, ...]:
        one = torch.cat(new, -1)  # one message
        shared = DTensor.from_local(one, self.axis, [Shard(2)], run_check=False).redistribute(placements=[Replicate()])
        # each rank has the part of a gradient that its queries give
        every = shared.to_local(grad_placements=[Partial()]).index_select(2, self.order)
        return (*every.split([x.shape[-1] for x in new], -1), slots.key_positions)


class ContextState(CallState):
    """The state of a call with some tokens of rows."""

    def __init__(self, batch: Batch, columns: Tensor, axis: DeviceMesh, depth: int) -> None:
        self.columns, self.length, self.segments = columns, batch.shape[1], batch.segments
        order = torch.cat([own_columns(self.length, rank, axis.size()) for rank in range(axis.size())])
        layer = GatheredRows(axis, order.argsort().to(batch.device))  # one for all: it holds nothing
        super().__init__([*[layer] * depth, None], batch.shape[0], batch.device)

    def slots(self, tokens: int, lengths: Tensor | None = None) -> SlotMapping:
        start, planned = self.lengths, torch.full_like(self.lengths, self.length)
        return SlotMapping(
            offsets=start, start=None, tokens=tokens, keys=self.length, lengths=lengths, planned=planned
        )  # fmt: skip

    def mask(self, batch: Batch, slots: SlotMapping) -> AttentionMask:
        asking = None if self.segments is None else self.segments[:, self.columns]
        rule = MaskRule(kind="causal", segments=self.segments, asking=asking)
        return AttentionMask(rule, self.columns[None], slots, causal=False, mask=True)


def part(batch: Batch, mesh: Mesh, depth: int) -> tuple[Batch, ContextState]:
    """This rank's tokens of a batch, and the state through which `depth` layers read those of the others.

    Raises:
        SpecError: rows whose tokens see later ones.
    """
    if batch.mask != "causal":
        raise SpecError(f"parallel.context: rows with mask={batch.mask!r} are not divided; use parallel.data")
    if batch.segments is not None:
        batch = replace(batch, segments=documents(batch.segments))
    if batch.positions is None:
        batch = replace(batch, positions=torch.arange(batch.shape[1], device=batch.device).expand(batch.shape))
    columns = own_columns(batch.shape[1], mesh.context, mesh.spec.context).to(batch.device)
    state = ContextState(batch, columns, mesh.axis("context"), depth)
    names = ("ids", "targets", "segments", "positions")
    cut = {name: value[:, columns] for name in names if (value := getattr(batch, name)) is not None}
    return replace(batch, **cut, lengths=None), state
