"""Tensor parallelism: each rank computes some heads of attention and some columns of feed-forward layers.

    columns   W (outputs / n, inputs):  y_r = x W_r^T                      q, k, v, gate, up; the head by vocabulary
    rows      W (outputs, inputs / n):  y = sum_r x_r W_r^T                o, down; the embedding by vocabulary

Between a product by columns and the next by rows nothing is sent. With split activations (sequence parallelism) each
rank keeps T / n tokens of the residual stream: the sum over ranks becomes a reduce-scatter, and an all-gather comes
before the next product, the same bytes with 1 / n of the memory. The loss is computed on logits divided by vocabulary
(loss parallelism), of which only row maxima, sums and targets are sent.

Shoeybi et al. 2019, arXiv:1909.08053, section 3; Korthikanti et al. 2022, arXiv:2205.05198, section 4.2.
"""

import types
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_module, distribute_tensor
from torch.distributed.tensor.parallel import ParallelStyle, PrepareModuleInput, loss_parallel, parallelize_module

from llmanac.core.errors import SpecError
from llmanac.core.types import IGNORE
from llmanac.models.heads.linear import LinearHead
from llmanac.models.layers import LinearMap, lookup, unfuse, upcast

COLUMNS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
ROWS = ("o_proj", "down_proj")
NORMS_OF_HEADS = ("q_norm", "k_norm")
# a low-rank term s B A x of a product is divided as the product is: the side of each matrix that is cut, None for all
SIDES = {
    "columns": {"lora_A": None, "lora_B": 0, "lora_magnitude_vector": 0},
    "rows": {"lora_A": 1, "lora_B": None, "lora_magnitude_vector": None},
}

__all__ = ["check", "divide", "loss_parallel", "partial_gradients"]


def check(
    model: Any, ranks: int, flag: str = "parallel.tensor", fix: str = "use parallel.data or parallel.pipeline"
) -> None:
    """Raises SpecError that names `flag`, the part of the model which cannot be divided by `ranks`, and what to do."""
    if model.model.position.compares:
        raise SpecError(f"{flag}: {type(model.model.position).__name__} adds to scores of each head; {fix}")
    if type(model.lm_head) is not LinearHead:
        raise SpecError(f"{flag}: the head {type(model.lm_head).__name__} cannot be divided; {fix}")
    if model.lm_head.change is not None:
        raise SpecError(f"{flag}: an adapter of the head cannot be divided (lm_head); {fix}")
    if model.vocab_size % ranks:
        raise SpecError(f"{flag}: {ranks} does not divide the vocabulary of {model.vocab_size}; {fix}")
    for number, layer in enumerate(model.model.layers):
        attention = layer.self_attn
        for name, parameter in layer.named_parameters():
            *above, owner, _ = name.split(".")
            owner = above[-1] if owner in SIDES["rows"] else owner
            known = owner in COLUMNS + ROWS + NORMS_OF_HEADS or "norm" in owner
            if not known or parameter.ndim > 2:
                part = type(layer.get_submodule(name.rpartition(".")[0].partition(".")[0])).__name__
                raise SpecError(f"{flag}: {part} of layer {number} cannot be divided ({name}); {fix}")
        for what in ("heads", "kv_heads"):
            if getattr(attention, what, ranks) % ranks:
                count = getattr(attention, what)
                raise SpecError(f"{flag}: {ranks} does not divide the {count} {what} of layer {number}; {fix}")
        if getattr(attention, "q_norm", None) is not None and attention.normed[0] == 1:
            raise SpecError(f"{flag}: layer {number} norms queries over all heads; {fix}")
        if layer.position is not None and layer.position.compares:
            raise SpecError(f"{flag}: layer {number} has a bias of each head; {fix}")
        widths = {n: m.out_features for n, m in layer.named_modules() if n.rpartition(".")[2] in COLUMNS}
        for name, width in widths.items():
            if width % ranks:
                raise SpecError(f"{flag}: {ranks} does not divide the {width} columns of {name}; {fix}")


class _DividedProduct(ParallelStyle):
    """A Linear by columns or by rows; torch's own styles take nn.Linear only."""

    def __init__(self, by: Literal["columns", "rows"], outputs: Placement) -> None:
        super().__init__()
        self.by, self.outputs = by, outputs

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        enters = Replicate() if self.by == "columns" else Shard(-1)
        leaves = Shard(-1) if self.by == "columns" else self.outputs

        def split(name: str, part: Any, mesh: DeviceMesh) -> None:
            for own in [name for name, _ in part.named_parameters(recurse=False)]:
                side: int | None = 0 if self.by == "columns" else 1 if own == "weight" else None
                side = SIDES[self.by].get(name, side)
                shard_parameter(part, own, mesh, Replicate() if side is None else Shard(side))

        def enter(part: Any, inputs: Any, mesh: DeviceMesh) -> Any:
            x = inputs[0]
            return x if isinstance(x, DTensor) else DTensor.from_local(x, mesh, [enters], run_check=False)

        def leave(part: Any, y: Any, mesh: DeviceMesh) -> Any:
            return y.redistribute(placements=[leaves]).to_local()

        return distribute_module(module, device_mesh, split, enter, leave)


