"""The one training loop. Pretraining, fine-tuning and everything else differ in source and objective only."""

import dataclasses
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llmanac.core.device import has_compiler, resolve_dtype
from llmanac.core.errors import SpecError
from llmanac.core.progress import progress
from llmanac.core.spec import dump, flatten
from llmanac.core.types import capabilities
from llmanac.models.compiling import NO_COMPILER, compile_model
from llmanac.train import TrainSpec, pace
from llmanac.train._signals import give_back_freed_memory, interruptible, keep_freed_memory
from llmanac.train._trained import FinishedTraining, under
from llmanac.train.calibration import Generator, capture, preserve_random_state, restore, seed_everything
from llmanac.train.checkpoint import SLICES, Checkpoint, Checkpoints
from llmanac.train.metrics import MetricsLog
from llmanac.train.plan import TrainingPlan, plan, set_attention, set_recompute
from llmanac.train.step import Stepper, StepResult

Evaluate = Callable[[Any], Mapping[str, float]]
MAY_CHANGE = ("keep", "checkpoint_every", "recompute", "trackers")  # fields that do not change what is computed


@dataclass(frozen=True)
class TrainResult:
    """What a training did.

    Attributes:
        spec: the TrainSpec with nothing open: planned steps, dtype, attention form.
        loss: mean loss of the last step in nats a unit; None where no step was left to do.
        best: `{"step", "value"}` of the watched metric, where there was an evaluation.
        seconds, tokens: over all sessions of the run.
        mfu: counted FLOPs a second over the measured rate of this machine's matrix product; None where not known.
        checkpoint: folder of the last checkpoint.
    """

    folder: Path
    plan: TrainingPlan
    steps: int
    loss: float | None
    best: dict[str, Any] | None
    tokens: int
    seconds: float
    tokens_per_second: float | None
    mfu: float | None
    checkpoint: Path
    evaluated: dict[str, float] = field(default_factory=dict)

    @property
    def spec(self) -> TrainSpec:
        return self.plan.spec


def train(
    model: nn.Module, source: Any, objective: Any, spec: TrainSpec, folder: str | Path, *, seed: int,
    resume: bool = True, evaluate: Evaluate | None = None, evaluate_every: int | None = None, watch: str = "loss",
    budget: float | None = None, generators: Mapping[str, Generator] | None = None, label: str = "train",
    report: Callable[[str], object] | None = None, team: Any = None,
    saved: Callable[[int, int], object] | None = None, patience: int | None = None,
) -> TrainResult:  # fmt: skip
    """Train a model in place; the folder gets plan.json, metrics.jsonl, checkpoints/ and a folder a tracker.

    Args:
        model: on its device, weights as they are to start with (`model.initialise(seed)` is the caller's). With a
            `team` it may be without memory (device meta): each rank draws or reads its part, and no process has all.
        source: gives the rows of one step at a time and can be resumed (`core.types.Source`: `PackedStream`, ...).
        objective: collates rows and gives the summed loss.
        budget: seconds that all of it may take, planning and every session. Decides `steps` before the first step where
            the spec leaves them open. A training that will not end in it, or long before, takes fewer or more steps
            from then on (`pace`); give no budget where stated steps are to be kept.
        evaluate: called with the model in evaluation mode; its numbers go to the metrics, `watch` (lower is better)
            decides the best checkpoint. It does not move any random state of the training.
        evaluate_every: steps between evaluations; by default those between checkpoints.
        generators: further random generators that the source or the model draws from; checkpointed by name.
        report: what a message for the user is given to; standard error by default.
        team: the ranks that compute the steps (`train.team.Team`); by default this process alone.
        saved: called after each checkpoint with its step and the number of steps.
        patience: evaluations without a better one after which it ends; the model then is that of the best.

    Raises:
        SpecError: settings that cannot be met, or a folder that holds another run.
        TrainingError: a loss or gradient that is not finite; the batch is saved.
        CheckpointError: checkpoints are there but none can be used.
        LlmanacError: the disk refused a write; older checkpoints are whole.
        KeyboardInterrupt: after Ctrl-C; a checkpoint of the last complete step was saved first.
    """
    keep_freed_memory()
    run = _TrainingRun(model, source, objective, Path(folder), seed, generators, watch, report, team)
    run.saved, run.patience = saved or run.saved, patience
    with preserve_random_state():
        return run.train(spec, resume, evaluate, evaluate_every, budget, label)


