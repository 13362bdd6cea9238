"""What has to be settled before the first step: precision, attention form, micro-batch, compiling, and, for a time
budget, a first number of steps. No step is computed for it: the form follows from the device, the rest from what is
kept of this machine (`core.device.calibrated`). The plan is written down; a resumed run and every arm of a comparison
reuse it.

The steps of a budget are an estimate until the training's own first steps have been timed (`pace`).

A step's rows divided among threads: each computes its micro-batches alone, and gradients are added once a step.

    g = g_1 + g_2 + ...        g_i: the gradients of the micro-batches i, i + n, i + 2n, ... of n threads

As many threads as a step has work for: one, of a small step. A library divides each product among its threads and waits
for all of them, some hundred times a step; the operations of a small model are too short for that. Here a thread waits
once a step. Each has a copy of the module tree whose parameters are the model's memory with gradients of their own, so
that no two threads add to one gradient. The order of all sums is fixed: equal runs are equal bit for bit.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from llmanac.adapters.lora import LoRA
from llmanac.core.device import calibration, gemm_rate, has_compiler, resolve_dtype
from llmanac.core.errors import SpecError
from llmanac.core.files import read_table, write_json
from llmanac.core.spec import dump, make
from llmanac.core.types import LossSum, capabilities
from llmanac.data.pack import PackedRow
from llmanac.models.ffn.experts import Experts
from llmanac.models.layers import LinearMap
from llmanac.objectives import NextToken
from llmanac.train import TrainSpec
from llmanac.train.calibration import Generator, preserve_all, trial_rows
from llmanac.train.pace import Revision, as_json

LARGEST = 1 << 24  # trained numbers: a thread more takes as much memory as their gradients
LEAST_WORK = 5e8  # operations of a thread and step: below it Python's lock is waited for more than is gained


def divides(model: nn.Module, objective: Any) -> bool:
    """Whether rows may be computed by several threads at once.

    The loss must be a sum over rows that the model alone gives. What the model changes or draws in a forward pass
    (buffers, counts of experts, dropout, recomputation) would be lost, or come in an order of chance.
    """
    parameters = list(model.parameters())
    alone = type(objective).loss is NextToken.loss and not objective.models
    return (
        alone
        and all(p.device.type == "cpu" for p in parameters)
        and sum(p.numel() for p in parameters if p.requires_grad) <= LARGEST
        and set(model.state_dict(keep_vars=True))
        <= {name for name, _ in model.named_parameters(remove_duplicate=False)}
        and not ("recompute" in capabilities(model).settings and cast(Any, model).recompute != "none")
        and not any(isinstance(m, Experts) or _drops(m) for m in model.modules())
    )


def _drops(module: nn.Module) -> bool:
    adapter = module.change.transform if isinstance(module, LinearMap) and module.change is not None else None
    return (isinstance(adapter, LoRA) and adapter.spec.dropout > 0) or bool(getattr(module, "dropout", 0))


class Threads:
    """Computes the gradients of batches with `count` threads.

    Args:
        backward: adds the gradients of one batch to those of a model, and returns what the objective gave.
    """

    def __init__(self, model: nn.Module, count: int, backward: Callable[[nn.Module, Any], LossSum]) -> None:
        self.model, self.count, self.backward = model, count, backward
        self.work = 6.0 * sum(p.numel() for p in model.parameters())  # of a token
        self.others: list[nn.Module] = []  # made when they are needed
        self.trained: list[tuple[nn.Parameter, ...]] = []  # each parameter of the model, and its copies
        self.pool = ThreadPoolExecutor(count - 1, thread_name_prefix="rows")

    def of(self, rows: Sequence[Any]) -> int:
        """How many threads a step of these rows has work for; 0 where rows are too few to occupy half of them."""
        work = self.work * sum(map(_places, rows))
        wanted = max(1, min(self.count, int(work // LEAST_WORK)))
        return min(wanted, len(rows)) if 2 * len(rows) > wanted else 0

    def divided(self, rows: Sequence[Any], micro_batch: int) -> list[Sequence[Any]]:
        """Rows in micro-batches, of which all threads together compute `micro_batch` rows at a time at most."""
        pieces = -(-len(rows) // micro_batch) * self.of(rows)
        cuts = [len(rows) * i // pieces for i in range(pieces + 1)]
        return [rows[start:stop] for start, stop in itertools.pairwise(cuts) if stop > start]

    def __call__(self, batches: Sequence[Any], threads: int) -> list[LossSum]:
        """Add the gradients of all batches to the model's, by so many threads; what each gave, in their order."""
        self._follow(threads)
        parts, running = [batches[i::threads] for i in range(threads)], []
        try:
            for model, part in zip(self.others, parts[1:], strict=False):
                running.append(self.pool.submit(self._alone, model, part))
            first = self._alone(self.model, parts[0])
        finally:
            try:
                wait(running)  # also where this thread failed: nobody is still at work on the weights afterwards
            finally:
                torch.set_num_threads(self.count)
        found = [first, *(one.result() for one in running)]
        self._add(threads)
        return [found[i % threads][i // threads] for i in range(len(batches))]

    def _alone(self, model: nn.Module, batches: Sequence[Any]) -> list[LossSum]:
        torch.set_num_threads(1)  # of the calling thread
        return [self.backward(model, batch) for batch in batches]

    def _follow(self, threads: int) -> None:
        """Other threads' models are what the model is by now: its mode, and the memory of its parameters."""
        if len(self.others) < threads - 1:
            self.others += [_twin(self.model) for _ in range(threads - 1 - len(self.others))]
            trees = [self.model, *self.others]
            self.trained = [p for p in zip(*(tree.parameters() for tree in trees), strict=True) if p[0].requires_grad]
        for other in self.others:
            if other.training != self.model.training:
                other.train(self.model.training)
        for own, *copies in self.trained:
            for theirs in copies:
                theirs.grad = None  # of a step that failed
                if own.data_ptr() != theirs.data_ptr():
                    theirs.data = own.data

    def _add(self, threads: int) -> None:
        for number in range(1, threads):
            pairs = [(each[0], each[number].grad) for each in self.trained]
            for each in self.trained:
                each[number].grad = None
            first = [(own, grad) for own, grad in pairs if own.grad is None]
            more = [(own.grad, grad) for own, grad in pairs if own.grad is not None and grad is not None]
            for own, grad in first:
                own.grad = grad
            if more:
                torch._foreach_add_([to for to, _ in more], [grad for _, grad in more])


def _places(row: Any) -> int:
    """The tokens of a row: packed, a sequence of ids, or `(ids, loss mask)`."""
    ids = row.ids if isinstance(row, PackedRow) else row[0] if isinstance(row, tuple) else row
    return len(ids)


def _twin(model: nn.Module) -> nn.Module:
    """A copy of the module tree over the same memory; parameters that are trained have gradients of their own."""
    shared = {id(p): nn.Parameter(p.data, requires_grad=True) if p.requires_grad else p for p in model.parameters()}
    return copy.deepcopy(model, shared)  # what deepcopy takes as copied already


FILE = "plan.json"
MICRO_TOKENS = 8192  # tokens of a micro-batch by default: beyond this a step gains no speed and costs memory
FEWEST_TOKENS, MICRO_WORK = 1024, 4e10  # in float32 on a CPU: tokens and FLOPs beyond which only memory grows
USED = 0.27  # fraction of the measured matrix-product rate that an uncompiled training step reaches
FEWEST = 20  # steps that a budget is first taken to fit: fewer would have no warm-up if they turn out to be more
COMPILE_SECONDS = 600.0  # a run must be longer for torch.compile to pay for itself
NAMES: dict[torch.dtype, Any] = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float64: "float64"}


@dataclass(frozen=True)
class TrainingPlan:
    """A TrainSpec in which nothing is open, and what was measured for it.

    Attributes:
        spec: steps, micro_batch, dtype, attention and compile are all settled; steps as last revised.
        step_seconds: one step, by the first ones of the training; None until they are done, and without a budget.
        gemm: FLOP/s of this machine's best matrix product in that dtype.
        measured: what was decided from what; `estimated_steps` where a budget decides the steps.
        revisions: changes of the number of steps while the training ran (`pace`), in their order.
        ended: whether the last step was done: nothing is revised any more, also where it is computed again.
    """

    spec: TrainSpec
    step_seconds: float | None = None
    gemm: float | None = None
    measured: dict[str, Any] = field(default_factory=dict)
    revisions: tuple[Revision, ...] = ()
    ended: bool = False

    @property
    def first_steps(self) -> int:
        """The number of steps before any revision: what the schedule is built for."""
        return self.revisions[0].before if self.revisions else self.spec.steps or 0

    @property
    def last(self) -> int:
        """The number of steps as last revised."""
        return self.spec.steps or 0

    @property
    def settled_at(self) -> float:
        """The step from which an estimate of the steps was replaced; 0 where there was none, infinite before that."""
        if "estimated_steps" not in self.measured:
            return 0
        return self.revisions[0].step if self.revisions else math.inf

    @property
    def checkpoint_every(self) -> int:
        """Steps between checkpoints. Only the end of an estimate moves them: a run done again has the same ones."""
        steps = self.revisions[0].steps if self.revisions and self.settled_at else self.first_steps
        return self.spec.checkpoint_every or max(1, steps // 10)

    @property
    def open(self) -> bool:
        """Whether the number of steps came from a budget, and may still be revised."""
        return "budget_seconds" in self.measured and not self.ended

    def revise(self, revision: Revision) -> TrainingPlan:
        """The plan with one revision more."""
        spec = dataclasses.replace(self.spec, steps=revision.steps)
        seconds = self.step_seconds or revision.step_seconds
        return dataclasses.replace(self, spec=spec, step_seconds=seconds, revisions=(*self.revisions, revision))

    def save(self, folder: Path) -> None:
        """Write plan.json."""
        own = {"step_seconds": self.step_seconds, "gemm": self.gemm, "measured": self.measured}
        later = {"revisions": [as_json(r) for r in self.revisions], "ended": self.ended}
        write_json(folder / FILE, {"train": dump(self.spec), **own, **later})

    @staticmethod
    def made(folder: Path) -> bool:
        """Whether a training in this folder was planned, and so may have begun."""
        return (folder / FILE).is_file()

    @classmethod
    def read(cls, folder: Path) -> TrainingPlan | None:
        """The plan in a folder; None where there is none."""
        if not cls.made(folder):
            return None
        data = read_table(folder / FILE)
        return cls(
            make(TrainSpec, data["train"], "train"), data["step_seconds"], data["gemm"], data["measured"],
            tuple(Revision(**r) for r in data.get("revisions", ())), data.get("ended", False),
        )  # fmt: skip


def plan(
    model: nn.Module,
    source: Any,
    objective: Any,
    spec: TrainSpec,
    *,
    budget: float | None = None,
    generators: Mapping[str, Generator] | None = None,
    device: torch.device | None = None,
) -> TrainingPlan:
    """Settle a TrainSpec; the models, the objective, the source and all random states stay as they were.

    Args:
        budget: seconds that the training may take; decides `steps` where the spec leaves them open, and makes them
            revisable where it does not.
        generators: further generators that the source or the model draws from, besides the objective's.
        device: where steps are computed, if not where the model is.

    Raises:
        SpecError: neither steps nor a budget.
    """
    if spec.steps is None and budget is None:
        raise SpecError("train.steps: set it, or give a time budget (--budget 5m)")
    start = time.perf_counter()
    device = device or next(model.parameters()).device
    spec = settled_numerics(spec, device)
    if spec.micro_batch is None:
        with preserve_all(model, objective, generators), trial_rows(source) as draw:
            rows = len(draw())
        alone = default_micro_batch(rows, spec.length, micro_tokens(model, spec, device))
        spec = dataclasses.replace(spec, micro_batch=rows if objective.couples_batch else alone)
    gemm = gemm_rate(resolve_dtype(spec.dtype), device)
    a_step = spec.batch_tokens * flops_per_token(model, spec.length) / (USED * gemm)
    measured: dict[str, Any] = {"calibration": str(calibration())}
    if budget is not None:
        measured["budget_seconds"] = budget
        if spec.steps is None:
            measured["estimated_steps"] = max(FEWEST, int(budget / a_step))
            spec = dataclasses.replace(spec, steps=measured["estimated_steps"])
    if spec.compile == "auto":
        alone = torch.get_num_threads() > 1 and divides(model, objective)  # as fast as what compiling gives
        long = (budget or (spec.steps or 0) * a_step) > COMPILE_SECONDS and not alone
        can = has_compiler(device)
        spec = dataclasses.replace(spec, compile="always" if long and can else "never")
        if long and not can:
            measured["wants_compiler"] = True  # compiling would have been worth it: `train` says so
    measured["threads"] = torch.get_num_threads()
    measured["planning_seconds"] = round(time.perf_counter() - start, 3)
    return TrainingPlan(spec, None, gemm, measured)


def settled_numerics(spec: TrainSpec, device: torch.device) -> TrainSpec:
    """The dtypes of this machine and the attention form of its kind of device, where these are open.

    Nothing is timed on the model, which would give the same command other numbers: forms agree to within rounding.
    """
    form: Any = "blocks" if device.type == "cpu" else "sdpa"
    return dataclasses.replace(
        spec,
        dtype=NAMES[resolve_dtype(spec.dtype, device)],
        attention=form if spec.attention == "auto" else spec.attention,
        optimizer=spec.optimizer.settle(device),
    )


def flops_per_token(model: Any, length: int) -> float:
    """What the model counts, or 6 a parameter."""
    if capabilities(model).counts_flops:
        return float(model.flops_per_token(length))
    return 6.0 * sum(p.numel() for p in model.parameters())


def micro_tokens(model: Any, spec: TrainSpec, device: torch.device) -> int:
    """Tokens of a micro-batch where nothing else is asked for. A float32 step is no faster with more of them at a time
    than its products need, and what it keeps for its gradients is twice a bfloat16 one's."""
    if device.type != "cpu" or spec.dtype != "float32":
        return MICRO_TOKENS
    return min(MICRO_TOKENS, max(FEWEST_TOKENS, int(MICRO_WORK / flops_per_token(model, spec.length))))


def default_micro_batch(rows: int, length: int, tokens: int = MICRO_TOKENS) -> int:
    """Rows that are computed at a time where nothing else is asked for, of a step of `rows` of `length` tokens."""
    return max(1, min(rows, tokens // length))


def set_attention(model: nn.Module, form: str) -> None:
    """Tell a model that has the choice which attention form to use."""
    if "attention_form" in capabilities(model).settings and form != "auto":
        setattr(model, "attention_form", form)  # noqa: B010 - a Module's attributes are typed as tensors


def set_recompute(model: nn.Module, what: str) -> None:
    """Tell a model of blocks what its backward pass computes again. Raises SpecError for one without the choice."""
    if "recompute" in capabilities(model).settings:
        setattr(model, "recompute", what)  # noqa: B010 - a Module's attributes are typed as tensors
    elif what != "none":
        raise SpecError(f"train.recompute: {type(model).__name__} cannot compute its blocks again; leave it out")
