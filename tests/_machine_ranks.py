"""A rank that torchrun starts in a machine of `_machines`: what `test_parallel.check` does among forked ranks.

python _machine_ranks.py parity NAME...      each case of CASES; AssertionError where it differs from one process
python _machine_ranks.py slow NAME           rank 1 computes its second step for longer than the timeout
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import test_parallel
import torch
from test_parallel import CPU, built, check, packed_of, rows_of, spec_of
from test_parallel_adapters import adapted, masked

from llmanac.objectives.autoregressive import Autoregressive
from llmanac.parallel import ParallelSpec
from llmanac.parallel.mesh import further_rank
from llmanac.train._worker import TrainingWorker
from llmanac.train.team import follow, team

RANK = int(os.environ["RANK"])
MIXED = {"data": 2, "tensor": 2, "pipeline": 2}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "data": ({"data": 2}, {}),
    "replicated": ({"data": 2, "weights": "replicated"}, {}),
    "tensor": ({"tensor": 2}, {}),
    "pipeline": ({"pipeline": 2}, {}),
    "context": ({"context": 2}, {"rows": lambda step: packed_of(step) if step else rows_of(step)}),
    "lora": ({"data": 2}, {"model": lambda dtype: adapted(dtype, layers=2), "rows": masked}),
    "lora-tensor": ({"tensor": 2}, {"model": lambda dtype: adapted(dtype, layers=2), "rows": masked}),
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
    {"parity": parity, "slow": slow}[sys.argv[1]](*sys.argv[2:])
