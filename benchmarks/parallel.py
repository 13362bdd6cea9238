"""Two processes of this machine (gloo, one thread each): our training step and plain torch recipes of the same model.

The peers are torch's own parts: DistributedDataParallel, or fully_shard of each layer, with its AdamW. They train the
same decoder on the same rows, in the same two processes: steps take turns, and after each pair the order changes. The
ratio is the median of those of the pairs, so that other work on the machine falls on both. One pair of processes takes
less than a minute and a half; with LLMANAC_BENCH_QUICK=1 there are fewer pairs. Memory is measured in separate
processes.
"""

from __future__ import annotations

import functools
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from _harness import Benchmark, Result
from _workers import begin_memory, resident
from torch.distributed.fsdp import fully_shard

from evidence._ranks import on_ranks
from llmanac.core.spec import make, make_method
from llmanac.core.types import Batch
from llmanac.objectives.autoregressive import Autoregressive
from llmanac.parallel import ParallelSpec
from llmanac.parallel.mesh import Mesh
from llmanac.train import TrainSpec
from llmanac.train.ranks import team
from llmanac.train.team import TrainingRank, follow

bench = Benchmark("parallel", __doc__ or "")
ROWS, LENGTH, VOCABULARY, WARM = 8, 64, 2048, 2
PAIRS = 12 if os.environ.get("LLMANAC_BENCH_QUICK") else 60
ROUNDS = 1 if os.environ.get("LLMANAC_BENCH_QUICK") else 3
PATIENCE = 85 if os.environ.get("LLMANAC_BENCH_QUICK") else 300


def built() -> Any:
    """3.7 million parameters."""
    model = make_method("lm", {"name": "transformer", "dim": 256, "layers": 4, "max_length": LENGTH, "tied": True})
    return model.build(vocab_size=VOCABULARY).initialise(0)


def rows() -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    found: list[list[int]] = torch.randint(VOCABULARY, (ROWS, LENGTH + 1), generator=generator).tolist()
    return found


class Peer:
    """One rank of a training of torch's own parts, in the processes that are there."""

    def __init__(self, rank: int, weights: str) -> None:
        self.model = built()
        self.model.compute_dtype = torch.float32
        self.rows = rows()[rank * ROWS // 2 : (rank + 1) * ROWS // 2]
        self.called: Any
        if weights == "sharded":
            for layer in self.model.model.layers:
                fully_shard(layer)
            self.called = fully_shard(self.model)
        else:
            self.called = torch.nn.parallel.DistributedDataParallel(self.model)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), foreach=True)

    def step(self) -> None:
        ids = torch.tensor(self.rows)
        logits = self.called(Batch(ids=ids[:, :-1])).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def timed(call: Callable[[], Any]) -> tuple[float, float]:
    """Seconds and CPU seconds of this process; both ranks begin together."""
    dist.barrier()
    start, busy = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - start, time.process_time() - busy


