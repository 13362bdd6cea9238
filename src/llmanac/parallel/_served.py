"""The part of a model that one rank serves: heads and columns of its layers, some of the layers, or both.

    stage 0        ids -> layers -> hidden states (b, T, D) to the next stage      ... logits (b, 1, V) of the last
    stage s        hidden states -> layers -> hidden states to the next stage
    last stage     hidden states -> layers, norm, head -> logits to rank 0

A stage keeps its layers and the states of their rows, nothing else. The rows of a read go through the stages in groups,
as many as there are stages, so that stages compute at the same time (GPipe's order, Huang et al. 2019); one row alone
is computed by one stage after the other.
"""

import types
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard

from llmanac.core.errors import SpecError
from llmanac.core.types import ALL, Batch, ModelOutput, OutputRequest
from llmanac.models.forward import pick, read_head, run_layers
from llmanac.models.layers import LinearMap, lookup, unfuse, upcast
from llmanac.models.lm.transformer import Transformer
from llmanac.models.quantized import Quantized
from llmanac.models.state import DecodingState
from llmanac.parallel import pipeline, tensor
from llmanac.parallel.mesh import Mesh

LENGTH = 1024  # layers are cut by the FLOPs of a token of such a row


def check(model: Any, tensor_ranks: int, stages: int) -> None:
    """Raises SpecError for a model that cannot be divided, by the flag and the name of its part."""
    flags = " and ".join(["--tensor"] * (tensor_ranks > 1) + ["--pipeline"] * (stages > 1))
    if type(model) is not Transformer:
        raise SpecError(f"{flags}: {type(model).__name__} is not a decoder of blocks; leave {flags} out")
    changed = [n for n, m in model.named_modules() if isinstance(m, LinearMap) and (m.change or m.through)]
    if changed or model.soft_prompt is not None or any(isinstance(p, Quantized) for p in model.parameters()):
        raise SpecError(f"{flags}: quantized weights and adapters are served by one process; leave {flags} out")
    if len(model.model.layers) < stages:
        raise SpecError(f"--pipeline: {len(model.model.layers)} layers are fewer than {stages} stages; use fewer")
    if tensor_ranks > 1:
        tensor.check(model, tensor_ranks, "--tensor", "use --pipeline")


def divide(model: Any, mesh: Mesh) -> Any:
    """Keep this rank's part of a model, in place; what a runner calls."""
    spec = mesh.spec
    model.requires_grad_(False)
    model.compute_dtype = model.dtype
    if spec.pipeline > 1:
        own = pipeline.cut_model(model, spec.pipeline, LENGTH)[mesh.pipeline]
        pipeline.prune(model, own, first=mesh.pipeline == 0, last=mesh.pipeline == spec.pipeline - 1)
        model.model.layers = nn.ModuleList(model.model.layers.values())
    if spec.tensor > 1:
        _divide_heads(model, mesh)
    return ServedStage(model, mesh) if spec.pipeline > 1 else model


