"""Training over several machines, each a network namespace with its own disk: torchrun, as docs/parallel.md has it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from _machines import Machines, machines, said_by

TESTS = Path(__file__).resolve().parent.parent
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def torchrun(made: Machines, *program: str, each: int = 1, options: tuple[str, ...] = (), **variables: str):
    """The same command on every machine; c10d's rendezvous is on the first."""
    command = ["-m", "torch.distributed.run", "--nnodes", str(len(made.each)), "--nproc-per-node", str(each)]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "node0:29500", *options, *program]
    return [machine.python(*command, **variables) for machine in made.each]


def ranks(*arguments: str) -> tuple[str, ...]:
    return (str(TESTS / "_machine_ranks.py"), *arguments)


PATHS = os.pathsep.join([str(TESTS), str(TESTS / "references"), os.environ.get("PYTHONPATH", "")])
PAIRS = ("data", "replicated", "tensor", "pipeline", "context", "lora", "lora-tensor")


@pytest.mark.parametrize(
    ("count", "each", "names"), [(2, 1, PAIRS), (4, 2, ("mixed", "mixed-lora"))], ids=["two", "four"]
)
def test_losses_norms_and_weights_equal_one_process(tmp_path, count, each, names):
    """In float64 to 1e-9: two machines of one rank, and four of two that are a mesh of 2 x 2 x 2."""
    with machines(count, tmp_path) as made:
        started = torchrun(made, *ranks("parity", *names), each=each, PYTHONPATH=PATHS)
        texts = said_by(*started, seconds=300)
        assert not any(program.returncode for program in started), "\n".join(texts)
        for name in names:
            assert sum(text.count(f": {name} is equal") for text in texts) == count * each, texts