def stepper_of(team: Any, model: Any = None) -> Any:
    """Our steps, of the model and the optimizer of `Peer`."""
    fields = {"steps": 9, "batch_tokens": ROWS * LENGTH, "length": LENGTH, "micro_batch": ROWS // 2}
    fields |= {"dtype": "float32", "attention": "sdpa", "optimizer": {"name": "adamw", "form": "foreach"}}
    return team.stepper(model or built(), Autoregressive(), make(TrainSpec, fields, "train"), folder=None)


def first(weights: str, pairs: int) -> list[Any]:
    """Rank 0: seconds and CPU seconds of both in each pair of steps."""
    with team(ParallelSpec(data=2, weights=weights, timeout=60), torch.device("cpu")) as made:  # type: ignore[arg-type]
        assert made is not None
        stepper = stepper_of(made)
        mesh, given = made.mesh, rows()
        mesh.send({"do": "make peer", "weights": weights})
        peer = Peer(0, weights)

        def ours() -> tuple[float, float]:
            mesh.send({"do": "barrier"})
            return timed(lambda: stepper(given, 1.0, 0))

        def theirs() -> tuple[float, float]:
            mesh.send({"do": "peer"})
            return timed(peer.step)

        taken = []
        for number in range(WARM + pairs):
            one = [(ours, theirs)[place]() for place in ((0, 1) if number % 2 else (1, 0))]
            taken.append(one if number % 2 else one[::-1])
    return taken[WARM:]


def second() -> None:
    """Rank 1: what rank 0 does at the same time."""

    def start(mesh: Mesh) -> Callable[[dict[str, Any]], None]:
        follower, peers = TrainingRank(mesh), {}

        def obey(command: dict[str, Any]) -> None:
            match command["do"]:
                case "make peer":
                    peers[0] = Peer(1, command["weights"])
                case "peer":
                    timed(peers[0].step)
                case "barrier":
                    dist.barrier()
                case _:
                    follower.obey(command)

        return obey

    Mesh.joined().follow(start)


def on_two(call: Callable[[int], Any]) -> list[Any]:
    """What `call` returns in two forked processes, given the number of each."""
    torch.set_num_threads(1)
    return on_ranks(2, functools.partial(call, 0), functools.partial(call, 1), PATIENCE)


@bench.measure("ddp-overhead")
def ddp_overhead() -> Result:
    """A step with replicated weights, as a multiple of the peer's: the median of pairs of steps."""
    pairs = on_two(lambda rank: second() if rank else first("replicated", PAIRS))[0]
    ratios = sorted(own[0] / peer[0] for own, peer in pairs)
    own, peer = (statistics.median(pair[place][0] for pair in pairs) for place in (0, 1))
    more = {
        "pairs of steps": len(pairs), "seconds: ours": own, "seconds: theirs": peer,
        "ratios, their middle half": [round(ratios[len(ratios) // 4], 3), round(ratios[-1 - len(ratios) // 4], 3)],
        "CPU of rank 0, ours / theirs": statistics.median(own[1] / peer[1] for own, peer in pairs),
    }  # fmt: skip
    name = "torch DistributedDataParallel"
    return Result("ddp-overhead", "of its step", statistics.median(ratios), name, 1.0, "lower", more)


def ours(rank: int, device: str = "meta") -> None:
    """Steps of our training with sharded weights; `device`: of rank 0's model, meta for one without memory."""
    if rank:
        follow()
        return
    with torch.device(device):
        model = built()
    with team(ParallelSpec(data=2, timeout=60, checkpoints="parts"), torch.device("cpu")) as made:
        assert made is not None
        stepper, given = stepper_of(made, model), rows()
        for number in range(WARM + 1):
            stepper(given, 1.0, number)


def theirs(rank: int) -> None:
    """The same steps by torch's parts."""
    dist.init_process_group("gloo")
    peer = Peer(rank, "sharded")
    for _ in range(WARM + 1):
        peer.step()
    dist.destroy_process_group()


def growth(call: Callable[[int], None], rank: int) -> float:
    """MiB by which the memory of this process is larger at its peak during `call` than before."""
    before = begin_memory()
    call(rank)
    return resident("VmHWM") - (before or 0.0)


@bench.measure("fsdp-memory")
def fsdp_memory() -> Result:
    """The peak of a process's resident memory in three steps with sharded weights; of two, the one with more.

    Ours is of a model that no process has all of; then of one that rank 0 has, as recipes do.
    """
    calls = (ours, theirs, functools.partial(ours, device="cpu"))
    rounds = [[on_two(functools.partial(growth, call)) for call in calls] for _ in range(ROUNDS)]
    own, peer = (statistics.median(max(one[place]) for one in rounds) for place in (0, 1))
    more = {
        "rounds": ROUNDS, **{
            f"MiB of each process: {name}": [statistics.median(one[place][rank] for one in rounds) for rank in (0, 1)]
            for place, name in enumerate(("ours", "theirs", "ours, with all weights on rank 0"))
        },
        "MiB of all weights": weights_mib(),
    }  # fmt: skip
    return Result("fsdp-memory", "MiB", own, "torch fully_shard", peer, "lower", more)


def weights_mib() -> float:
    return sum(p.nbytes for p in built().parameters()) / 2**20


if __name__ == "__main__":
    bench.main()