def _divide_heads(model: Any, mesh: Mesh) -> None:
    """As `tensor.divide`, in plain tensors: nothing is differentiated, and a short product pays more for DTensor."""
    axis, rank, ranks = mesh.axis("tensor"), mesh.tensor, mesh.spec.tensor
    group = axis.get_group()

    def part(value: Tensor, side: int) -> nn.Parameter:
        return nn.Parameter(value.chunk(ranks, side)[rank].clone(), requires_grad=False)

    def summed(module: Any, inputs: Any, y: Tensor) -> Tensor:
        dist.all_reduce(y, group=group)
        return y

    def embed(self: Any, ids: Tensor) -> Tensor:
        """As `Embedding.forward`: the rows of this rank's tokens, then those of all."""
        own = ids - rank * len(self.weight)
        here = (own >= 0) & (own < len(self.weight))
        return summed(self, ids, lookup(own.where(here, 0), self.weight) * here[..., None])

    def logits(self: Any, hidden: Tensor, context: Any, state: Any = None, last: Tensor | None = None) -> Tensor:
        """As `LinearHead.logits`; every rank gets (B, T, V)."""
        own = F.linear(self.prepared(pick(hidden, last)), self.weight.to(hidden.dtype))
        found = upcast(DTensor.from_local(own, axis, [Shard(-1)], run_check=False).full_tensor())
        return found if self.softcap is None else torch.tanh(found / self.softcap) * self.softcap

    unfuse(model)
    for layer in model.model.layers:
        for name, module in layer.named_modules():
            kind: Any = module
            if name.endswith(tensor.COLUMNS):
                kind.weight = part(kind.weight, 0)
                kind.bias = None if kind.bias is None else part(kind.bias, 0)
                kind.out_features = len(kind.weight)
            elif name.endswith(tensor.ROWS):
                kind.weight = part(kind.weight, 1)
                kind.bias = None if rank else kind.bias  # once in the sum
                kind.in_features = kind.weight.shape[1]
                kind.register_forward_hook(summed)
        for name in ("heads", "kv_heads"):  # what states are made for
            setattr(layer.self_attn, name, getattr(layer.self_attn, name) // ranks)
    first, last = model.model.embed_tokens, model.lm_head
    for end, name, method in ((first, "forward", embed), (last, "logits", logits)):
        if end is not None:
            end.weight = part(end.weight, 0)
            setattr(end, name, types.MethodType(method, end))
    if first is not None and last is not None and model.spec.tied:
        last.weight = first.weight


def held(model: Any, states: Sequence[Any]) -> dict[str, int]:
    """Bytes of this rank's weights and of the states of its rows."""
    return {
        "weights": sum(p.nbytes for p in model.parameters()),
        "states": sum(s.nbytes for s in states if s is not None),
    }


class ServedStage(nn.Module):
    """Some of a Transformer's layers, as a `LanguageModel`: rank 0's gives logits, the others None."""

    def __init__(self, model: Any, mesh: Mesh) -> None:
        super().__init__()
        self.trained, self.count = model, mesh.spec.pipeline
        self.vocab_size, self.max_length, self.dtype = model.vocab_size, model.max_length, model.compute_dtype
        self.first, self.last = mesh.pipeline == 0, mesh.pipeline == self.count - 1
        column = mesh.device_mesh.mesh[:, mesh.data, mesh.tensor].tolist()  # the same heads of each stage
        self.before = None if self.first else column[mesh.pipeline - 1]
        self.after = None if self.last else column[mesh.pipeline + 1]
        self.answers = mesh.tensor == 0  # to rank 0: each rank of the last stage has all logits
        self.source = column[-1]

    def start(self, batch: int) -> DecodingState:
        """An empty state for `batch` rows of this stage's layers."""
        kinds: dict[str, Any] = {"dtype": self.dtype, "device": torch.device("cpu")}
        model = self.trained
        parts = [layer.start(batch, **kinds) for layer in model.model.layers]
        state = DecodingState([*parts, model.lm_head.start(batch, **kinds) if self.last else None], batch)
        state.by_length = model._by_length
        return state

    def forward(self, batch: Batch, state: DecodingState, want: OutputRequest = ALL) -> ModelOutput:
        """What `want` says of logits, on rank 0; the ranks of all stages call this with the same rows."""
        rows, length = batch.shape
        groups, size = [], -(-rows // min(self.count, rows))
        for begin in range(0, rows, size):
            groups.append((begin, min(begin + size, rows)))
        works = [self._group(batch, state, want, begin, end) for begin, end in groups]
        logits = None
        if self.first and self.answers:
            tokens = length if want.logits == "all" else 1
            wide = torch.float64 if self.dtype == torch.float64 else torch.float32
            logits = torch.empty(rows, tokens, self.vocab_size, dtype=wide)
            for begin, end in groups:
                dist.recv(logits[begin:end], self.source)
        for _, work in works:
            if work is not None:
                work.wait()
        return ModelOutput(logits=logits)

    def _group(self, batch: Batch, state: Any, want: OutputRequest, begin: int, end: int) -> tuple[Tensor, Any]:
        """Compute some rows and begin to send what comes out of them: it, and the sending under way."""
        model, length = self.trained, batch.shape[1]
        assert batch.ids is not None
        lengths = None if batch.lengths is None else batch.lengths[begin:end]
        own = replace(batch, ids=batch.ids[begin:end], lengths=lengths)
        part = state if (begin, end) == (0, state.batch) else state.view(begin, end)
        if self.before is None:
            x, context = model._enter(own, part)
        else:
            context = model._context(own, part, self.dtype)
            x = torch.empty(end - begin, length, model.spec.dim, dtype=self.dtype)
            dist.recv(x, self.before)
        x, _ = run_layers(model.model.layers, x, context, part.layers)
        if self.after is None:
            found = read_head(model.lm_head, model.model.norm(x), own, context, part.layers[-1], want).logits
            assert found is not None
            x = found
        part.advance(length, lengths)
        x = x.contiguous()
        if self.after is not None:
            return x, dist.isend(x, self.after)
        return x, dist.isend(x, 0) if self.answers else None
