"""One rank of a training: its part of the model, of the optimizer and of each step."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from llmanac.core.device import resolve_dtype
from llmanac.core.rng import seed_of
from llmanac.core.spec import make
from llmanac.core.types import LossSum
from llmanac.models import part_values
from llmanac.models.quantized import Quantized, held
from llmanac.parallel import context, tensor
from llmanac.parallel.mesh import Mesh, size_of, unpack
from llmanac.train import TrainSpec, _division
from llmanac.train._places import DividedLayout, cut_over, full_of, local_of, part_of, sharded_as, window_of
from llmanac.train._sampling import RankSampler
from llmanac.train.optimizers._base import parameter_roles
from llmanac.train.step import Sums, of_step

TIED = ("lm_head.weight", "model.embed_tokens.weight")


class TrainingWorker:
    """One rank's part of a training.

    Attributes:
        parameters: this rank's part of each parameter, by name; plain tensors.
        optimizer: over these.
    """

    def __init__(self, mesh: Mesh, job: Mapping[str, Any]) -> None:
        self.mesh, self.spec, self.number, self.seed = mesh, mesh.spec, job["number"], job["seed"]
        self.job = job
        self.sampler: RankSampler | None = None
        self._kept: list[list[str]] = []
        self._written = 0
        self.train = make(TrainSpec, job["train"], "train")
        self.dtype = resolve_dtype(self.train.dtype)
        model = _division.build(job)
        width = model.spec.dim if self.spec.pipeline > 1 else 0
        named = list(model.named_parameters())
        roles = {name: role for name, _, role in parameter_roles(model)}
        self.shapes = {name: p.shape for name, p in named if name not in job["packed"]}
        self.dtypes = {name: p.dtype for name, p in named}
        self.depth = len(model.model.layers) if self.spec.context > 1 else 0
        self.objective = _division.objective(job, mesh)
        self.modules = _division.divide(model, mesh, job, self.train, self.objective)
        self.called, self.runner = _division.called(self.modules, mesh, width)
        every = [(n.removeprefix("trained."), p) for module in self.modules for n, p in module.named_parameters()]
        self.places = [(name, p) for name, p in every if p.requires_grad]
        self.tied = self._tied()
        self.sent = {name: (shape, self.dtypes[name]) for name, shape in self.shapes.items()}
        self.sent |= _division.shapes_of(job)
        self._held = [(name, p, local_of(p)) for name, p in held(every)]
        for which, further in self.objective.models.items():
            wide = {n: (p.shape, p.dtype) for n, p in further.named_parameters() if not isinstance(p, Quantized)}
            wide |= _division.shapes_of(job["models"][which])
            self.sent |= {f"{which}/{name}": what for name, what in wide.items()}
            parts = held(further.named_parameters())
            self._held += [(f"{which}/{name}", p, local_of(p)) for name, p in parts]
        self.parameters = {name: nn.Parameter(own) for name, p, own in self._held if p.requires_grad}
        rows = [(name, p, roles[self._full_name(name)]) for name, p in self.parameters.items()]
        self.optimizer = self.train.optimizer.build(parameters=rows)
        self.optimizer.layout = DividedLayout(dict(self.places))

    def _tied(self) -> dict[str, Any]:
        """Where one matrix is both the first stage's embedding and the last one's head: the group of the two ranks."""
        if self.spec.pipeline == 1:
            return {}
        shared = TIED[0] not in self.shapes
        last = 0 if self.spec.schedule == "zero-bubble" else self.spec.pipeline - 1
        groups = {}
        grid = self.mesh.device_mesh.mesh
        if shared and last:
            for place in range(self.spec.replicas * self.spec.tensor):
                ranks = grid.flatten(1)[[0, last], place].tolist()
                group = dist.new_group(ranks)
                if self.mesh.rank in ranks:
                    groups["group"] = group
        return {"shared": shared, **groups}

    def _full_name(self, name: str) -> str:
        return TIED[1] if name not in self.sent else name

    # weights

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor] | None) -> None:
        """Take rank 0's weights; the other ranks give None. Where there are none, each draws or reads its part."""
        if self.job["values_at"]:
            part = part_values.parts(_division.build(self.job), self.job["values_at"])
            for name, p, own in self._held:
                own.copy_(part(self._full_name(name), window_of(p)))
            return
        mine: dict[str, list[tuple[Any, Tensor]]] = {}
        for name, p, own in self._held:
            mine.setdefault(self._full_name(name), []).append((p, own))
        for name, value in self.shared(tensors, self.sent):
            for p, own in mine.get(name, ()):
                own.copy_(part_of(value, p))

    def shared(self, tensors: Mapping[str, Tensor] | None, shapes: Mapping[str, tuple[Any, torch.dtype]]) -> Any:
        """Each tensor of rank 0 in turn, on every rank."""
        for name, (shape, dtype) in shapes.items():
            value = torch.empty(shape, dtype=dtype, device=self.mesh.device)
            if tensors is not None:
                value.copy_(tensors[name])
            yield name, self.mesh.share(value)

    @torch.no_grad()
    def load_optimizer(self, tensors: Mapping[str, Tensor] | None, shapes: Mapping[str, Any], steps: Any) -> None:
        """Take the optimizer's state that rank 0 has read."""
        known = {key: (shape, getattr(torch, dtype)) for key, (shape, dtype) in shapes.items()}
        self.optimizer.state = {}
        for key, value in self.shared(tensors, known):
            what, _, name = key.partition(".")
            for own, p in self.places:
                if self._full_name(own) == name:
                    self.optimizer.state[f"{what}.{own}"] = part_of(value, p).clone()
        names = {own: self._full_name(own) for own, _ in self.places}
        self.optimizer.steps = {own: int(steps[name]) for own, name in names.items() if name in steps}

    @torch.no_grad()
    def read(self, folder: Path, steps: Mapping[str, int]) -> None:
        """Take this rank's part of the weights and the optimizer's state from what `write` wrote on any mesh."""
        from llmanac.train import _parts  # older releases of torch have no such files

        known = _parts.dtypes(folder)
        wanted: dict[tuple[str, str], Tensor] = {}
        kinds = {key.split(".", 2)[1] for key in known if key.startswith("optimizer.")}
        for own, p in self.places:
            name, local = self._full_name(own), self.parameters[own].detach()
            state = {f"{k}.{own}": f"optimizer.{k}.{name}" for k in kinds if f"optimizer.{k}.{name}" in known}
            self.optimizer.state |= {to: torch.empty_like(local, dtype=known[key]) for to, key in state.items()}
            tensors = {f"model.{name}": local} | {key: self.optimizer.state[to] for to, key in state.items()}
            wanted |= {(own, key): sharded_as(t, p) for key, t in tensors.items() if t.numel()}
            self.optimizer.steps |= {own: int(steps[name])} if name in steps else {}
        for mine in ({key: t for (n, key), t in wanted.items() if (n == TIED[0]) == last} for last in (False, True)):
            _parts.read(folder, mine)

    @torch.no_grad()
    def collect(self, what: str, *, everywhere: bool = False) -> dict[str, Tensor]:
        """All trained weights, or one kind of the optimizer's tensors, on rank 0; elsewhere nothing.

        everywhere: on each rank, where there are no stages.
        """
        found: dict[str, Tensor] = {}
        names = dict(self.places)
        local = self.parameters if what == "weights" else {
            key.partition(".")[2]: value for key, value in self.optimizer.state.items() if key.startswith(what + ".")
        }  # fmt: skip
        for number, owners in enumerate(self._owners()):
            for name in owners:
                have = number == self.mesh.pipeline
                full = full_of(local[name], names[name]) if have and name in local else None
                full = self._to_first(full, number, name)
                if full is not None and (self.mesh.rank == 0 or everywhere):
                    # a copy: the next step changes what is not divided
                    found[name] = full.detach().to("cpu", copy=True)
        return found

    def slices(self) -> dict[str, Tensor]:
        """What this rank writes of weights and of the optimizer's state: each slice once over all ranks."""
        at = {name: self.mesh.device_mesh.get_local_rank(name) for name in ("data", "tensor")}
        found: dict[str, Tensor] = {}
        kinds = sorted({key.partition(".")[0] for key in self.optimizer.state})
        for name, p in self.places:
            if name in self.shapes and not any(at[axis] for axis in at.keys() - cut_over(p)):
                own = {f"model.{name}": self.parameters[name].detach()}
                own |= {
                    f"optimizer.{k}.{name}": t
                    for k in kinds
                    if (t := self.optimizer.state.get(f"{k}.{name}")) is not None
                }
                found |= {key: sharded_as(value, p) for key, value in own.items() if value.numel()}
        return found

    def write(self, folder: Path) -> dict[str, str]:
        """Write `slices`; on rank 0 the files of all ranks, with their checksums.

        Raises:
            TrainingError: a rank's disk refused.
        """
        from llmanac.train import _parts  # older releases of torch have no such files

        self._written += 1
        key, store, rank = f"written/{self.number}/{self._written}", self.mesh.store, self.mesh.rank
        files = _parts.write(self.slices(), folder, rank)
        if rank:
            store.set(f"{key}/{rank}", json.dumps(files))
        dist.barrier()
        for other in range(1, self.spec.ranks) if not rank else ():
            files |= json.loads(store.get(f"{key}/{other}"))
            store.delete_key(f"{key}/{other}")
        return files

    def _owners(self) -> list[list[str]]:
        """The parameters that each rank of the pipeline keeps, the same list on every rank."""
        if self.spec.pipeline == 1:
            return [[name for name, _ in self.places]]
        if not self._kept:
            own = [name for name, _ in self.places if name in self.shapes]
            self._kept = self.mesh.gather_names(f"kept/{self.number}", own)
        return self._kept

    def _to_first(self, value: Tensor | None, stage: int, name: str) -> Tensor | None:
        """A tensor of a stage on rank 0, from the rank of that stage whose place in data and tensor is 0 too."""
        sender = int(self.mesh.device_mesh.mesh[stage, 0, 0])
        if sender == 0:
            return value
        if self.mesh.rank == sender:
            assert value is not None
            dist.send(value.contiguous(), 0)
        elif self.mesh.rank == 0:
            value = torch.empty(self.shapes[name], dtype=self.dtypes[name], device=self.mesh.device)
            dist.recv(value, sender)
            return value
        return None

    # a step

    def gradients(self, described: Sequence[dict[str, Any]], numbers: Tensor) -> list[float]:
        """Add the gradients of this rank's rows; `[loss, units, tokens, metrics...]` over all ranks and their norm."""
        every = unpack(described, self.mesh.share(numbers), self.objective.batch)
        count = len(every) // self.spec.data
        batches = every[self.mesh.data * count : (self.mesh.data + 1) * count]
        sums = Sums()
        with tensor.loss_parallel() if self.spec.tensor > 1 else contextlib.nullcontext():
            if self.runner is not None:
                (batch,) = batches
                loss = self.runner(batch, self.train.micro_batch or batch.shape[0], self.dtype)
                sums.add(batch, (loss, batch.units if self._counts else 0, {}))
            else:
                with of_step(
                    self.modules[0], self.objective, batches, lambda batch: self.called(batch)[1],
                    several=len(every) > 1, add_up=dist.all_reduce,
                ) as cut:  # fmt: skip
                    for number, batch in enumerate(cut):
                        own, state = batch, None
                        if self.spec.context > 1:
                            own, state = context.part(batch, self.mesh, self.depth)
                        sums.add(own, self._backward(own, state, last=number == len(batches) - 1))
        self._finish()
        return self._reduced(sums)

    @property
    def _counts(self) -> bool:
        """Whether this rank's losses and units count: once for each place on the axes of data and context."""
        last = self.runner is None or self.spec.stages - 1 in self.runner.stages
        return last and self.mesh.tensor == 0

    def _backward(self, batch: Any, state: Any, *, last: bool) -> LossSum:
        replicated = isinstance(self.called, DistributedDataParallel)
        if isinstance(self.called, FSDPModule):
            self.called.set_requires_gradient_sync(last)
        with self.called.no_sync() if replicated and not last else contextlib.nullcontext():  # type: ignore[operator]
            loss, units, metrics = self.called(batch, state)
            loss.backward()
        return loss, units, metrics

    @torch.no_grad()
    def _finish(self) -> None:
        """Gradients of whole parameters, as parts of what one process has: summed where each rank has a term."""
        scale = self.spec.replicas  # DDP and FSDP2 take means over ranks, and losses here are sums
        partial: list[Tensor] = []
        for name, p in self.places:
            grad = p.grad
            if grad is None:
                self.parameters[name].grad = None
                continue
            if isinstance(grad, DTensor):
                assert isinstance(p, DTensor)
                grad = grad if grad.placements == p.placements else grad.redistribute(placements=p.placements)
                grad = grad.to_local()
            p.grad = None
            self.parameters[name].grad = grad.mul_(scale) if scale > 1 else grad
            whole = self.spec.tensor > 1 and "tensor" not in cut_over(p)
            if whole and tensor.partial_gradients(name, split=self.spec.activations == "split"):
                partial.append(grad)
        if partial:
            flat = torch.cat([grad.flatten() for grad in partial])
            dist.all_reduce(flat, group=self.mesh.axis("tensor").get_group())
            for grad, part in zip(partial, flat.split([g.numel() for g in partial]), strict=True):
                grad.copy_(part.view_as(grad))
        if self.tied.get("shared"):
            self._sum_tied()

    def _sum_tied(self) -> None:
        held = [self.parameters[name] for name in TIED if name in self.parameters]
        if len(held) == 2:
            total = held[0].grad + held[1].grad  # type: ignore[operator]
            held[0].grad, held[1].grad = total, total.clone()
        elif held and "group" in self.tied:
            dist.all_reduce(held[0].grad, group=self.tied["group"])

    def _copies(self, p: Any) -> int:
        """How many ranks of this stage hold the same part of a parameter."""
        parts = 1
        if isinstance(p, DTensor):
            sizes = p.device_mesh.shape
            parts = math.prod(n for n, s in zip(sizes, p.placements, strict=True) if not s.is_replicate())
        return self.spec.replicas * self.spec.tensor // parts

    def _reduced(self, sums: Sums) -> list[float]:
        local = sums.fetch()
        counts = float(self._counts)
        live = [(p, g) for n, p in self.places if n in self.shapes and (g := self.parameters[n].grad) is not None]
        norms = torch._foreach_norm([grad for _, grad in live]) if live else []
        square = sum(float(norm) ** 2 / self._copies(p) for norm, (p, _) in zip(norms, live, strict=True))
        names = sorted(local.metrics)
        values = [local.loss * counts, local.units * counts, sums.tokens * counts, square]
        total = torch.tensor(values + [local.metrics[n] * counts for n in names], dtype=torch.float64)
        total = total.to(self.mesh.device)
        dist.all_reduce(total)
        self.metric_names = names
        found: list[float] = total.tolist()
        return found

    @contextlib.contextmanager
    def _random(self, step: int) -> Iterator[None]:
        """What is drawn inside depends on seed, step and place alone; ranks of one layer's columns draw the same."""
        place = (self.mesh.pipeline, self.mesh.data, self.mesh.context)
        with torch.random.fork_rng([torch.cuda.current_device()] if self.mesh.device.type == "cuda" else []):
            torch.manual_seed(seed_of(self.seed, "step", step, *place))
            yield

    def step(self, described: Sequence[dict[str, Any]], numbers: Tensor, lr_scale: float, step: int) -> TeamStep:
        """Compute and do a step, unless the loss or the gradient is not finite or nothing carries loss."""
        with self._random(step):
            loss, units, tokens, square, *metrics = self.gradients(described, numbers)
        norm = math.sqrt(square) / units if units and math.isfinite(square) else square
        if units and math.isfinite(loss) and math.isfinite(norm):
            clipped = 1.0 if not self.train.clip else min(1.0, self.train.clip / (norm + 1e-6))
            self.optimizer.step(lr_scale, clipped / units)
        self.optimizer.zero_grad()
        return TeamStep(loss, int(units), int(tokens), norm, dict(zip(self.metric_names, metrics, strict=True)))

    def obey(self, command: Mapping[str, Any]) -> None:
        """Do what rank 0 does at the same time."""
        device = self.mesh.device
        match command["do"]:
            case "weights":
                self.load(None)
            case "read":
                self.read(Path(command["folder"]), command["steps"])
            case "optimizer":
                self.load_optimizer(None, command["shapes"], command["steps"])
            case "step":
                described = command["batches"]
                numbers = torch.empty(size_of(described), dtype=torch.long, device=device)
                self.step(described, numbers, command["lr_scale"], command["step"])
            case "sample":
                if self.sampler is None:
                    self.sampler = RankSampler(self, command, _division.whole(self.job, self.mesh.device))
                self.sampler(command)
            case "collect":
                self.collect(command["what"])
            case "write":
                self.write(Path(command["folder"]))


@dataclass(frozen=True)
class TeamStep:
    """A step's sums over all ranks: loss in nats, units, tokens, metrics; and the norm of the mean loss's gradient."""

    loss: float
    units: int
    tokens: int
    norm: float
    metrics: dict[str, float]
