"""Pipeline parallelism: each rank has some of the layers, and micro-batches follow each other through the ranks.

With p ranks, m micro-batches, v stages a rank and a backward pass of twice the forward's time, ranks wait for

    GPipe, 1F1B    (p - 1) / (m + p - 1)               Huang et al. 2019; Narayanan et al. 2019
    interleaved    (p - 1) / (v m + p - 1)             Narayanan et al. 2021, arXiv:2104.04473, section 2.2
    zero-bubble    (p - 1) / (6 m + p - 1)             Qi et al. 2024, arXiv:2401.10241: the V of two stages a rank,
                                                       the backward pass in two halves, of inputs and of weights

of a step, interleaved from m = p on and zero-bubble from m = (3 p - 1) / 2 on. torch's order of zero-bubble is that of
at least 2 p - 1 micro-batches; those that are not there leave holes, so that with fewer ranks wait for
2 (2 p - 1 - m) half stages instead of p - 1 (interleaved: 2 p - 1 - m instead of p - 1).

1F1B has GPipe's bubble and holds p micro-batches of activations where GPipe holds m. The schedules are those of
torch.distributed.pipelining; layers are cut so that the largest stage has the fewest counted FLOPs.
"""

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, schedules

from llmanac.core.errors import SpecError
from llmanac.core.types import Batch
from llmanac.models.ffn.experts import Experts
from llmanac.models.forward import run_layers
from llmanac.models.lm.transformer import Transformer
from llmanac.parallel import ParallelSpec

CLASSES: dict[str, Any] = {
    "gpipe": schedules.ScheduleGPipe,
    "1f1b": schedules.Schedule1F1B,
    "interleaved": schedules.ScheduleInterleaved1F1B,
    "zero-bubble": schedules.ScheduleZBVZeroBubble,
}


def check(model: Any, spec: ParallelSpec) -> None:
    """Raises SpecError for a model that cannot be cut into stages."""
    if type(model) is not Transformer:
        raise SpecError(f"parallel.pipeline: {type(model).__name__} is not a decoder of blocks; use parallel.data")
    if len(model.model.layers) < spec.stages:
        raise SpecError(
            f"parallel.pipeline: {len(model.model.layers)} layers are fewer than the {spec.stages} stages; use fewer "
            "ranks, or a schedule with one stage a rank"
        )
    if model.lm_head.remembers or (model.model.position.compares and any(model.model.position.parameters())):
        raise SpecError("parallel.pipeline: a head that looks back or learned biases are read by every stage")
    for number, layer in enumerate(model.model.layers):
        if isinstance(layer.mlp, Experts):
            raise SpecError(
                f"parallel.pipeline: the experts of layer {number} have a loss of their own, which a stage cannot "
                "pass on; use parallel.data"
            )


def check_trained(model: Any, spec: ParallelSpec, length: int) -> None:
    """Raises SpecError for a stage in which all parameters are frozen: its backward pass would have nothing to do."""
    trained = {
        int(n.split(".")[2]) for n, p in model.model.named_parameters("model") if p.requires_grad and "layers." in n
    }
    for stage, layers in enumerate(cut_model(model, spec.stages, length)):
        if not trained & set(layers):
            raise SpecError(
                f"parallel.pipeline: nothing is trained in layers {layers.start} to {layers.stop - 1}, which are stage "
                f"{stage}; use parallel.data or parallel.tensor"
            )


def cut(costs: Sequence[float], last: float, stages: int) -> list[range]:
    """Layers in consecutive groups so that the costliest group is as cheap as can be; `last` is added to the last one.

    Among equals the earlier groups are the larger ones.
    """
    n = len(costs)
    sums = [0.0]
    for cost in costs:
        sums.append(sums[-1] + cost)
    best = {(1, begin): (sums[n] - sums[begin] + last, n) for begin in range(n)}
    for count in range(2, stages + 1):
        for begin in range(n - count + 1):
            ends = range(begin + 1, n - count + 2)
            options = [(max(sums[end] - sums[begin], best[count - 1, end][0]), -end) for end in ends]
            value, end = min(options)
            best[count, begin] = (value, -end)
    out, begin = [], 0
    for count in range(stages, 0, -1):
        end = best[count, begin][1]
        out.append(range(begin, end))
        begin = end
    return out


def cut_model(model: Any, stages: int, length: int) -> list[range]:
    """The layers of each stage, by FLOPs of a row of `length`."""
    keys = (length + 1) / 2
    costs = [float(layer.flops(keys, model.model.position)) for layer in model.model.layers]
    return cut(costs, float(model.lm_head.flops(keys)), stages)


