"""What a rank sends in a step: counted from the collectives that run, and by closed forms.

With n ranks and a tensor of S bytes, a ring sends per rank

    all-gather, reduce-scatter   (n - 1) / n S          all-reduce   2 (n - 1) / n S          point to point   S

(Patarasuk & Yuan 2009). With P parameters, k micro-batches of B rows of T tokens, L layers and width D:

    DDP                2 (n - 1) / n P                                              one all-reduce of all gradients
    FSDP2              (n - 1) / n (2 k P_layers + k P_rest + P)                    Rajbhandari et al. 2020, section 7
    context            2 k (n - 1) / n B T L 2 H_kv d, and as DDP or FSDP2          keys and values, their gradients
    tensor             k (n - 1) / n (B T D (8 L + 5) + 6 B T), and norms           Korthikanti et al. 2022, section 4.2
    pipeline           k B T D for each edge from one rank to another, in both directions
    Muon               (n - 1) / n P_matrices more, where ranks have parts of matrices (FSDP2, tensor)

(in numbers, not bytes). Layers of FSDP2 are gathered for the forward and for the backward pass. A tensor-parallel layer
has two pairs of an all-gather and a reduce-scatter forward and two backward, the embedding and the head five halves
(four with replicated activations), the loss three all-reduces of a number a token.
"""

from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from llmanac.parallel import ParallelSpec

GATHERS = ("all_gather_into_tensor", "_allgather_base_", "all_gather_into_tensor_out")
SCATTERS = ("reduce_scatter_tensor", "_reduce_scatter_base_")
REDUCES = ("all_reduce", "allreduce_", "all_reduce_")


class Recorder(TorchDispatchMode):
    """`with Recorder() as sent: ...`; `sent.bytes` by kind of collective, `sent.calls` likewise."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: dict[str, float] = {}
        self.calls: dict[str, int] = {}

    @property
    def total(self) -> float:
        """Bytes sent by this rank."""
        return sum(self.bytes.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(kind is DTensor for kind in types):
            return NotImplemented  # DTensor first: what it sends comes here as operations of plain tensors
        found = func(*args, **(kwargs or {}))
        space, _, name = func._schema.name.partition("::")
        if space in ("c10d", "_c10d_functional"):
            self._count(name, args, kwargs or {})
        return found

    def _count(self, name: str, args: Any, kwargs: Any) -> None:
        tensors = [t for a in (*args, *kwargs.values()) for t in (a if isinstance(a, (list, tuple)) else (a,))]
        sizes = [t.numel() * t.element_size() for t in tensors if isinstance(t, Tensor)]
        if name in GATHERS or name in SCATTERS:
            n = _ranks(args) if len(sizes) == 1 else max(sizes) // max(1, min(sizes))
            whole = sizes[0] * (n if name in GATHERS else 1) if len(sizes) == 1 else max(sizes)
            self._add("all-gather" if name in GATHERS else "reduce-scatter", whole * (n - 1) / n)
        elif name in REDUCES:
            n = _ranks(args)
            self._add("all-reduce", 2 * sum(sizes) * (n - 1) / n)
        elif name == "send":
            self._add("send", sum(sizes))

    def _add(self, kind: str, size: float) -> None:
        self.bytes[kind] = self.bytes.get(kind, 0.0) + size
        self.calls[kind] = self.calls.get(kind, 0) + 1


def _ranks(args: Any) -> int:
    """How many ranks a collective's group has."""
    for value in args:
        if isinstance(value, str) and value not in ("sum", "avg", "max", "min", "product"):
            return dist.get_world_size(dist.distributed_c10d._resolve_process_group(value))  # type: ignore[arg-type]
        if "ProcessGroup" in str(type(value)) or "ScriptObject" in type(value).__name__:
            try:
                return int(dist.ProcessGroup.unbox(value).size())
            except (RuntimeError, AttributeError, TypeError):
                continue
    return dist.get_world_size()


def data_numbers(spec: ParallelSpec, layers: float, rest: float, micro_batches: int) -> float:
    """Numbers that a rank sends for `layers` parameters in blocks and `rest` outside of them."""
    n, total = spec.replicas, layers + rest
    if spec.weights == "replicated":
        return 2 * (n - 1) / n * total
    times = 1 if spec.pipeline > 1 else micro_batches  # a pipeline keeps gathered weights for all its micro-batches
    return (n - 1) / n * ((1 if spec.pipeline > 1 else 2) * times * layers + times * rest + total)


def context_numbers(spec: ParallelSpec, layers: int, tokens: int, width: int, micro_batches: int) -> float:
    """Numbers that a rank sends for micro-batches of `tokens` places; `width`: keys and values of one, 2 H_kv d."""
    n = spec.context
    return 2 * micro_batches * (n - 1) / n * tokens * layers * width


def tensor_numbers(spec: ParallelSpec, layers: int, tokens: int, dim: int, micro_batches: int, norms: int) -> float:
    """Numbers that a rank sends for micro-batches of `tokens` places; `norms`: parameters of norms (split only)."""
    n = spec.tensor
    ends = 5 if spec.activations == "split" else 4
    each = (n - 1) / n * tokens * (dim * (8 * layers + ends) + 6)
    return micro_batches * each + 2 * (n - 1) / n * norms


def pipeline_numbers(spec: ParallelSpec, rank: int, tokens: int, dim: int, micro_batches: int) -> float:
    """Numbers that a rank sends to its neighbours: activations forward, their gradients backward."""
    from llmanac.parallel.pipeline import stages_of

    own = set(stages_of(spec.schedule, rank, spec.pipeline))
    last = spec.stages - 1
    edges = sum((s < last and s + 1 not in own) + (s > 0 and s - 1 not in own) for s in own)
    split = spec.tensor if spec.activations == "split" else 1
    return micro_batches * edges * tokens // split * dim
