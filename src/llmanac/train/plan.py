"""What has to be measured before the first step: precision, attention form, micro-batch, compiling, and, for a time
budget, the number of steps. The plan is written down; a resumed run and every arm of a comparison reuse it, so that no
result depends on how busy the machine is when it is computed again.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llmanac.core.device import has_compiler, measure_gemm, resolve_dtype
from llmanac.core.errors import SpecError
from llmanac.core.files import read_table, write_json
from llmanac.core.spec import dump, make
from llmanac.train import TrainSpec
from llmanac.train._calibration import preserve_all, trial_rows
from llmanac.train._random import Generator
from llmanac.train._step import Stepper
from llmanac.train._trained import optimized, trained_modules
from llmanac.train.autotune import attention_form, synchronize
from llmanac.train.pace import SPARE, Revision, as_json

FILE = "plan.json"
MICRO_TOKENS = 8192  # tokens of a micro-batch by default: beyond this a step gains no speed and costs memory
CALIBRATION_STEPS = 5
CALIBRATION_SECONDS = 3.0  # for each of the two measurements, at most
CALIBRATION_SHARE = 0.05  # of a budget, likewise
COMPILE_SECONDS = 600.0  # a run must be longer for torch.compile to pay for itself
NAMES: dict[torch.dtype, Any] = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float64: "float64"}


@dataclass(frozen=True)
class Plan:
    """A TrainSpec in which nothing is open, and what was measured for it.

    Attributes:
        spec: steps, micro_batch, dtype, attention and compile are all settled; steps as last revised.
        step_seconds: one step, measured, uncompiled; None where nothing had to be measured.
        gemm: FLOP/s of this machine's best matrix product in that dtype.
        measured: seconds of each attention form, notes on what was decided.
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
    def checkpoint_every(self) -> int:
        """Steps between checkpoints. No revision moves them: a run done again stops at the same ones."""
        return self.spec.checkpoint_every or max(1, self.first_steps // 10)

    @property
    def open(self) -> bool:
        """Whether the number of steps came from a budget, and may still be revised."""
        return "budget_seconds" in self.measured and not self.ended

    def revise(self, revision: Revision) -> Plan:
        """The plan with one revision more."""
        spec = dataclasses.replace(self.spec, steps=revision.steps)
        return dataclasses.replace(self, spec=spec, revisions=(*self.revisions, revision))

    def save(self, folder: Path) -> None:
        """Write plan.json."""
        own = {"step_seconds": self.step_seconds, "gemm": self.gemm, "measured": self.measured}
        later = {"revisions": [as_json(r) for r in self.revisions], "ended": self.ended}
        write_json(folder / FILE, {"train": dump(self.spec), **own, **later})

    @classmethod
    def read(cls, folder: Path) -> Plan | None:
        """The plan in a folder; None where there is none."""
        if not (folder / FILE).is_file():
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
    folder: Path | None = None,
    generators: Mapping[str, Generator] | None = None,
) -> Plan:
    """Settle a TrainSpec by measuring; the models, the objective, the source and all random states stay as they were.

    Measured are the rows of the source's `sample_rows`, where it has that; then a step's seconds leave out what its
    rows cost, and a budget is kept by later revisions (`pace`). Other sources are drawn from and restored.

    Args:
        budget: seconds that the training may take; decides `steps` where the spec leaves them open, and makes them
            revisable where it does not.
        generators: further generators that the source or the model draws from, besides the objective's.

    Raises:
        SpecError: neither steps nor a budget, or a budget too small for a single step.
    """
    if spec.steps is None and budget is None:
        raise SpecError("train.steps: set it, or give a time budget (--budget 5m)")
    start = time.perf_counter()
    device = next(model.parameters()).device
    dtype = resolve_dtype(spec.dtype, device)
    limit = CALIBRATION_SECONDS if budget is None else min(CALIBRATION_SECONDS, CALIBRATION_SHARE * budget)
    modules = trained_modules(model, objective)
    with preserve_all(model, objective, generators), trial_rows(source) as draw:
        rows = draw()
        couples = getattr(objective, "couples_batch", False)
        micro = spec.micro_batch or (len(rows) if couples else default_micro_batch(len(rows), spec.length))
        spec = dataclasses.replace(spec, micro_batch=micro, dtype=NAMES[dtype])
        spec = dataclasses.replace(spec, optimizer=spec.optimizer.settle(device))
        optimizer = spec.optimizer.build(model=optimized(modules))
        stepper = Stepper(
            model, objective, optimizer, micro_batch=micro, clip=spec.clip, dtype=dtype, folder=folder or Path()
        )
        modules.train()
        set_recompute(model, spec.recompute)
        measured: dict[str, Any] = {}
        if spec.attention == "auto":
            form, seconds = attention_form(model, stepper, rows, seconds=limit)
            spec = dataclasses.replace(spec, attention=form)
            measured["attention_seconds"] = seconds
        set_attention(model, spec.attention)
        seconds_a_step = None
        if spec.steps is None or spec.compile == "auto":
            seconds_a_step = _step_seconds(stepper, draw, rows, limit)
    gemm = _gemm(dtype, device) if dtype in (torch.float32, torch.bfloat16) else None
    if spec.steps is None and budget is not None and seconds_a_step is not None:
        left = SPARE * budget - (time.perf_counter() - start)
        steps = int(left / seconds_a_step)
        if steps < 1:
            raise SpecError(
                f"budget: {budget:.0f} s is too little: measuring took {time.perf_counter() - start:.1f} s, one step "
                f"takes {seconds_a_step:.1f} s; give more time or lower train.batch_tokens"
            )
        spec = dataclasses.replace(spec, steps=steps)
    if budget is not None:
        measured["budget_seconds"] = budget
    if spec.compile == "auto":
        long = seconds_a_step is not None and (spec.steps or 0) * seconds_a_step > COMPILE_SECONDS
        can = has_compiler(device)
        spec = dataclasses.replace(spec, compile="always" if long and can else "never")
        if long and not can:
            measured["wants_compiler"] = True  # compiling would have been worth it: `train` says so
    measured["threads"] = torch.get_num_threads()
    measured["planning_seconds"] = round(time.perf_counter() - start, 3)
    return Plan(spec, seconds_a_step, gemm, measured)


