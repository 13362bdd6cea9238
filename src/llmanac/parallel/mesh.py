"""The ranks of a run: joining them, sending a step's rows, and saying which one is missing.

Small commands go through torch's key-value store, which a rank may wait for as long as it likes; tensors go through
collectives, which end after `timeout` seconds. A thread of each rank reports to the store once a second that it lives.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import platform
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from llmanac.core.errors import SpecError, TrainingError
from llmanac.core.spec import dump, make
from llmanac.core.types import Batch
from llmanac.parallel import ParallelSpec, launch

BEAT = 1.0  # seconds between two signs of life
AXES = ("pipeline", "data", "tensor")
COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "broadcast", "send", "recv", "isend", "irecv", "wait")
FOREVER = timedelta(days=365)
LOST, COMPUTING = "lost another rank", " computing"


class Mesh:
    """This process as a rank of the mesh of `spec`.

    Attributes:
        rank: 0 .. ranks - 1; pipeline, data, context and tensor: this rank's place on each axis. Those of data and
            context have the same weights, and are one axis of `device_mesh`.

    Raises:
        SpecError: another number of processes than the mesh has.
    """

    def __init__(self, spec: ParallelSpec, device: torch.device, store: Any = None) -> None:
        self.spec, self.device = spec, device
        world = int(os.environ.get("WORLD_SIZE", "1"))
        if world != spec.ranks:
            raise SpecError(
                f"parallel: data {spec.data} x context {spec.context} x tensor {spec.tensor} x pipeline "
                f"{spec.pipeline} needs {spec.ranks} processes, and there are {world}; start it with --processes "
                f"{spec.ranks}, or with torchrun --nproc-per-node {spec.ranks}"
            )
        # DTensor warns on standard error of every redistribution that it does not think cheapest
        logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)
        if device.type == "cuda":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        backend = "nccl" if device.type == "cuda" else "gloo"
        joined: tuple[Any, int] = _rendezvous(spec.timeout) if store is None else store
        self.store, self.rank = joined
        if self.rank == 0:
            self.store.set("mesh", json.dumps({"spec": dump(spec), "device": device.type}))
        self.store.set(f"process/{self.rank}", str(os.getpid()))
        self.store.set(f"machine/{self.rank}", platform.node())
        group = dist.PrefixStore("group", self.store)
        dist.init_process_group(
            backend, store=group, rank=self.rank, world_size=world, timeout=timedelta(seconds=spec.timeout)
        )
        sizes = (spec.pipeline, spec.replicas, spec.tensor)
        self.device_mesh: DeviceMesh = init_device_mesh(device.type, sizes, mesh_dim_names=AXES)
        self.pipeline, replica, self.tensor = (self.device_mesh.get_local_rank(axis) for axis in AXES)
        self.data, self.context = divmod(replica, spec.context)
        self._context: DeviceMesh | None = None
        if spec.context > 1:
            names = ("outer", "context", "inner")
            sizes = (spec.pipeline * spec.data, spec.context, spec.tensor)
            self._context = init_device_mesh(device.type, sizes, mesh_dim_names=names)["context"]
        # read now: once a rank is lost, the store may be lost too
        self.machines = [name.decode() for name in self.store.multi_get([f"machine/{r}" for r in range(world)])]
        launch.joined.set()
        self.commands = 0
        self.doing = "starting"
        self.lost = ""  # which rank stopped, and in what
        self._heard = time.monotonic()  # when rank 0 last gave a sign of life
        self._ended = threading.Event()
        self._beating = threading.Thread(target=self._live, daemon=True)
        self._beating.start()

    @classmethod
    def joined(cls) -> Mesh:
        """A further rank of the mesh that rank 0 makes; waits for it, and ends with the process that started it."""
        with _ending_with_parent():
            store = _rendezvous()
            asked = json.loads(store[0].get("mesh"))
            return cls(make(ParallelSpec, asked["spec"], "parallel"), torch.device(asked["device"]), store)

    def gather_names(self, key: str, names: Sequence[str]) -> list[list[str]]:
        """Names that the first rank of each place on the pipeline axis gives, on every rank."""
        if self.data == 0 and self.tensor == 0:
            self.store.set(f"{key}/{self.pipeline}", json.dumps(list(names)))
        return [json.loads(self.store.get(f"{key}/{stage}")) for stage in range(self.spec.pipeline)]

    def axis(self, name: str) -> DeviceMesh:
        """The ranks that differ from this one on one axis only; `data` is that of data and context together."""
        return self._context if name == "context" and self._context is not None else self.device_mesh[name]

    # commands of rank 0

    def send(self, command: dict[str, Any]) -> None:
        """Of rank 0: the next command of the other ranks, as JSON."""
        self.store.set(f"command/{self.commands}", json.dumps(command))
        self.commands += 1

    def receive(self) -> dict[str, Any]:
        """Of the other ranks: the next command; waits for it. Raises TrainingError where rank 0 stops."""
        self.doing = "waiting"
        try:
            found: dict[str, Any] = json.loads(self.store.get(f"command/{self.commands}"))
        except (RuntimeError, dist.DistError) as error:
            raise TrainingError(f"parallel: {self._named([0])} stopped while it was waited for") from error
        self.commands += 1
        return found

    def share(self, values: torch.Tensor) -> torch.Tensor:
        """Rank 0's tensor on every rank; elsewhere a tensor of the same shape and dtype is filled."""
        dist.broadcast(values, 0)
        return values

    def dismiss(self, seconds: float = 10.0) -> None:
        """Of rank 0: tell the others to end, and wait until they have read it: the store may end with this process."""
        self.send({"do": "exit"})
        with contextlib.suppress(RuntimeError, dist.DistError):
            self.store.wait([f"left/{rank}" for rank in range(1, self.spec.ranks)], timedelta(seconds=seconds))

    def leave(self) -> None:
        """Of the other ranks: answer `dismiss`."""
        self.store.set(f"left/{self.rank}", "")

    def follow(self, start: Callable[[Mesh], Callable[[dict[str, Any]], None]]) -> None:
        """Of the other ranks: do each command by what `start` gives, until rank 0 dismisses them.

        Raises:
            TrainingError: another rank stopped.
        """
        threading.Thread(target=self._end_without_first, daemon=True).start()
        try:
            obey = start(self)
            while (command := self.receive())["do"] != "exit":
                with self.working(command["do"]):
                    obey(command)
            self.leave()
        finally:
            self.close()

    # signs of life

    def _live(self) -> None:
        """Tell the store once a second what this rank is doing, on a connection of its own; listen to rank 0."""
        with contextlib.suppress(Exception):  # the store has gone: the main thread finds out by itself
            store, beat, heard = self.store.clone(), 0, b""
            store.set_timeout(timedelta(seconds=self.spec.timeout))
            while not self._ended.wait(BEAT if beat else 0):
                beat += 1
                store.set(f"alive/{self.rank}", f"{beat} {self.doing}{'' if self._waits() else COMPUTING}")
                if self.rank and heard != (heard := store.get("alive/0")):
                    self._heard = time.monotonic()

    def _waits(self) -> bool:
        """Whether the main thread waits for other ranks, by the functions that it is in."""
        frame = sys._current_frames().get(threading.main_thread().ident or 0)
        while frame is not None and not _is_collective(frame.f_code.co_filename, frame.f_code.co_name):
            frame = frame.f_back
        return frame is not None or self.doing in ("waiting", LOST)

    def _end_without_first(self) -> None:
        """Of the other ranks: end where rank 0 gives no sign while this rank waits for a command.

        A machine that is cut off closes no connection, and torch waits for the store without an end.
        """
        while not self._ended.wait(BEAT):
            seconds = time.monotonic() - self._heard
            if self.doing == "waiting" and seconds > self.spec.timeout + 3 * BEAT:
                said = f"llmanac: rank {self.rank}: parallel: {self._named([0])} gave no sign for {seconds:.0f} s"
                print(said, file=sys.stderr, flush=True)
                os._exit(3)

    @contextlib.contextmanager
    def working(self, doing: str) -> Iterator[None]:
        """What runs inside uses collectives; where one fails, the error names the rank that is missing.

        Raises:
            TrainingError: a rank stopped, or kept the others waiting for `timeout` seconds.
        """
        self.doing, begin = doing, time.monotonic()
        try:
            yield
        except (RuntimeError, dist.DistError) as error:
            if isinstance(error, NotImplementedError) or not _is_of_ranks(error):
                raise
            seconds, where = time.monotonic() - begin, f"{doing}{_collective(error)}"
            self.doing = LOST
            self.lost = f"{self._missing()} in {where}, after {seconds:.0f} s"
            raise TrainingError(
                f"parallel: {self.lost} (parallel.timeout is {self.spec.timeout} s). Steps up to the last checkpoint "
                "are saved: run it again with --resume"
            ) from error

    def _missing(self) -> str:
        """Which rank does not answer; rank 0, which has the store, where nothing does."""
        found: list[str] = []
        asking = threading.Thread(target=lambda: found.append(self._asked()), daemon=True)
        asking.start()
        asking.join(10 * BEAT)  # through a network that is cut, the store's own functions never end
        return found[0] if found else f"{self._named([0])} stopped or cannot be reached"

    def _asked(self) -> str:
        others = [rank for rank in range(self.spec.ranks) if rank != self.rank]
        before = self._beats(others)
        time.sleep(2.5 * BEAT)
        after = self._beats(others)
        silent = [rank for rank in others if after.get(rank) is None or before.get(rank) == after[rank]]
        if silent:
            return f"{self._named(silent)} stopped or hangs"
        if slow := [rank for rank, text in after.items() if text and text.endswith(COMPUTING)]:
            return f"no rank died, {self._named(slow)} is too slow"
        return "no rank died and all wait, the network is too slow"

    def _named(self, ranks: Sequence[int]) -> str:
        """Ranks and, where there are several, their machines."""
        several = len(set(self.machines)) > 1
        return "rank " + ", ".join(f"{rank} ({self.machines[rank]})" if several else str(rank) for rank in ranks)

    def _beats(self, ranks: Sequence[int]) -> dict[int, str | None]:
        found: dict[int, str | None] = {}
        for rank in ranks:
            try:
                self.store.wait([f"alive/{rank}"], timedelta(seconds=BEAT))
                found[rank] = self.store.get(f"alive/{rank}").decode()
            except (RuntimeError, dist.DistError):
                found[rank] = None
        return found

    def close(self) -> None:
        """Leave the mesh."""
        self._ended.set()
        self._beating.join(2 * BEAT)  # a thread within torch's code at the end of Python would abort the process
        if dist.is_initialized():
            dist.destroy_process_group()