class _TrainingRun:
    """One call of `train`: its inputs and its progress."""

    def __init__(
        self,
        model: nn.Module,
        source: Any,
        objective: Any,
        folder: Path,
        seed: int,
        generators: Mapping[str, Generator] | None,
        watch: str,
        report: Callable[[str], object] | None,
        team: Any = None,
    ) -> None:
        self.team = team
        self.model, self.source, self.objective, self.folder = model, source, objective, folder
        self.seed, self.watch = seed, watch
        self.report = report or (lambda text: print(text, file=sys.stderr))
        self.generators = {**(generators or {}), **objective.generators}
        missing = [name for name in ("state", "restore") if not hasattr(source, name)]
        if missing:
            raise SpecError(
                f"source: {type(source).__name__} has no {missing[0]}(); a source has __next__, state and restore, so "
                "that a training can be resumed (see core/types.py)"
            )
        self.trained = FinishedTraining(model, objective)
        self.step = self.tokens = self.saved_at = 0
        self.seconds = self.spent = 0.0
        self.began = pace.now()
        self.best: dict[str, Any] | None = None
        self.evaluated: dict[str, float] = {}
        self.saved: Callable[[int, int], object] = lambda step, steps: None
        self.patience: int | None = None

    def train(
        self,
        spec: TrainSpec,
        resume: bool,
        evaluate: Evaluate | None,
        evaluate_every: int | None,
        budget: float | None,
        label: str,
    ) -> TrainResult:
        seed_everything(self.seed)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.checkpoints = checkpoints = Checkpoints(self.folder / "checkpoints", keep=spec.keep, report=self.report)
        away = self.team is not None and next(self.model.parameters()).is_meta  # ranks read their parts by themselves
        if away and evaluate is not None:
            raise SpecError("evaluate: the model is without memory; evaluate its checkpoint on a device that has it")
        found = checkpoints.latest(slices=not away) if resume else None
        if not resume and checkpoints.steps():
            checkpoints.clear()
        made = self._plan(spec, resume, found.step if found else None, budget)
        trackers, spec = spec.trackers, made.spec
        set_attention(self.model, spec.attention)
        set_recompute(self.model, spec.recompute)
        self.optimizer = spec.optimizer.build(model=self.trained.optimized)
        planned = spec.schedule.build(steps=made.first_steps)
        schedule = pace.revised(planned, made.first_steps, made.revisions)
        stepper: Any = Stepper(
            self.model, self.objective, self.optimizer, micro_batch=spec.micro_batch or spec.rows, clip=spec.clip,
            dtype=resolve_dtype(spec.dtype), folder=self.folder,
            threads=1 if spec.compile == "always" else torch.get_num_threads(),
        )  # fmt: skip
        if self.team is not None:
            stepper = self.optimizer = self.team.stepper(
                self.model, self.objective, spec, folder=self.folder, seed=self.seed
            )
        if found:
            self._take(found, spec)
        if self.team is None:
            self._compile(spec)
        self.trained.modules.train()
        flops = _flops_per_token(self.model, spec.length)
        result, rate, steps = None, pace.Rate(), spec.steps or 0
        clock = pace.Pace(budget, self._elapsed(), settled=made.settled_at < math.inf) if budget and made.open else None
        every = made.checkpoint_every
        config = flatten({"train": dump(spec), "seed": self.seed, "label": label})
        metrics = MetricsLog(self.folder, step=self.step, trackers=trackers, config=config, report=self.report)
        try:
            with interruptible() as interrupted, progress(label, steps, "steps") as bar:
                bar.done = self.step
                while self.step < steps and not interrupted.is_set() and not self._waited(evaluate_every or every):
                    begin = pace.now()
                    lr_scale = schedule(self.step)
                    result = stepper(next(self.source), lr_scale, self.step)
                    if hasattr(self.source, "stepped"):
                        self.source.stepped(result.metrics)
                    self.step, self.tokens = self.step + 1, self.tokens + result.tokens
                    seconds = pace.now() - begin
                    self.seconds += seconds
                    rate.add(result.tokens, seconds)
                    used = rate.value() * flops / made.gemm if flops and made.gemm else None
                    self._log(metrics, result, lr_scale, seconds, used)
                    notes = {**getattr(self.source, "noted", {}), "loss": result.loss}
                    # above 1 the machine's rate was measured while it was busy
                    share = {"mfu": f"{used:.0%}"} if used and used <= 1 else {}
                    bar.advance(1, **notes, **{"tok/s": f"{rate.value():,.0f}"}, **share)
                    better, begin, early = False, pace.now(), self.step <= made.settled_at
                    if evaluate and (self.step == steps or (self.step % (evaluate_every or every) == 0 and not early)):
                        better = self._evaluate(evaluate, metrics)
                    if better or self.step == steps or (self.step % every == 0 and not early):
                        self._save(checkpoints, spec)
                        if clock:
                            clock.paused(pace.now() - begin)
                    if clock and self.step < steps:
                        clock.stepped()
                        made = self._paced(clock, made, every, label)
                    if made.spec is not spec:
                        spec = made.spec
                        bar.total, every = (steps := spec.steps or 0), made.checkpoint_every
                        schedule = pace.revised(planned, made.first_steps, made.revisions)
                if interrupted.is_set():
                    self._interrupted(checkpoints, spec)
                checkpoints.wait()
                if self.team is not None and self.optimizer.parts:
                    self.optimizer.collect()
        finally:
            metrics.close()
            give_back_freed_memory()
        if self.patience and self.best and self.best["step"] != self.step:
            self.trained.load(checkpoints.load(self.best["step"]))
        if not made.ended:
            made = dataclasses.replace(made, ended=True)
            made.save(self.folder)
        used = rate.value() * flops / made.gemm if flops and made.gemm and rate.seconds else None
        return TrainResult(
            self.folder, made, self.step, result.loss if result else None, self.best, self.tokens, self.seconds,
            rate.value() or None, used, checkpoints.path(self.saved_at), self.evaluated,
        )  # fmt: skip

    def _plan(self, spec: TrainSpec, resume: bool, begun: int | None, budget: float | None) -> TrainingPlan:
        """The plan of the run that is resumed, or a new one, written before the first step.

        Args:
            begun: how many steps are done; None where there is no checkpoint.
        """
        old = TrainingPlan.read(self.folder) if resume else None
        if old is not None and old.revisions and spec.steps == old.first_steps:
            spec = dataclasses.replace(spec, steps=old.spec.steps)
        changed = {} if old is None else _changes(spec, old.spec)
        if old is not None and begun is not None and set(changed) == {"steps"} and begun < (spec.steps or 0) < old.last:
            made = old.revise(pace.Revision(begun, old.last, spec.steps or 0, old.step_seconds or 0.0))
            made.save(self.folder)
            self.report(f"{self.folder}: ends after {made.last} steps instead of {old.last}")
            return made
        if changed and begun is not None:
            path, (value, before) = next(iter(changed.items()))
            raise SpecError(
                f"train.{path}: {value!r} was asked for, but the run in {self.folder} uses {before!r}; "
                "resume it as it is, or give another folder, or start over without --resume"
            )
        if old is not None and not changed:
            if old.measured.get("threads") != torch.get_num_threads():
                self.report(
                    f"warning: planned with {old.measured.get('threads')} threads, now {torch.get_num_threads()}: "
                    "the result may differ in the last bits"
                )
            return old
        device = None if self.team is None else self.team.mesh.device
        made = plan(
            self.model, self.source, self.objective, spec, budget=budget, generators=self.generators, device=device
        )
        made.save(self.folder)
        if made.measured.get("wants_compiler"):
            self.report(NO_COMPILER)
        seed_everything(self.seed)
        return made

    def _elapsed(self) -> float:
        """Seconds that this training took, in all its sessions."""
        return self.spent + pace.now() - self.began

    def _paced(self, clock: pace.Pace, made: TrainingPlan, every: int, label: str) -> TrainingPlan:
        """The plan, with a revision more where the speed asks for one: written before it counts."""
        if made.revisions and self.step < made.revisions[-1].step:
            return made  # a resumed training first does what is written
        due = clock.look(self.step, made.spec.steps or 0, every)
        if due is None:
            return made
        revision = made.revise(due)
        revision.save(self.folder)
        settled = made.settled_at < math.inf
        self.report(pace.sentence(label, due, made.step_seconds, clock.budget, settled=settled))
        return revision

    def _compile(self, spec: TrainSpec) -> None:
        if spec.compile != "always":
            return
        device = next(self.model.parameters()).device
        if not has_compiler(device):
            self.report(NO_COMPILER)
            return
        compile_model(self.model)

    def _log(self, metrics: MetricsLog, result: StepResult, lr_scale: float, seconds: float, mfu: float | None) -> None:
        values: dict[str, Any] = {
            "loss": result.loss,
            "units": result.units,
            "tokens": self.tokens,
            "lr_scale": lr_scale,
            "grad_norm": result.grad_norm,
            "seconds": round(seconds, 4),
            **result.metrics,
        }
        metrics.write(self.step, values | ({"mfu": round(mfu, 4)} if mfu else {}))

    def _evaluate(self, evaluate: Evaluate, metrics: MetricsLog) -> bool:
        """Evaluate without disturbing the training; returns whether the watched metric is the best so far."""
        if self.team is not None:
            self.checkpoints.wait()
            self.optimizer.collect()
        self.trained.modules.eval()
        with preserve_random_state(self.generators), torch.no_grad():
            self.evaluated = {k: float(v) for k, v in evaluate(self.model).items()}
        self.trained.modules.train()
        metrics.write(self.step, {f"evaluate_{k}": v for k, v in self.evaluated.items()})
        value = self.evaluated.get(self.watch)
        if value is None:
            raise SpecError(f"watch: evaluate gave {sorted(self.evaluated)}, not {self.watch!r}")
        if value == value and (self.best is None or value < self.best["value"]):
            self.best = {"step": self.step, "value": value}
            return True
        return False

    def _waited(self, every: int) -> bool:
        """Whether so many evaluations were no better than the best that more are not worth it."""
        return bool(self.patience and self.best and self.step - self.best["step"] >= self.patience * every)

    def _save(self, checkpoints: Checkpoints, spec: TrainSpec) -> None:
        checkpoints.wait()
        in_parts, behind = (self.optimizer.parts, self.optimizer.asynchronous) if self.team else (False, False)
        if self.team is not None and not in_parts:
            self.optimizer.collect()
        tensors, counts = self.optimizer.state_dict()
        model, objective = self.trained.parts()
        if in_parts:  # each rank writes its own
            written = {name for name, _ in self.model.named_parameters()}
            model = {name: value for name, value in model.items() if name not in written}
        source, more = self.source.state()
        objective |= {f"source.{key}": value for key, value in more.items()}
        parts = {"model": model, "optimizer": tensors, "objective": objective}
        state = {
            "tokens": self.tokens, "seconds": self.seconds, "elapsed": self._elapsed(), "seed": self.seed,
            "train": dump(spec), "source": source, "random": capture(self.generators), "optimizer_steps": counts,
            "best": self.best, "frozen": self.trained.frozen, "base": self.trained.base,
        }  # fmt: skip
        if behind:
            checkpoints.start(self.step, parts, state)
        else:
            checkpoints.save(self.step, parts, state, self.optimizer.write if in_parts else None)
        self.saved_at = self.step
        self.saved(self.step, spec.steps or 0)
        give_back_freed_memory()

    def _take(self, found: Checkpoint, spec: TrainSpec) -> None:
        """Go on from a checkpoint. Raises where it belongs to another run."""
        state = found.state
        if state["seed"] != self.seed:
            raise SpecError(f"seed: {self.seed} was asked for, but the run in {self.folder} has seed {state['seed']}")
        if self.team is not None and self.optimizer.away:
            self.objective.load_state_dict(under("state.", found.tensors["objective"]))
            self.optimizer.read(found.folder / SLICES, state["optimizer_steps"])
        else:
            self.trained.load(found)
            self.optimizer.load_state_dict(found.tensors["optimizer"], state["optimizer_steps"])
        source = state["source"] if "source" in state else state["cursor"]  # the name of it in format 1
        self.source.restore(source, under("source.", found.tensors["objective"]))
        restore(state["random"], self.generators)
        self.step, self.tokens, self.seconds, self.best = found.step, state["tokens"], state["seconds"], state["best"]
        self.saved_at, self.spent = self.step, state.get("elapsed", self.seconds)
        self.report(f"resuming {self.folder} at step {self.step} of {spec.steps}")

    def _interrupted(self, checkpoints: Checkpoints, spec: TrainSpec) -> None:
        if self.step and self.saved_at != self.step:
            self._save(checkpoints, spec)
        checkpoints.wait()
        self.report(f"stopped: step {self.step} of {spec.steps} is saved in {self.folder}; run it again to go on")
        raise KeyboardInterrupt


def _changes(asked: TrainSpec, planned: TrainSpec) -> dict[str, tuple[Any, Any]]:
    """The fields that a plan does not meet, `{path: (asked for, planned)}`; what was left open it always meets."""
    before = flatten(dump(planned))
    stated = {path: value for path, value in flatten(dump(asked)).items() if value != "auto"}
    wanted = {path: value for path, value in stated.items() if path.partition(".")[0] not in MAY_CHANGE}
    return {path: (value, before.get(path)) for path, value in wanted.items() if value != before.get(path)}


def _flops_per_token(model: Any, length: int) -> float | None:
    return float(model.flops_per_token(length)) if capabilities(model).counts_flops else None
