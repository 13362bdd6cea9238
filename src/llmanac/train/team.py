"""A training on several ranks. Rank 0 runs the one loop; here is what it has every rank do, and the ranks doing it.

Rank 0 draws the rows of a step, whatever the mesh, and sends all of them; each rank computes those of its place. All
ranks then add up loss, units and the squared norm of gradients, and each updates its own part of the weights
(`_worker.py`). For an evaluation, a checkpoint and at the end rank 0 collects the weights into its plain model, so that
a checkpoint is the one of a single process and opens on any mesh.

    python -m llmanac.train.team      # a further rank; RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT say which
"""

from __future__ import annotations

import dataclasses
import math
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from llmanac.adapters import applied
from llmanac.adapters.lora import LoRA
from llmanac.core.errors import SpecError, TrainingError
from llmanac.core.spec import dump
from llmanac.core.types import IGNORE
from llmanac.data.pack import PADDING
from llmanac.generate.engine import Engine
from llmanac.models.layers import Embedding, LinearMap
from llmanac.models.lm import TrainedModel
from llmanac.models.lm.transformer import Transformer
from llmanac.models.quantized import Quantized
from llmanac.models.scalar import ScalarModel
from llmanac.objectives import NextToken
from llmanac.parallel import ParallelSpec, context, pipeline, tensor
from llmanac.parallel.mesh import Mesh, describe, further_rank, pack
from llmanac.train import TrainSpec, _division, _sampling
from llmanac.train._sampling import Answer, AskedDraw
from llmanac.train._worker import TrainingWorker
from llmanac.train.step import StepResult

ALONE = "leave --processes and parallel out"
DIVIDED = ("adamw", "sgd", "lion", "muon")  # a part of a tensor is updated as it would be within all of it


def _say(mesh: Mesh, command: dict[str, Any]) -> None:
    with mesh.working(command["do"]):
        mesh.send(command)


