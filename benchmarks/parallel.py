"""Two processes of this machine (gloo, one thread each): our training step and plain torch recipes of the same model.

The peers are a loop of torch's own parts: DistributedDataParallel, or fully_shard of each layer, with its AdamW. They
train the same decoder on the same rows. Contestants take turns, each with processes of its own.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import statistics
import time
from collections.abc import Callable
from typing import Any

from _harness import Benchmark, Result

bench = Benchmark("parallel", __doc__ or "")
ROWS, LENGTH, VOCABULARY, STEPS, ROUNDS = 8, 64, 2048, 6, 3
Measured = tuple[float, float, int]  # seconds and CPU seconds of a step, bytes


def built() -> Any:
    """3.7 million parameters."""
    from llmanac.core.spec import make_method

    model = make_method("lm", {"name": "transformer", "dim": 256, "layers": 4, "max_length": LENGTH, "tied": True})
    return model.build(vocab_size=VOCABULARY).initialise(0)


def rows() -> list[list[int]]:
    import torch

    generator = torch.Generator().manual_seed(0)
    found: list[list[int]] = torch.randint(VOCABULARY, (ROWS, LENGTH + 1), generator=generator).tolist()
    return found


def median_of(step: Callable[[int], Any]) -> tuple[float, float]:
    """Seconds and CPU seconds of this process for a step."""
    taken, busy = [], []
    for number in range(STEPS):
        start, computed = time.perf_counter(), time.process_time()
        step(number)
        taken.append(time.perf_counter() - start)
        busy.append(time.process_time() - computed)
    return statistics.median(taken[1:]), statistics.median(busy[1:])


def ours(rank: int, weights: str) -> Measured | None:
    """Seconds of a step, CPU seconds of it, and bytes of weights, gradients and moments of rank 0's part."""
    import torch

    from llmanac.core.spec import make
    from llmanac.objectives.autoregressive import Autoregressive
    from llmanac.parallel import ParallelSpec
    from llmanac.train import TrainSpec
    from llmanac.train.team import follow, team

    if rank:
        follow()
        return None
    fields = {"steps": STEPS, "batch_tokens": ROWS * LENGTH, "length": LENGTH, "micro_batch": ROWS // 2}
    fields |= {"dtype": "float32", "attention": "sdpa", "optimizer": {"name": "adamw", "form": "foreach"}}
    with team(ParallelSpec(data=2, weights=weights, timeout=60), torch.device("cpu")) as made:  # type: ignore[arg-type]
        assert made is not None
        stepper = made.stepper(built(), Autoregressive(), make(TrainSpec, fields, "train"), folder=None)  # type: ignore[arg-type]
        seconds, cpu = median_of(lambda number: stepper(rows(), 1.0, number))
        held = 2 * sum(p.nbytes for p in stepper.worker.parameters.values())
        return seconds, cpu, held + sum(value.nbytes for value in stepper.worker.optimizer.state.values())


def theirs(rank: int, weights: str) -> Measured:
    """The same of torch's own parts."""
    import torch
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard

    from llmanac.core.types import Batch

    dist.init_process_group("gloo")
    model, own = built(), rows()[rank * ROWS // 2 : (rank + 1) * ROWS // 2]
    model.compute_dtype = torch.float32
    if weights == "sharded":
        for layer in model.model.layers:
            fully_shard(layer)
        called: Any = fully_shard(model)
    else:
        called = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters())

    def step(number: int) -> None:
        ids = torch.tensor(own)
        logits = called(Batch(ids=ids[:, :-1])).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    seconds, cpu = median_of(step)
    local = [p.to_local() if hasattr(p, "to_local") else p for p in model.parameters()]
    dist.destroy_process_group()
    return seconds, cpu, 16 * sum(p.numel() for p in local)  # weight, gradient, two moments


def measured(contestant: Callable[[int, str], Any], weights: str) -> Measured:
    """What rank 0 of two forked processes returns."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)

    def process(rank: int) -> None:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1")
        os.environ.update(MASTER_PORT=str(port), OMP_NUM_THREADS="1")
        result = contestant(rank, weights)
        if not rank:
            writer.send(result)

    children = [context.Process(target=process, args=(rank,), daemon=True) for rank in range(2)]
    for child in children:
        child.start()
    try:
        if not reader.poll(120):
            raise SystemExit("parallel: the two processes did not end in 120 s")
        result: Measured = reader.recv()
    finally:
        for child in children:
            child.join(15)
            child.kill()
    return result


def both(weights: str) -> tuple[list[Measured], list[Measured]]:
    found: tuple[list[Measured], list[Measured]] = ([], [])
    for _ in range(ROUNDS):
        for place, contestant in zip(found, (ours, theirs), strict=True):
            place.append(measured(contestant, weights))
    return found


@bench.measure("ddp-overhead")
def ddp_overhead() -> Result:
    """Seconds of a step with replicated weights."""
    found = both("replicated")
    (own, own_cpu, _), (peer, peer_cpu, _) = (map(statistics.median, zip(*rounds, strict=True)) for rounds in found)
    more = {"ours: CPU s of rank 0": own_cpu, "theirs: CPU s of rank 0": peer_cpu}
    return Result("ddp-overhead", "s", own, "torch DistributedDataParallel", peer, "lower", more)


@bench.measure("fsdp-memory")
def fsdp_memory() -> Result:
    """Bytes of weights, gradients and moments of a rank with sharded weights."""
    own, peer = (found[0][2] / 2**20 for found in both("sharded"))
    return Result("fsdp-memory", "MiB", own, "torch fully_shard", peer, "lower")


if __name__ == "__main__":
    bench.main()
