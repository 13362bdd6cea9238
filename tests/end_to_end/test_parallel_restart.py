"""torchrun --max-restarts: a killed rank, and the run goes on by itself from its last checkpoint."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from _builds import small_recipe, text

from llmanac.core.files import TEMPORARY
from llmanac.train.checkpoint import Checkpoints
from llmanac.train.metrics import read_metrics

STEPS = 60
RECIPE = small_recipe(STEPS, 4)


def started(place: Path, name: str, *options: str) -> subprocess.Popen[str]:
    program = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *options]
    program += ["--master-addr", "127.0.0.1", "--master-port", "0", "--rdzv-backend", "c10d"]
    program += ["--rdzv-endpoint", "127.0.0.1:0", "-m", "llmanac", "run", "small.toml"]
    return subprocess.Popen(
        [*program, "--folder", name, "-s", "parallel.data=2"], cwd=place, env=os.environ | {"OMP_NUM_THREADS": "1"},
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def rank_of(process: int, rank: int) -> int:
    """The child of torchrun that is a rank."""
    for child in Path(f"/proc/{process}/task/{process}/children").read_text().split():
        if f"RANK={rank}" in Path(f"/proc/{child}/environ").read_text().split("\0"):
            return int(child)
    raise AssertionError(f"no rank {rank}")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found = Checkpoints(folder / "pretrain" / "checkpoints").latest()
    assert found is not None and found.step == STEPS
    return {f"{part}.{name}": t for part, tensors in found.tensors.items() for name, t in tensors.items()}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_torchrun_starts_a_run_again_whose_rank_was_killed(tmp_path):
    """Rank 1 while it trains, then rank 0 as it writes a checkpoint: bit for bit the run that nothing interrupted."""
    rng = random.Random(0)
    (tmp_path / "text").mkdir()
    for n in range(12):
        (tmp_path / "text" / f"{n}.txt").write_text("\n\n".join(f"{text(rng, 60)}." for _ in range(12)))
    (tmp_path / "small.toml").write_text(RECIPE)
    alone = started(tmp_path, "plain")
    said, _ = alone.communicate(timeout=300)
    assert alone.returncode == 0, said

    broken = started(tmp_path, "broken", "--max-restarts", "2")
    checkpoints, stop = tmp_path / "broken" / "pretrain" / "checkpoints", time.monotonic() + 500
    try:
        for rank, pattern in ((1, "step-*"), (0, f"{TEMPORARY}*")):
            before = set(checkpoints.glob("step-*"))
            while time.monotonic() < stop and not (seen := set(checkpoints.glob(pattern)) - before):
                time.sleep(0.0005)
            os.kill(rank_of(broken.pid, rank), signal.SIGKILL)
            assert seen, "no checkpoint in time"
            time.sleep(3)  # the other rank ends, and leaves no checkpoint that was not there
        said, _ = broken.communicate(timeout=max(1.0, stop - time.monotonic()))
    finally:
        broken.kill()
    assert broken.returncode == 0 and said.count("resuming") == 2, said
    found, expected = weights(tmp_path / "broken"), weights(tmp_path / "plain")
    assert found.keys() == expected.keys() and all(torch.equal(found[name], value) for name, value in expected.items())
    steps = [line["step"] for line in read_metrics(tmp_path / "broken" / "pretrain") if "loss" in line]
    assert steps == list(range(1, STEPS + 1))