class TeamStepper:
    """In the loop of rank 0, the place of both the Stepper and the optimizer: all ranks do each step."""

    def __init__(
        self, team: Team, model: TrainedModel, objective: Any, spec: TrainSpec, *, folder: Path, seed: int
    ) -> None:
        self.mesh, self.model, self.objective, self.folder = team.mesh, model, objective, folder
        self.parallel, self.spec = team.mesh.spec, micro_batches(spec, team.mesh.spec)
        check(model, objective, self.spec, self.parallel)
        team.trainings += 1
        job: dict[str, Any] = {
            "do": "train", "number": team.trainings, "train": dump(self.spec), "threads": torch.get_num_threads(),
            "seed": seed, **_division.describe(model, objective),
        }  # fmt: skip
        _say(self.mesh, job)
        with self.mesh.working("dividing the model"):
            self.worker = TrainingWorker(self.mesh, job)
        self._state: tuple[dict[str, Tensor], dict[str, int]] | None = None
        self.away = _division.alone_on_meta(model)
        self._read: dict[str, Any] = {}
        self._begun = False

    def load_state_dict(self, tensors: dict[str, Tensor], steps: dict[str, int]) -> None:
        """What a checkpoint holds of the optimizer; the ranks get it with the first step."""
        self._state = tensors, steps

    def read(self, folder: Path, steps: dict[str, int]) -> None:
        """Of a model without memory: each rank reads its part of a checkpoint, before the first step."""
        self._read = {"do": "read", "folder": str(folder.resolve()), "steps": steps}

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, int]]:
        """`(tensors by name, steps by parameter name)`, as of a single process; no tensors where ranks write theirs."""
        if not self._begun and self._state:
            return self._state
        kinds = set() if self.parts else {key.partition(".")[0] for key in self.worker.optimizer.state}
        found: dict[str, Tensor] = {}
        for kind in sorted(kinds):
            found |= {f"{kind}.{name}": value for name, value in self._collect(kind).items()}
        steps = self.worker.optimizer.steps
        most = max(steps.values(), default=0)
        return found, {name: most for name, p in self.model.named_parameters() if p.requires_grad and most}

    @property
    def parts(self) -> bool:
        """Whether each rank writes its part of a checkpoint."""
        return self.parallel.checkpoints == "parts"

    @property
    def asynchronous(self) -> bool:
        """Whether a checkpoint is written while the next steps are computed."""
        return self.parallel.checkpoints == "asynchronous"

    def write(self, folder: Path) -> dict[str, str]:
        """Let each rank write its part into the folder; the files with their checksums."""
        folder.mkdir()
        _say(self.mesh, {"do": "write", "folder": str(folder.resolve())})
        with self.mesh.working("writing a checkpoint"):
            return self.worker.write(folder)

    def collect(self) -> None:
        """Bring the ranks' weights into the model, if it has memory for them."""
        if self._begun and not self.away:
            own = dict(self.model.named_parameters())
            with torch.no_grad():
                for name, value in self._collect("weights").items():
                    own[name].copy_(value)

    def _collect(self, what: str) -> dict[str, Tensor]:
        _say(self.mesh, {"do": "collect", "what": what})
        with self.mesh.working("collecting weights"):
            return self.worker.collect(what)

    def sample(self, engine: Engine, prompts: Sequence[Sequence[int]], asked: AskedDraw) -> list[Answer]:
        """As `answers`, each rank for its share of the prompts by weights as they are now; those of the engine too."""
        if not self._begun:
            self._begin()
        said = _sampling.command(engine, prompts, asked, self.parallel.data)
        _say(self.mesh, said)
        with self.mesh.working("sampling answers"):
            if self.worker.sampler is None:
                values = _division.values_of(self.model, self.objective)
                self.worker.sampler = _sampling.RankSampler(self.worker, said, engine.model, engine, values)
            return self.worker.sampler(said)

    def _begin(self) -> None:
        _say(self.mesh, {"do": "weights"})
        with self.mesh.working("sending weights"):
            self.worker.load(None if self.away else _division.values_of(self.model, self.objective))
        if self._read:
            _say(self.mesh, self._read)
            with self.mesh.working("reading a checkpoint"):
                self.worker.obey(self._read)
        if self._state:
            tensors, steps = self._state
            shapes = {key: (list(v.shape), str(v.dtype).removeprefix("torch.")) for key, v in tensors.items()}
            _say(self.mesh, {"do": "optimizer", "shapes": shapes, "steps": steps})
            with self.mesh.working("sending the optimizer's state"):
                self.worker.load_optimizer(tensors, shapes, steps)
        self._begun = True

    def __call__(self, rows: Sequence[Any], lr_scale: float, step: int) -> StepResult:
        """As `Stepper`.

        Raises:
            TrainingError: a loss or gradient that is not finite, or a rank that stopped.
        """
        if not self._begun:
            self._begin()
        share = len(rows) // self.parallel.data
        if share * self.parallel.data != len(rows):
            raise SpecError(f"parallel.data: {self.parallel.data} does not divide the {len(rows)} rows of a step")
        micro = share if self.parallel.pipeline > 1 else self.spec.micro_batch or share
        starts = [r * share + s for r in range(self.parallel.data) for s in range(0, share, micro)]
        ends = [min(start + micro, (start // share + 1) * share) for start in starts]
        batches = self.objective.collate_parts(rows, list(zip(starts, ends, strict=True)))
        if (parts := parts_of(self.parallel)) > 1:
            batches = [padded(batch, parts) for batch in batches]
        described = describe(batches, self.objective.batch)
        _say(self.mesh, {"do": "step", "batches": described, "lr_scale": lr_scale, "step": step})
        with self.mesh.working(f"step {step + 1}"):
            found = self.worker.step(described, pack(batches, self.mesh.device), lr_scale, step)
        if not math.isfinite(found.loss) or not math.isfinite(found.norm):
            what = (
                f"the loss is {found.loss}" if not math.isfinite(found.loss) else f"the gradient's norm is {found.norm}"
            )
            raise TrainingError(
                f"step {step}: {what} on {self.parallel.ranks} ranks; the weights are as they were before it. Lower "
                "optimizer.lr, set train.clip, or resume on one process, which saves the batch"
            )
        if not found.units:
            return StepResult(0.0, 0, found.tokens, 0.0, {})
        metrics = {name: value / found.units for name, value in found.metrics.items()}
        return StepResult(found.loss / found.units, found.units, found.tokens, found.norm, metrics)


def parts_of(parallel: ParallelSpec) -> int:
    """What the length of a row must be a multiple of."""
    split = parallel.tensor if parallel.activations == "split" else 1
    return split * (2 * parallel.context if parallel.context > 1 else 1)


def padded(batch: Any, parts: int) -> Any:
    """The batch with T a multiple of `parts`: further places carry no loss and are seen by no other place."""
    more = -batch.shape[1] % parts
    if not more:
        return batch
    if batch.positions is None:  # those of the further places may be past what a model has learned
        places = torch.arange(batch.shape[1], device=batch.device).expand(batch.shape)
        batch = dataclasses.replace(batch, positions=places)
    values = {"ids": 0, "targets": IGNORE, "segments": PADDING, "positions": 0, "token_types": 0, "within": 0}
    wider = {n: F.pad(v, (0, more), value=values[n]) for n in values if (v := getattr(batch, n)) is not None}
    return dataclasses.replace(batch, **wider)


def micro_batches(spec: TrainSpec, parallel: ParallelSpec) -> TrainSpec:
    """With the micro-batch of each rank. Raises SpecError as `ParallelSpec.micro_batch`."""
    return dataclasses.replace(spec, micro_batch=parallel.micro_batch(spec.rows, spec.micro_batch))


def check_objective(objective: Any) -> None:
    """Raises SpecError that names an objective whose batches no ranks divide, or with a further model that learns."""
    own = type(objective)
    plain = isinstance(objective, NextToken) and own.loss is NextToken.loss and own.losses is NextToken.losses
    if not (objective.axes or (plain and not objective.models)):
        raise SpecError(
            f"parallel: the objective {own.__name__} is neither a next-token loss nor one of single rows; "
            f"train it on one process ({ALONE})"
        )
    for name in objective.models:
        if name in objective.trainable:
            raise SpecError(f"parallel: the {name} model of {own.__name__} learns too and is not divided; {ALONE}")


def check(model: Any, objective: Any, spec: TrainSpec, parallel: ParallelSpec) -> None:
    """Raises SpecError that names what cannot be trained on several ranks."""
    check_objective(objective)
    if parallel.checkpoints == "parts":
        try:
            from torch.distributed.checkpoint import HuggingFaceStorageWriter  # noqa: F401
        except ImportError:
            why = f"parallel.checkpoints: torch {torch.__version__} cannot write parts; use collected"
            raise SpecError(why) from None
    sizes = {axis: getattr(parallel, axis) for axis in ("data", "context", "tensor", "pipeline")}
    used = {axis for axis, size in sizes.items() if size > 1}
    if objective.axes and used - set(objective.axes):
        fit = " and ".join(f"parallel.{axis}" for axis in objective.axes)
        raise SpecError(f"parallel: the loss of {type(objective).__name__} is of complete rows; use {fit}")
    if objective.couples_batch and (spec.micro_batch or spec.rows) * parallel.data < spec.rows:
        raise SpecError(f"micro_batch: {spec.micro_batch} cuts rows whose losses depend on each other; leave it unset")
    for one in (model, *objective.models.values()):
        if not isinstance(one.trunk if isinstance(one, ScalarModel) else one, TrainedModel):
            raise SpecError(f"parallel: {type(one).__name__} cannot be built from a Spec on every rank")
        _check_parts(one, parallel.tensor)
        if parallel.tensor > 1 and type(one) is Transformer:
            tensor.check(one, parallel.tensor)
    if _division.alone_on_meta(model):
        frozen = any(not p.requires_grad for p in model.parameters())
        if parallel.checkpoints != "parts" or frozen or objective.models or model.values_at is None:
            raise SpecError(
                "parallel: a model without memory is trained with parallel.checkpoints=parts, all of its weights, from "
                "a folder or a seed, and without further models"
            )
    whole = parallel.tensor * parallel.pipeline == 1 and parallel.weights == "replicated"
    if not whole and spec.optimizer.name not in DIVIDED:
        raise SpecError(
            f"parallel: {spec.optimizer.name} has a state that is not divided; use {', '.join(DIVIDED)}, or "
            "parallel.weights=replicated"
        )
    if (parallel.tensor > 1 or parallel.pipeline > 1) and type(model) is not Transformer:
        raise SpecError(f"parallel.tensor, parallel.pipeline: {type(model).__name__} is not divided; use parallel.data")
    if parallel.context > 1:
        context.check(model)
    if parallel.pipeline > 1:
        pipeline.check(model, parallel)
        pipeline.check_trained(model, parallel, spec.length)


def _check_parts(model: Any, tensor_ranks: int) -> None:
    """Raises SpecError for adapters and weights that other ranks cannot build from their Specs."""
    alone = f"are trained on one process only; {ALONE}"
    for name, module in model.named_modules():
        if isinstance(module, LinearMap) and module.through is not None:
            raise SpecError(f"parallel: weights that are trained through their rounding {alone} ({name})")
        if isinstance(module, (LinearMap, Embedding)) and isinstance(module.weight, Quantized):
            if tensor_ranks > 1:
                raise SpecError(f"parallel.tensor: quantized weights are not divided ({name}); use parallel.data")
            if not _division.known(module.weight):
                form = module.weight.form.name
                raise SpecError(f"parallel: weights of the form {form} {alone} ({name})")
    for transform in applied(model):
        chosen: Any = transform.spec
        if not isinstance(transform, LoRA):
            raise SpecError(f"parallel: adapters before the text, such as {chosen.name}, {alone}")
        if transform.sizes or transform.shared:
            raise SpecError(f"parallel: adapters whose products have ranks of their own {alone}")
        if chosen.tokens or chosen.copies or chosen.bias != "none":
            raise SpecError(f"parallel: adapters with biases, tokens or copies {alone}")
        if chosen.dropout and tensor_ranks > 1:
            raise SpecError(
                "parallel.tensor: ranks would drop the same places of the columns that they divide; set "
                "adapter.dropout=0, or use parallel.data"
            )


class Team:
    """Rank 0's side of a mesh, for all trainings of a run."""

    def __init__(self, spec: ParallelSpec, device: torch.device) -> None:
        self.mesh, self.trainings = Mesh(spec, device), 0

    check_objective = staticmethod(check_objective)

    def check(self, model: Any, objective: Any, spec: TrainSpec) -> None:
        """Raises SpecError for what cannot be divided, before anything is."""
        check(model, objective, micro_batches(spec, self.mesh.spec), self.mesh.spec)

    def stepper(self, model: Any, objective: Any, spec: TrainSpec, *, folder: Path, seed: int = 0) -> TeamStepper:
        """Divide a model over the ranks. Raises SpecError for what cannot be divided.

        seed: what random numbers of a step depend on, besides the step and a rank's place on all axes but `tensor`.
        """
        self._stepper = TeamStepper(self, model, objective, spec, folder=folder, seed=seed)
        return self._stepper

    def sample(self, engine: Engine, prompts: Sequence[Sequence[int]], asked: AskedDraw) -> list[Answer]:
        """See `TeamStepper.sample`, of the training that runs."""
        return self._stepper.sample(engine, prompts, asked)


class TrainingRank:
    """A further rank: the worker of each training in turn."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.worker: TrainingWorker | None = None

    def obey(self, command: dict[str, Any]) -> None:
        """Do what rank 0 does at the same time."""
        if command["do"] == "train":
            torch.set_num_threads(command["threads"])
            self.worker = None  # its memory first
            self.worker = TrainingWorker(self.mesh, command)
        elif self.worker is not None:
            self.worker.obey(command)


def follow() -> None:
    """Be a further rank until rank 0 ends. Raises TrainingError where another rank stopped."""
    for name in (signal.SIGINT, signal.SIGTERM):  # torchrun sends it to all ranks; rank 0 ends its step, and saves
        signal.signal(name, signal.SIG_IGN)
    Mesh.joined().follow(lambda mesh: TrainingRank(mesh).obey)


if __name__ == "__main__":
    further_rank(follow)
