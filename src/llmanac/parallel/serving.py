"""Inference over several ranks: rank 0 has the engine, the other ranks repeat what its runner does on their part.

    rank 0    tokenizer, scheduler, sampling       extend, read, arrange, rewind, ... -> every rank's part of the states
    read      tensor: each rank computes its heads and columns; two all-reduces a layer, and the logits are gathered
              pipeline: hidden states go from stage to stage, logits from the last one to rank 0 (`_served.py`)

The scheduler calls a runner with numbers alone (`generate/runner.py`), so a call is sent as JSON and done by all ranks
in the same order; keys and values are never sent. Each rank reads the model's files and keeps its part (Shoeybi et al.
2019, arXiv:1909.08053, section 3). The division is that of training, with replicated activations.

    python -m llmanac.parallel.serving      # a further rank
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from llmanac.core.errors import SpecError, TrainingError
from llmanac.generate.engine import Engine
from llmanac.generate.load import load_engine
from llmanac.generate.runner import TorchRunner
from llmanac.models.load import load_model
from llmanac.models.locate import fetched, find_adapter
from llmanac.parallel import ParallelSpec
from llmanac.parallel._served import check, divide, held
from llmanac.parallel.launch import processes
from llmanac.parallel.mesh import Mesh, further_rank

TIMEOUT = 60
FOLLOWER = "llmanac.parallel.serving"


@contextlib.contextmanager
def sharded_engine(
    path: str, *, tensor: int = 1, pipeline: int = 1, timeout: int = TIMEOUT, **choices: Any
) -> Iterator[Engine]:
    """An engine over `tensor` x `pipeline` processes of this machine, which end with the block; or over torchrun's.

    Args:
        timeout: seconds after which a rank that hangs ends a request with an error; one that died does so at once.
        choices: rope, sinks and ignore, as `load_engine` takes them; rows and max_num_batched_tokens.

    Raises:
        SpecError: a model that cannot be divided, by the name of its part.
    """
    if find_adapter(path):
        raise SpecError(
            "--tensor, --pipeline: an adapter is served by one process; merge it first (llmanac merge), or leave them "
            "out"
        )
    engine = load_engine(path, device="cpu", runner="torch", **choices)
    check(engine.model, tensor, pipeline)
    own = {name: choices[name] for name in ("rope", "sinks", "ignore") if name in choices}
    sizes = {"tensor": tensor, "pipeline": pipeline}
    there = contextlib.nullcontext() if "RANK" in os.environ else processes(tensor * pipeline, FOLLOWER)
    with there, serving(engine, fetched(path)[0], **sizes, timeout=timeout, **own):
        yield engine


@contextlib.contextmanager
def serving(
    engine: Engine, path: str, *, tensor: int = 1, pipeline: int = 1, timeout: int = TIMEOUT, **own: Any
) -> Iterator[RankCalls]:
    """Divide the engine's model, which `load_model(path, **own)` gives, over ranks that have been started."""
    spec = ParallelSpec(tensor=tensor, pipeline=pipeline, activations="replicated", timeout=timeout)
    mesh = Mesh(spec, torch.device("cpu"))
    calls = RankCalls(mesh)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(max(1, threads // spec.ranks))  # the ranks compute at the same time
        dtype = str(next(engine.model.parameters()).dtype).removeprefix("torch.")  # type: ignore[attr-defined]
        mesh.send({"do": "load", "path": str(path), "own": own, "dtype": dtype, "threads": torch.get_num_threads()})
        calls.model = divide(engine.model, mesh)
        engine.make_runner, engine.lost = lambda: ShardedRunner(calls), lambda: calls.lost
        yield calls
        if calls.lost is None:
            mesh.dismiss()
    finally:
        torch.set_num_threads(threads)
        mesh.close()


class RankCalls:
    """The order of the calls that all ranks do.

    Attributes:
        lost: what is said once a rank has stopped; no call is done afterwards.
        model: rank 0's part.
    """

    model: Any

    def __init__(self, mesh: Mesh) -> None:
        self.mesh, self.lock = mesh, threading.RLock()
        self.own: weakref.WeakSet[ShardedRunner] = weakref.WeakSet()
        self.lost: str | None = None
        self.runners, self.read = 0, mesh.commands

    def send(self, name: str, runner: int, *given: Any) -> None:
        if self.lost is not None:
            raise TrainingError(self.lost)
        self.mesh.send({"do": name, "runner": runner, "given": given})

    def held(self) -> list[dict[str, int]]:
        """Bytes of `weights` and of the `states` of rows, of each rank."""
        with self.lock:
            key = f"held/{self.mesh.commands}"
            self.mesh.send({"do": "held", "key": key})
            own = held(self.model, [runner._state for runner in self.own])
            return [own] + [json.loads(self.mesh.store.get(f"{key}/{r}")) for r in range(1, self.mesh.spec.ranks)]

    def forget(self) -> None:
        """All ranks have done a common read: the calls before it are in nobody's way any more."""
        for number in range(self.read, self.mesh.commands - 1):
            self.mesh.store.delete_key(f"command/{number}")
        self.read = max(self.read, self.mesh.commands - 1)


class ShardedRunner(TorchRunner):
    """Rank 0's runner: what it does, all ranks do. Raises TrainingError once a rank has stopped."""

    def __init__(self, calls: RankCalls) -> None:
        super().__init__(calls.model)
        self.calls, self.number = calls, calls.runners
        calls.runners += 1
        calls.own.add(self)

    def extend(
        self, prompts: Sequence[Any], reserve: int, planned: Sequence[int] = (), adapters: Sequence[Any] = (),
        images: Sequence[Any] = (),
    ) -> list[int]:  # fmt: skip
        with self.calls.lock:
            shown = [None if p is None else list(map(int, p)) for p in prompts]
            self.calls.send("extend", self.number, shown, reserve, list(planned))
            return super().extend(prompts, reserve, planned)

    def read(self, start: int, tokens: Sequence[Sequence[int]], *, every: bool, source: Any = None) -> np.ndarray:
        with self.calls.lock:
            self.calls.send("read", self.number, start, [list(map(int, row)) for row in tokens], every)
            try:
                with self.calls.mesh.working("a forward pass"):
                    found = super().read(start, tokens, every=every)
            except TrainingError as error:
                lost, seconds = self.calls.mesh.lost, self.calls.mesh.spec.timeout
                self.calls.lost = f"parallel: {lost} (the timeout is {seconds} s); start the server again"
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

    def replan(self, row: int, length: int) -> None:
        with self.calls.lock:
            self.calls.send("replan", self.number, row, length)
            super().replan(row, length)

    def arrange(self, order: Sequence[int]) -> None:
        with self.calls.lock:
            self.calls.send("arrange", self.number, list(order)) if order else None
            super().arrange(order)  # of no rows: reset

    def reset(self) -> None:
        with self.calls.lock:
            if self.calls.lost is None:
                self.calls.send("reset", self.number)
            super().reset()


class ServingRank:
    """A further rank's part of the model, and of the states of each of rank 0's runners."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.model: Any = None
        self.runners: dict[int, TorchRunner] = {}
        self.marks: dict[int, Any] = {}

    @torch.no_grad()
    def obey(self, command: Mapping[str, Any]) -> None:
        """Do what rank 0 does at the same time."""
        if command["do"] == "load":
            torch.set_num_threads(command["threads"])
            model = load_model(command["path"], dtype=command["dtype"], device="cpu", **command["own"])
            self.model = divide(model.eval(), self.mesh)
            return
        if command["do"] == "held":
            states = [runner._state for runner in self.runners.values()]
            self.mesh.store.set(f"{command['key']}/{self.mesh.rank}", json.dumps(held(self.model, states)))
            return
        number, given = command["runner"], command["given"]
        runner = self.runners.setdefault(number, TorchRunner(self.model))
        match command["do"]:
            case "read":
                runner.logits(*given)
            case "mark":
                self.marks[number] = runner.mark(*given)
            case "rewind":
                start, marked, *rest = given
                runner.rewind(start, self.marks.pop(number, None) if marked else None, *rest)
            case "reset":
                del self.runners[number]
                self.marks.pop(number, None)
            case name:
                getattr(runner, name)(*given)


def follow() -> None:
    """Be a further rank until rank 0 ends. Raises TrainingError where another rank stopped."""
    Mesh.joined().follow(lambda mesh: ServingRank(mesh).obey)


if __name__ == "__main__":
    further_rank(follow)