def stages_of(schedule: str, rank: int, ranks: int) -> list[int]:
    """The numbers of a rank's stages."""
    if schedule == "interleaved":
        return [rank, rank + ranks]
    if schedule == "zero-bubble":  # a V: the first and the last stage are on one rank
        return [rank, 2 * ranks - 1 - rank]
    return [rank]


def prune(model: Any, layers: range, *, first: bool, last: bool) -> None:
    """Leave of a Transformer what one stage computes; parameters keep their names."""
    kept = {str(number): layer for number, layer in enumerate(model.model.layers) if number in layers}
    model.model.layers = nn.ModuleDict(kept)
    if not first:
        model.model.embed_tokens = model.model.embed_norm = None
        for parameter in model.model.position.parameters():
            parameter.requires_grad_(False)
    if not last:
        model.model.norm = model.lm_head = None


class StageModule(nn.Module):
    """One stage: token ids or (B, T, D) -> (B, T, D), or on the last one the summed loss (1,)."""

    def __init__(self, model: Any, *, first: bool, last: bool, twice: bool) -> None:
        super().__init__()
        self.trained, self.first, self.last, self.twice = model, first, last, twice

    def forward(self, x: Tensor, *, targets: Tensor, **fields: Tensor) -> Tensor:
        """x of one micro-batch, with its `Batch` fields."""
        model = self.trained
        if self.first:
            batch = Batch(ids=x, targets=targets, **fields)  # type: ignore[arg-type]
            x, context = model._enter(batch, None)
        else:
            batch = Batch(ids=targets, targets=targets, **fields)  # type: ignore[arg-type]
            context = model._context(batch, None, x.dtype)
        x, _ = run_layers(model.model.layers.values(), x, context, None, (), model.recompute)
        if not self.last:
            return x
        # a backward pass in two halves runs through the loss twice, which that of a sum cannot
        reduction = "none" if self.twice else "sum"
        nll: Tensor = model.lm_head.nll(model.model.norm(x), targets, context, reduction)
        return nll.sum().reshape(1)


class PipelineRunner:
    """Computes steps through the stages of this rank."""

    def __init__(
        self, stages: Mapping[int, nn.Module], spec: ParallelSpec, group: Any, device: torch.device, width: int
    ) -> None:
        self.stages, self.spec, self.group, self.device, self.width = dict(stages), spec, group, device, width
        self.count = spec.stages
        self._made: dict[tuple[int, ...], Any] = {}

    def __call__(self, batch: Batch, micro: int, dtype: torch.dtype) -> Tensor:
        """Add the gradients of the summed loss of `batch`; the sum () on the rank of the last stage, else 0."""
        rows, length = batch.shape
        parts = rows // micro
        key = (rows, length, micro)
        if key not in self._made:
            self._made = {key: self._schedule(micro, length, parts, dtype)}
        assert batch.ids is not None and batch.targets is not None
        fields = {n: v for n in ("segments", "positions", "lengths") if (v := getattr(batch, n)) is not None}
        if "positions" in fields:
            fields["positions"] = fields["positions"].expand(rows, -1).contiguous()
        losses: list[Tensor] = []
        given = (batch.ids,) if 0 in self.stages else ()
        ends = {"target": batch.targets, "losses": losses} if self.count - 1 in self.stages else {}
        self._made[key].step(*given, targets=batch.targets, **fields, **ends)
        return torch.stack([loss.detach() for loss in losses]).sum() if losses else torch.zeros((), device=self.device)

    def _schedule(self, micro: int, length: int, parts: int, dtype: torch.dtype) -> Any:
        ids = torch.empty(micro, length, dtype=torch.long, device="meta")
        tokens = length // self.spec.tensor if self.spec.activations == "split" else length
        between = torch.empty(micro, tokens, self.width, dtype=dtype, device="meta", requires_grad=True)
        loss = torch.empty(
            1, dtype=torch.float64 if dtype == torch.float64 else torch.float32, device="meta", requires_grad=True
        )
        made = [
            PipelineStage(
                module, number, self.count, self.device, input_args=ids if number == 0 else between,
                output_args=loss if number == self.count - 1 else between, group=self.group,
            )
            for number, module in self.stages.items()
        ]  # fmt: skip
        several = self.spec.stages > self.spec.pipeline
        return CLASSES[self.spec.schedule](
            made if several else made[0], n_microbatches=parts, loss_fn=lambda y, target: y.sum(), scale_grads=False
        )