def further_rank(follow: Callable[[], None]) -> None:
    """The process of a further rank; exit status 3 where another rank has stopped."""
    try:
        follow()
    except (TrainingError, dist.DistError) as error:
        print(f"llmanac: rank {os.environ.get('RANK')}: {error}", file=sys.stderr)
        os._exit(3)


@contextlib.contextmanager
def _ending_with_parent() -> Iterator[None]:
    """End this process once its parent has: torch waits half an hour for a rank that was lost before it joined."""
    joined, parent = threading.Event(), int(os.environ.get(launch.PARENT, os.getppid()))

    def watch() -> None:
        while not joined.wait(BEAT):
            if os.getppid() != parent:
                os._exit(3)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        joined.set()


def _rendezvous(timeout: float = math.inf) -> tuple[Any, int]:
    """Keys of this start of the ranks alone, and which rank this is.

    torchrun keeps one store over its restarts, and each of its agents counts these for itself: rank 0 numbers the
    start, and tells each process that asks now. Raises TrainingError where one does not within `timeout` seconds.
    """
    store, rank, world = next(dist.rendezvous("env://"))
    store.set_timeout(FOREVER)
    if rank:
        asked = uuid.uuid4().hex
        store.set(f"asks/{rank}", asked)
        number = store.get(f"answer/{asked}").decode()
        store.set(f"joined/{number}/{rank}", "")
        return dist.PrefixStore(f"start/{number}", store), rank
    number, stop, missing = str(store.add("starts", 1)), time.monotonic() + timeout, set(range(1, world))
    while missing:
        for other in missing:  # what an earlier process asked is answered too, and nobody reads it
            if store.check([f"asks/{other}"]):
                store.set(f"answer/{store.get(f'asks/{other}').decode()}", number)
        missing = {other for other in missing if not store.check([f"joined/{number}/{other}"])}
        if missing and time.monotonic() > stop:
            named = ", ".join(map(str, sorted(missing)))
            raise TrainingError(f"parallel: rank {named} did not join within {timeout:.0f} s (parallel.timeout)")
        time.sleep(0.01)
    return dist.PrefixStore(f"start/{number}", store), rank


