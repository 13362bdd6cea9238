"""Tensor-parallel inference: rank 0 has the engine, the other ranks repeat what its runner does on their heads.

    rank 0    tokenizer, scheduler, sampling       extend, read, arrange, rewind, ... -> every rank's part of the states
    read      each rank computes its heads and columns; two all-reduces a layer, and the logits are gathered

The scheduler calls a runner with numbers alone (`generate/runner.py`), so a call is sent as JSON and done by all ranks
in the same order; keys and values are never sent. Each rank reads the model's files and keeps its part (Shoeybi et al.
2019, arXiv:1909.08053, section 3). The division is that of training (`tensor.py`), with replicated activations.

    python -m llmanac.parallel.serving      # a further rank
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import types
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from llmanac.adapters.load import find_adapter
from llmanac.core.errors import SpecError, TrainingError
from llmanac.generate.engine import Engine
from llmanac.generate.load import load_engine
from llmanac.generate.runner import TorchRunner
from llmanac.models._layers import upcast
from llmanac.models.heads import pick
from llmanac.models.lm.transformer import Transformer
from llmanac.models.load import load_model
from llmanac.models.locate import fetched
from llmanac.parallel import ParallelSpec, tensor
from llmanac.parallel.launch import processes
from llmanac.parallel.mesh import Mesh

TIMEOUT = 60
FOLLOWER = "llmanac.parallel.serving"


@contextlib.contextmanager
def sharded_engine(path: str, ranks: int, *, timeout: int = TIMEOUT, **choices: Any) -> Iterator[Engine]:
    """An engine over `ranks` processes of this machine, which end with the block.

    Args:
        timeout: seconds after which a rank that hangs ends a request with an error; one that died does so at once.
        choices: rope and sinks, as `load_engine` takes them; rows and most_tokens.

    Raises:
        SpecError: a model that cannot be divided, by the name of its part.
    """
    if find_adapter(path):
        raise SpecError(
            "--tensor: an adapter is served by one process; merge it first (llmanac merge), or leave it out"
        )
    engine = load_engine(path, device="cpu", runner="torch", **choices)
    check(engine.model, ranks)
    own = {name: choices[name] for name in ("rope", "sinks") if name in choices}
    with processes(ranks, FOLLOWER), serving(engine, fetched(path)[0], ranks, timeout=timeout, **own):
        yield engine


@contextlib.contextmanager
def serving(engine: Engine, path: str, ranks: int, *, timeout: int = TIMEOUT, **own: Any) -> Iterator[None]:
    """Divide the engine's model, which `load_model(path, **own)` gives, over ranks that have been started."""
    mesh = Mesh(ParallelSpec(tensor=ranks, activations="replicated", timeout=timeout), torch.device("cpu"))
    calls = Calls(mesh)
    try:
        dtype = str(next(engine.model.parameters()).dtype).removeprefix("torch.")  # type: ignore[attr-defined]
        mesh.send({"do": "load", "path": str(path), "own": own, "dtype": dtype, "threads": torch.get_num_threads()})
        divide(engine.model, mesh)
        engine.make_runner = lambda: ShardedRunner(engine.model, calls)
        yield
        if calls.lost is None:
            mesh.dismiss()
    finally:
        mesh.close()


def check(model: Any, ranks: int) -> None:
    """Raises SpecError for a model that cannot be divided."""
    if type(model) is not Transformer:
        raise SpecError(f"--tensor: {type(model).__name__} is not a decoder of blocks; leave --tensor out")
    changed = [n for n, m in model.named_modules() if getattr(m, "change", None) or getattr(m, "through", None)]
    if changed or model.lead is not None or getattr(model, "packed", None) is not None:
        raise SpecError("--tensor: quantized weights and adapters are served by one process; leave --tensor out")
    tensor.check(model, ranks)