def order(schedule: str, ranks: int, micro_batches: int) -> dict[int, list[Any]]:
    """torch's list of actions of each rank; None in it is a place where the rank waits."""
    count = 2 * ranks if schedule in ("interleaved", "zero-bubble") else ranks
    stub = types.SimpleNamespace(
        group_size=ranks, group_rank=0, num_stages=count, stage_index=0, is_first=True, is_last=False,
        has_backward=True, group=None, device=torch.device("cpu"), submod=None, stage_index_to_group_rank={},
    )  # fmt: skip
    several = count > ranks
    stages = [types.SimpleNamespace(**{**vars(stub), "stage_index": n}) for n in stages_of(schedule, 0, ranks)]
    made = CLASSES[schedule](stages if several else stages[0], n_microbatches=micro_batches)
    found: dict[int, list[Any]] = made.pipeline_order
    return found


@dataclass(frozen=True)
class Action:
    """What a rank does from `begin` to `end`: F a forward pass, B a backward one, I and W its halves."""

    rank: int
    kind: str
    stage: int
    micro_batch: int
    begin: float
    end: float


def trace(schedule: str, ranks: int, micro_batches: int) -> list[Action]:
    """When each action takes place, by torch's order of actions.

    A forward pass of a rank's layers takes one unit and a backward pass two, one for inputs and one for weights; an
    action begins once the rank is free and the neighbours' results are there.
    """
    count = 2 * ranks if schedule in ("interleaved", "zero-bubble") else ranks
    each = ranks / count
    cost = {"F": each, "B": 2 * each, "I": each, "W": each}
    kinds = {rank: _numbered(row) for rank, row in order(schedule, ranks, micro_batches).items()}
    done: dict[tuple[str, int, int], float] = {}
    free = dict.fromkeys(kinds, 0.0)
    place = dict.fromkeys(kinds, 0)
    found: list[Action] = []
    moved = True
    while moved:
        moved = False
        for rank, row in kinds.items():
            while place[rank] < len(row):
                kind, stage, micro = row[place[rank]]
                if kind in cost:
                    ready = _ready(done, kind, stage, micro, count)
                    if ready is None:
                        break
                    begin = max(free[rank], ready)
                    free[rank] = begin + cost[kind]
                    done["B" if kind == "I" else kind, stage, micro] = free[rank]
                    found.append(Action(rank, kind, stage, micro, begin, free[rank]))
                place[rank], moved = place[rank] + 1, True
    return found


def bubble(schedule: str, ranks: int, micro_batches: int) -> float:
    """The share of a step that a rank waits, on average, of `trace`."""
    return 1 - 3 * micro_batches / max(action.end for action in trace(schedule, ranks, micro_batches))


def most_kept(schedule: str, ranks: int, micro_batches: int) -> list[int]:
    """For each rank: the most passes through one of its stages that wait for their backward pass at a time."""
    kept, most = [0] * ranks, [0] * ranks
    for action in trace(schedule, ranks, micro_batches):  # of each rank in its order
        kept[action.rank] += {"F": 1, "I": 0}.get(action.kind, -1)
        most[action.rank] = max(most[action.rank], kept[action.rank])
    return most


def _numbered(row: Sequence[Any]) -> list[tuple[str, int, int]]:
    """(kind, stage, micro-batch) of a rank's actions, each kind of a stage in the order of micro-batches.

    Counted, not read: torch 2.13's order of 1F1B gives the last rank's forward passes numbers that are one too high,
    while what it runs is right.
    """
    seen: dict[tuple[str, int], int] = {}
    out = []
    for action in row:
        if action is not None:
            key = (action.computation_type.value, action.stage_index)
            out.append((*key, seen.get(key, 0)))
            seen[key] = seen.get(key, 0) + 1
    return out


def _ready(done: Mapping[Any, float], kind: str, stage: int, micro: int, count: int) -> float | None:
    """When what an action reads is there; None where it is not known yet."""
    if kind == "F":
        return 0.0 if stage == 0 else done.get(("F", stage - 1, micro))
    if kind == "W":
        return done.get(("B", stage, micro))
    return done.get(("F", stage, micro) if stage == count - 1 else ("B", stage + 1, micro))


def formula(schedule: str, ranks: int, micro_batches: int) -> float:
    """The share of a step that ranks wait, in closed form."""
    times = {"gpipe": 1, "1f1b": 1, "interleaved": 2, "zero-bubble": 6}[schedule]
    missing = 2 * ranks - 1 - micro_batches
    waits = max(ranks - 1, {"interleaved": 1, "zero-bubble": 2}.get(schedule, 0) * missing)
    return waits / (times * micro_batches + waits)