def _collective(error: BaseException) -> str:
    """The function of torch.distributed in which an error was raised, in brackets; nothing where it was elsewhere."""
    frames = reversed(traceback.extract_tb(error.__traceback__))
    return next((f" ({f.name})" for f in frames if _is_collective(f.filename, f.name)), "")


def _is_collective(file: str, function: str) -> bool:
    return f"distributed{os.sep}" in file and function.startswith(COLLECTIVES)


def _is_of_ranks(error: BaseException) -> bool:
    """Whether an error comes from the connection to other ranks."""
    marks = ("gloo", "timed out", "timeout", "connection", "socket", "peer", "nccl", "store", "broken pipe")
    text = str(error).lower()
    return isinstance(error, dist.DistError) or any(mark in text for mark in marks)


# a step's rows: every field of a batch that training reads is a tensor of numbers


def describe(batches: Sequence[Batch], kind: type[Batch] = Batch) -> list[dict[str, Any]]:
    """What `unpack` needs to make the batches again from `pack`'s numbers.

    Raises:
        SpecError: a batch that is neither a plain one nor a `kind`, or with embeddings or a source sequence.
    """
    for batch in batches:
        if type(batch) not in (Batch, kind) or batch.ids is None or batch.source is not None:
            raise SpecError(
                f"parallel: only batches of token ids alone are divided over processes, and no {type(batch).__name__}; "
                "leave --processes and parallel out"
            )
    return [
        {"fields": {n: (list(v.shape), str(v.dtype)) for n, v in _numbers(b)}, "mask": b.mask, "more": type(b) is kind}
        for b in batches
    ]