def divide(model: Any, mesh: Mesh) -> None:
    """Keep this rank's heads, columns and part of the vocabulary, in place."""
    axis = mesh.axis("tensor")
    model.requires_grad_(False)
    tensor.divide(model, axis, split=False)
    for layer in model.model.layers:
        for name in ("heads", "kv_heads"):  # what states are made for
            setattr(layer.self_attn, name, getattr(layer.self_attn, name) // mesh.spec.tensor)

    def logits(self: Any, hidden: Tensor, context: Any, state: Any = None, last: Tensor | None = None) -> Tensor:
        """As `LinearHead.logits`; every rank gets (B, T, V)."""
        own = F.linear(self.prepared(pick(hidden, last)), self.weight.to_local().to(hidden.dtype))
        found = upcast(DTensor.from_local(own, axis, [Shard(-1)], run_check=False).full_tensor())
        return found if self.softcap is None else torch.tanh(found / self.softcap) * self.softcap

    model.lm_head.logits = types.MethodType(logits, model.lm_head)


class Calls:
    """The order of the calls that all ranks do.

    Attributes:
        lost: what is said once a rank has stopped; no call is done afterwards.
    """

    def __init__(self, mesh: Mesh) -> None:
        self.mesh, self.lock = mesh, threading.RLock()
        self.lost: str | None = None
        self.runners, self.read = 0, mesh.commands

    def send(self, name: str, runner: int, *given: Any) -> None:
        if self.lost is not None:
            raise TrainingError(self.lost)
        self.mesh.send({"do": name, "runner": runner, "given": given})

    def forget(self) -> None:
        """All ranks have done a common read: the calls before it are in nobody's way any more."""
        for number in range(self.read, self.mesh.commands - 1):
            self.mesh.store.delete_key(f"command/{number}")
        self.read = max(self.read, self.mesh.commands - 1)


class ShardedRunner(TorchRunner):
    """Rank 0's runner: what it does, all ranks do. Raises TrainingError once a rank has stopped."""

    def __init__(self, model: Any, calls: Calls) -> None:
        super().__init__(model)
        self.calls, self.marks = calls, 0
        self.number = calls.runners
        calls.runners += 1

    def extend(
        self, prompts: Sequence[Any], reserve: int, planned: Sequence[int] = (), adapters: Sequence[Any] = (),
        images: Sequence[Any] = (),
    ) -> list[int]:  # fmt: skip
        with self.calls.lock:
            shown = [None if p is None else list(map(int, p)) for p in prompts]
            self.calls.send("extend", self.number, shown, reserve, list(planned))
            return super().extend(prompts, reserve, planned)

    def read(self, start: int, tokens: Sequence[Sequence[int]], *, every: bool, source: Any = None) -> Tensor:
        with self.calls.lock:
            self.calls.send("read", self.number, start, [list(map(int, row)) for row in tokens], every)
            try:
                with self.calls.mesh.working("a forward pass"):
                    found = super().read(start, tokens, every=every)
            except TrainingError as error:
                said = str(error).partition(". Steps up to")[0]
                self.calls.lost = f"{said.replace('parallel.timeout', 'the timeout')}; start the server again"
                raise TrainingError(self.calls.lost) from error
            self.calls.forget()
            return found

    def mark(self, start: int, stop: int) -> Any:
        with self.calls.lock:
            self.calls.send("mark", self.number, start, stop)
            return super().mark(start, stop)

    def rewind(self, start: int, mark: Any, lengths: Sequence[int], marked: Sequence[int]) -> list[int]:
        with self.calls.lock:
            self.calls.send("rewind", self.number, start, mark is not None, list(lengths), list(marked))
            return super().rewind(start, mark, lengths, marked)

    def arrange(self, order: Sequence[int]) -> None:
        with self.calls.lock:
            self.calls.send("arrange", self.number, list(order)) if order else None
            super().arrange(order)  # of no rows: reset

    def reset(self) -> None:
        with self.calls.lock:
            if self.calls.lost is None:
                self.calls.send("reset", self.number)
            super().reset()


def follow() -> None:
    """Be a further rank until rank 0 ends. Raises TrainingError where another rank stopped."""
    mesh = Mesh.joined()
    model: Any = None
    runners: dict[int, TorchRunner] = {}
    marks: dict[int, Any] = {}
    try:
        while (command := mesh.receive())["do"] != "exit":
            with mesh.working(command["do"]), torch.no_grad():
                if command["do"] == "load":
                    torch.set_num_threads(command["threads"])
                    model = load_model(command["path"], dtype=command["dtype"], device="cpu", **command["own"])
                    model.eval()
                    divide(model, mesh)
                    continue
                number, given = command["runner"], command["given"]
                runner = runners.setdefault(number, TorchRunner(model))
                match command["do"]:
                    case "read":
                        runner.read(given[0], given[1], every=given[2])
                    case "mark":
                        marks[number] = runner.mark(*given)
                    case "rewind":
                        start, marked, *rest = given
                        runner.rewind(start, marks.pop(number, None) if marked else None, *rest)
                    case "reset":
                        del runners[number]
                        marks.pop(number, None)
                    case name:
                        getattr(runner, name)(*given)
        mesh.leave()
    finally:
        mesh.close()


def main() -> None:
    """The process of a further rank; exit status 3 where another rank has stopped."""
    try:
        follow()
    except (TrainingError, dist.DistError) as error:
        print(f"llmanac: rank {os.environ.get('RANK')}: {error}", file=sys.stderr)
        os._exit(3)


if __name__ == "__main__":
    main()