def shard_parameter(module: nn.Module, name: str, mesh: DeviceMesh, place: Placement) -> None:
    """Replace a parameter by its part on this rank. Nothing is sent: every rank has (or will be given) all of it."""
    old = getattr(module, name)
    if isinstance(old, DTensor):  # a matrix that several products share
        return
    new = distribute_tensor(old.detach(), mesh, [place], src_data_rank=None)
    module.register_parameter(name, nn.Parameter(new, requires_grad=old.requires_grad))


def divide(model: Any, mesh: DeviceMesh, *, split: bool) -> None:
    """Divide a Transformer, or the stage of a pipeline that is left of one, in place.

    split: whether activations between parts are split along the sequence.
    """
    unfuse(model)
    for module in model.modules():
        if isinstance(module, LinearMap) and module.change is not None:
            change: Any = module.change
            change.factors = lambda: None  # the fused form computes with plain tensors
    between: Placement = Shard(1) if split else Replicate()
    for layer in model.model.layers.values() if isinstance(model.model.layers, nn.ModuleDict) else model.model.layers:
        plan: dict[str, ParallelStyle] = {}
        for part, inputs in (("self_attn", 3), ("mlp", 2)):
            if getattr(layer, part) is not None:
                rest = (None,) * (inputs - 1)
                plan[part] = PrepareModuleInput(
                    input_layouts=(between, *rest), desired_input_layouts=(Replicate(), *rest)
                )
        for name, _ in layer.named_modules():
            last = name.rpartition(".")[2]
            if last in COLUMNS:
                plan[name] = _DividedProduct("columns", Replicate())
            elif last in ROWS:
                plan[name] = _DividedProduct("rows", between)
        parallelize_module(layer, mesh, plan)
    if split and model.model.embed_tokens is not None:
        first = next(iter(model.model.layers.children()))
        first.register_forward_pre_hook(lambda part, inputs: (_cut(inputs[0], mesh), *inputs[1:]))
    tied = model.model.embed_tokens is not None and model.lm_head is not None and model.spec.tied
    if model.model.embed_tokens is not None:
        _divide_embedding(model.model.embed_tokens, mesh)
    if model.lm_head is not None:
        shard_parameter(model.lm_head, "weight", mesh, Shard(0))
        model.lm_head.nll = types.MethodType(_nll(mesh, between), model.lm_head)
    if tied:
        model.lm_head.weight = model.model.embed_tokens.weight


def _cut(x: Tensor, mesh: DeviceMesh) -> Tensor:
    """This rank's tokens of (B, T, D); backwards the gradients of all tokens come together again."""
    return DTensor.from_local(x, mesh, [Replicate()], run_check=False).redistribute(placements=[Shard(1)]).to_local()


def _divide_embedding(embedding: nn.Module, mesh: DeviceMesh) -> None:
    """Rows of this rank's tokens, added up over ranks. The gradient is that of these rows (DTensor's is of all)."""
    shard_parameter(embedding, "weight", mesh, Shard(0))

    def forward(self: Any, ids: Tensor) -> Tensor:
        weight = self.weight.to_local(grad_placements=[Shard(0)])
        own = ids - mesh.get_local_rank() * len(weight)
        here = (own >= 0) & (own < len(weight))
        rows = lookup(own.where(here, 0), weight) * here[..., None]
        summed = DTensor.from_local(rows, mesh, [Partial()], run_check=False)
        return summed.redistribute(placements=[Replicate()]).to_local()

    embedding.forward = types.MethodType(forward, embedding)


def _nll(mesh: DeviceMesh, entering: Placement) -> Any:
    def nll(self: LinearHead, hidden: Tensor, targets: Tensor, context: Any, reduction: str) -> Tensor:
        """As `LinearHead.nll`, from logits (B, T, V / n) on each rank. Call backward under `loss_parallel` too."""
        x: Any = DTensor.from_local(hidden, mesh, [entering], run_check=False).redistribute(placements=[Replicate()])
        x = self.prepared(x)
        weight: Any = self.weight
        if not isinstance(weight, DTensor):
            weight = DTensor.from_local(weight, mesh, [Shard(0)], run_check=False)
        logits: Any = upcast(F.linear(x, weight.to(x.dtype)))
        logits = logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap
        flat = logits.flatten(0, 1)
        value: Any = F.cross_entropy(flat, targets.flatten(), ignore_index=IGNORE, reduction=reduction)
        value = value.to_local() if isinstance(value, DTensor) else value
        return value if reduction == "sum" else value.view(targets.shape)

    return nll


def partial_gradients(name: str, *, split: bool) -> bool:
    """Whether a parameter that every tensor rank holds gets a part of its gradient on each: they must be summed.

    Norms of heads see a rank's own heads; with split activations the other norms see a rank's own tokens.
    """
    owner = ("", *name.split("."))[-2]
    if owner in NORMS_OF_HEADS:
        return True
    return split and ("norm" in owner) and owner != "embed_norm"