def _numbers(batch: Batch) -> Iterator[tuple[str, torch.Tensor]]:
    return ((name, value) for name, value in vars(batch).items() if isinstance(value, torch.Tensor))


def pack(batches: Sequence[Batch], device: torch.device) -> torch.Tensor:
    """All numbers of the batches, one after the other: (N,) int64; of floating-point ones the bits in float64."""
    values = [v.flatten() for batch in batches for _, v in _numbers(batch)]
    return torch.cat([v.double().view(torch.long) if v.is_floating_point() else v.long() for v in values]).to(device)


def unpack(described: Sequence[dict[str, Any]], numbers: torch.Tensor, kind: type[Batch] = Batch) -> list[Batch]:
    """The batches that `describe` and `pack` were given."""
    out, start = [], 0
    for one in described:
        tensors: dict[str, Any] = {}
        for name, (shape, named) in one["fields"].items():
            dtype, count = getattr(torch, named.removeprefix("torch.")), math.prod(shape)
            values = numbers[start : start + count].view(shape)
            tensors[name] = values.view(torch.float64).to(dtype) if dtype.is_floating_point else values.to(dtype)
            start += count
        out.append((kind if one["more"] else Batch)(**tensors, mask=one["mask"]))
    return out


def size_of(described: Sequence[dict[str, Any]]) -> int:
    """How many numbers `pack` gives."""
    return sum(math.prod(shape) for one in described for shape, _ in one["fields"].values())
