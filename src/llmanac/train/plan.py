"""What has to be settled before the first step: precision, attention form, micro-batch, compiling, and, for a time
budget, a first number of steps. No step is computed for it: the form follows from the device, the rest from what is
kept of this machine (`core.device.calibrated`). The plan is written down; a resumed run and every arm of a comparison
reuse it.

The steps of a budget are an estimate until the training's own first steps have been timed (`pace`).
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llmanac.core.device import calibration, gemm_rate, has_compiler, resolve_dtype
from llmanac.core.errors import SpecError
from llmanac.core.files import read_table, write_json
from llmanac.core.spec import dump, make
from llmanac.core.types import capabilities
from llmanac.train import TrainSpec
from llmanac.train.calibration import Generator, preserve_all, trial_rows
from llmanac.train.pace import Revision, as_json
from llmanac.train.threads import divides

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
) -> TrainingPlan:
    """Settle a TrainSpec; the models, the objective, the source and all random states stay as they were.

    Args:
        budget: seconds that the training may take; decides `steps` where the spec leaves them open, and makes them
            revisable where it does not.
        generators: further generators that the source or the model draws from, besides the objective's.

    Raises:
        SpecError: neither steps nor a budget.
    """
    if spec.steps is None and budget is None:
        raise SpecError("train.steps: set it, or give a time budget (--budget 5m)")
    start = time.perf_counter()
    device = next(model.parameters()).device
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