def default_micro_batch(rows: int, length: int) -> int:
    """Rows that are computed at a time where nothing else is asked for, of a step of `rows` of `length` tokens."""
    return max(1, min(rows, MICRO_TOKENS // length))


@functools.cache
def _gemm(dtype: torch.dtype, device: torch.device) -> float:
    """The machine's best matrix-product rate, measured once a process: a comparison makes dozens of short trainings."""
    return measure_gemm(dtype, device)


def set_attention(model: nn.Module, form: str) -> None:
    """Tell a model that has the choice which attention form to use."""
    if hasattr(model, "attention_form") and form != "auto":
        setattr(model, "attention_form", form)  # noqa: B010 - a Module's attributes are typed as tensors


def set_recompute(model: nn.Module, what: str) -> None:
    """Tell a model of blocks what its backward pass computes again. Raises SpecError for one without the choice."""
    if hasattr(model, "recompute"):
        setattr(model, "recompute", what)  # noqa: B010 - a Module's attributes are typed as tensors
    elif what != "none":
        raise SpecError(f"train.recompute: {type(model).__name__} cannot compute its blocks again; leave it out")


def _step_seconds(stepper: Stepper, draw: Callable[[], Any], rows: Any, limit: float) -> float:
    """The median of a few complete steps at learning rate 0, which leaves every weight as it is."""
    taken: list[float] = []
    stop = time.perf_counter() + limit
    while len(taken) < 2 or (len(taken) <= CALIBRATION_STEPS and time.perf_counter() < stop):
        start = time.perf_counter()
        stepper(rows, 0.0, 0)
        rows = draw()
        synchronize(stepper.device)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])  # the first one allocates
