"""A rank that torchrun starts in a machine of `_machines`: what `test_parallel.check` does among forked ranks.

python _machine_ranks.py parity NAME...      each case of CASES; AssertionError where it differs from one process
python _machine_ranks.py bytes NAME...       rank 0 prints "NAME SENT RECEIVED EXPECTED SCATTERED": bytes of a step
python _machine_ranks.py slow NAME           rank 1 computes its second step for longer than the timeout
"""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import test_parallel
import torch
from test_parallel import CPU, built, check, packed_of, rows_of, spec_of
from test_parallel_adapters import adapted, masked
from test_parallel_preferences import another, pairs
from test_parallel_preferences import made as preference

from llmanac.core.spec import make_method
from llmanac.objectives.autoregressive import Autoregressive
from llmanac.parallel import ParallelSpec, traffic
from llmanac.parallel.mesh import further_rank
from llmanac.train._worker import TrainingWorker
from llmanac.train.ranks import team
from llmanac.train.team import follow

RANK = int(os.environ["RANK"])
HEADERS = 66  # Ethernet 14, IP 20, TCP 32
WIDTH, DEPTH, LONG, MEASURED = 256, 4, 128, 7
MIXED = {"data": 2, "tensor": 2, "pipeline": 2}


def preferences() -> dict[str, Any]:
    """All weights against a reference that is divided too."""
    objective = partial(preference, "dpo", another)
    return {"model": lambda dtype: built(dtype, layers=2), "rows": pairs, "objective": objective}


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "data": ({"data": 2}, {}),
    "replicated": ({"data": 2, "weights": "replicated"}, {}),
    "tensor": ({"tensor": 2}, {}),
    "pipeline": ({"pipeline": 2}, {}),
    "context": ({"context": 2}, {"rows": lambda step: packed_of(step) if step else rows_of(step)}),
    "lora": ({"data": 2}, {"model": lambda dtype: adapted(dtype, layers=2), "rows": masked}),
    "lora-tensor": ({"tensor": 2}, {"model": lambda dtype: adapted(dtype, layers=2), "rows": masked}),
    "dpo": ({"data": 2}, preferences()),
    "dpo-tensor": ({"tensor": 2}, preferences()),
    "mixed": (MIXED, {}),
    "mixed-lora": (MIXED, {"model": lambda dtype: adapted(dtype, layers=2), "rows": masked}),
}


def here(count: int, call: Any) -> None:
    """In place of forked ranks: this process is one of them."""
    call() if RANK == 0 else follow()


def parity(*names: str) -> None:
    for number, name in enumerate(names):
        mesh, choices = CASES[name]
        os.environ["TORCHELASTIC_RESTART_COUNT"] = str(number)  # keys of their own in torchrun's one store
        check(mesh, **choices)
        print(f"rank {RANK} on {os.uname().nodename}: {name} is equal", flush=True)


def on_the_cable() -> tuple[int, int]:
    """Bytes that this machine has received and sent, less the headers of Ethernet, IP and TCP of each packet."""
    (line,) = [line for line in Path("/proc/net/dev").read_text().splitlines() if "eth0" in line]
    numbers = [int(field) for field in line.partition(":")[2].split()]
    return numbers[0] - HEADERS * numbers[1], numbers[8] - HEADERS * numbers[9]


def closed_form(name: str, model: Any, parallel: ParallelSpec, tokens: int, micro_batches: int) -> float:
    """Numbers that rank 0 sends in a step, of the formulas that docs/parallel.md has."""
    layers = sum(p.numel() for p in model.model.layers.parameters())
    rest = sum(p.numel() for p in model.parameters()) - layers
    if parallel.tensor > 1:
        return traffic.tensor_numbers(parallel, DEPTH, tokens, WIDTH, micro_batches, (2 * DEPTH + 1) * WIDTH)
    if parallel.pipeline > 1:
        return traffic.pipeline_numbers(parallel, 0, tokens, WIDTH, micro_batches)
    found = traffic.data_numbers(parallel, layers, rest, micro_batches)
    if parallel.context > 1:
        found += traffic.context_numbers(parallel, DEPTH, tokens, 2 * 4 * (WIDTH // 4), micro_batches)
    return found


def count(*names: str) -> None:
    """Steps of a model of 4 million parameters, or of many tokens where those are what is sent."""
    for number, name in enumerate(names):
        os.environ["TORCHELASTIC_RESTART_COUNT"] = str(number)
        if RANK:
            follow()
            continue
        parallel = ParallelSpec(**CASES[name][0])
        weights = parallel.replicas > 1
        vocabulary, rows, micro = (8192, 4, 2) if weights else (64, 64, 64)
        heads = {"name": "softmax", "heads": 4, "kv_heads": 4}
        blocks = [{"name": "pre-norm", "mixer": heads, "ffn": {"name": "gated", "width": 2 * WIDTH}}]
        fields = {
            "name": "transformer",
            "dim": WIDTH,
            "layers": DEPTH,
            "max_length": LONG,
            "tied": not bool(parallel.pipeline > 1),
        }
        model = make_method("lm", {**fields, "blocks": blocks}).build(vocab_size=vocabulary).initialise(0)
        spec = spec_of(torch.float32, batch_tokens=rows * LONG, length=LONG, micro_batch=micro)
        drawn = torch.randint(vocabulary, (rows, LONG + 1), generator=torch.Generator().manual_seed(0)).tolist()
        with team(parallel, CPU) as made:
            stepper = made.stepper(model, Autoregressive(), spec, folder=None)
            stepper(drawn, 1.0, 0)
            before = on_the_cable()
            with traffic.Recorder() as counted:
                for step in range(1, 1 + MEASURED):
                    stepper(drawn, 1.0, step)
            received, sent = (b - a for a, b in zip(before, on_the_cable(), strict=True))
        micro = stepper.spec.micro_batch
        times = rows // parallel.data // micro
        expected = 4 * closed_form(name, model, parallel, micro * LONG, times)
        broadcast = 2 * 8 * rows * LONG  # ids and targets of the step, from rank 0
        scattered = counted.bytes.get("reduce-scatter", 0.0) / MEASURED
        found = (sent / MEASURED - broadcast, received / MEASURED, expected, scattered)
        print(name, *(f"{value:.0f}" for value in found), flush=True)


def slow(name: str) -> None:
    mesh, _ = CASES[name]
    gradients = TrainingWorker.gradients

    def computing(worker: TrainingWorker, *given: Any) -> Any:
        if RANK and worker.optimizer.steps:
            time.sleep(12)
        return gradients(worker, *given)

    TrainingWorker.gradients = computing
    if RANK:
        further_rank(follow)
        return
    with team(ParallelSpec(timeout=3, **mesh), CPU) as made:
        stepper = made.stepper(built(), Autoregressive(), spec_of(torch.float64), folder=None)
        for step in range(2):
            stepper(rows_of(step), 1.0, step)


if __name__ == "__main__":
    torch.set_num_threads(1)
    test_parallel.on_ranks = here
    {"parity": parity, "bytes": count, "slow": slow}[sys.argv[1]](*sys.argv[2:])
