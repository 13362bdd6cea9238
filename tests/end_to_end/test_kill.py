"""Killed with -9 at any moment, resumed, the final weights and the loss log are those of an uninterrupted run.

The trials run in a process of their own (`python test_kill.py MODE TRIALS SEED FOLDER`), which imports everything once
and then forks a fresh training for each attempt. It kills each attempt a random number of steps on, either at once or
a random moment after the next checkpoint write has begun. Two controls break what is tested, and the same trials must
notice. Progress is counted in steps, never in seconds, so that a busy machine changes nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

STEPS, EVERY = 24, 2
KILLS = 6  # lives of a trial before the one that may end


def trials(mode: str, count: int, seed: int, folder: Path) -> dict[str, int]:
    """The test below reads this: how many trials, kills, kills inside a checkpoint write, and wrong endings."""
    output = subprocess.run(
        [sys.executable, __file__, mode, str(count), str(seed), str(folder)],
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert output.returncode == 0, output.stderr[-2000:]
    return json.loads(output.stdout.splitlines()[-1])


def test_killed_anywhere_ends_the_same(tmp_path: Path) -> None:
    found = trials("good", 1, 1, tmp_path)
    assert found["wrong"] == 0, found
    assert found["kills"] >= 4, found
    assert found["in_write"] >= 1, found


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["random states not restored", "written in place without checksums"])
def test_the_controls_are_caught(mode: str, tmp_path: Path) -> None:
    # where a kill falls depends on the machine: a control may need a few tries before one of them does its damage
    found = [trials(mode, 2, seed, tmp_path / str(seed)) for seed in range(2, 4)]
    for seed in range(4, 8):
        if not any(f["wrong"] for f in found):
            found.append(trials(mode, 4, seed, tmp_path / str(seed)))
    assert any(f["wrong"] for f in found), found


def test_killed_anywhere_a_revised_training_ends_as_its_plan_says(tmp_path: Path) -> None:
    """The number of steps changes while it runs: it ends as one that has the same revisions and is never killed."""
    found = trials("revised", 2, 5, tmp_path)
    assert found["wrong"] == 0, found
    assert found["kills"] >= 6 and found["revisions"] >= 1, found


@pytest.mark.slow
def test_killed_anywhere_ends_the_same_many_times(tmp_path: Path) -> None:
    found = trials("good", 40, 3, tmp_path)
    assert found["wrong"] == 0, found
    assert found["in_write"] >= 20, found


# --- what runs in the process of its own -------------------------------------------------------------------------


def work(folder: Path, mode: str) -> None:
    """One training, from wherever the folder says it stands, to its end; then a file with the digests."""
    import numpy as np
    import torch

    from llmanac.core import registry, spec
    from llmanac.data.pack import PackedStream
    from llmanac.data.tokens import TokenDataset
    from llmanac.objectives.autoregressive import Autoregressive
    from llmanac.train import TrainSpec, pace
    from llmanac.train.loop import train
    from llmanac.train.metrics import read_metrics

    torch.set_num_threads(1)
    break_something(mode)

    class Noisy(Autoregressive):
        """Draws from every kind of generator, so that a state which is not restored shows."""

        def __init__(self) -> None:
            super().__init__()
            self.generators = {"noise": torch.Generator().manual_seed(5), "pick": np.random.default_rng(6)}

        def collate(self, rows):
            clock.batches += 1
            batch = super().collate(rows)
            wrong = torch.rand(batch.ids.shape) < 0.05 + 0.05 * random.random()
            wrong &= torch.rand(batch.ids.shape, generator=self.generators["noise"]) < 0.9
            token = np.random.randint(256) ^ int(self.generators["pick"].integers(2))
            batch.ids[wrong] = token
            return batch

    class Clock:
        """A second a batch, and five from the eleventh on of each process."""

        batches = 0

        def __call__(self) -> float:
            return float(self.batches + 4 * max(0, self.batches - 10))

    clock, budget = Clock(), None
    if mode == "revised":
        pace.now, budget = clock, 2.0 * STEPS

    model = registry.build(
        "lm", "transformer", dim=32, layers=2, max_length=32, vocab_size=256,
        blocks=(spec.make_method("block", {"name": "pre-norm", "mixer": {"name": "grouped-query"}}),),
    )  # fmt: skip
    model.initialise(0)
    source = PackedStream(TokenDataset(folder.parent / "data"), length=32, rows=4, seed=0)
    settings = TrainSpec(
        steps=STEPS, batch_tokens=128, length=32, micro_batch=2, dtype="float32", attention="plain", compile="never",
        checkpoint_every=EVERY, optimizer=spec.make_method("optimizer", {"name": "muon", "precision": "float32"}),
    )  # fmt: skip
    result = train(model, source, Noisy(), settings, folder, seed=0, budget=budget, report=lambda text: None)
    weights = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest()
    losses = [(line["step"], line["loss"].hex()) for line in read_metrics(folder)]
    assert result.steps == STEPS or mode == "revised"
    (folder / "done.json").write_text(json.dumps([weights, losses]), "utf-8")


def break_something(mode: str) -> None:
    """The controls; in every mode the disk is a slow one, so that a kill inside a write is likely."""
    from llmanac.train import checkpoint, loop

    save = checkpoint.save_file

    def slowly(tensors, path):
        save(tensors, path)
        time.sleep(0.004)

    checkpoint.save_file = slowly
    if mode == "random states not restored":
        loop.restore = lambda state, generators=None: None
    if mode == "written in place without checksums":

        @contextlib.contextmanager
        def in_place(path):
            path.mkdir(parents=True, exist_ok=True)
            yield path

        checkpoint.atomic_folder = in_place
        checkpoint._sha256 = checkpoint._seal = lambda whatever: "same"
        checkpoint.Checkpoints.path = lambda self, step: self.folder / "step-00000001"


def written(folder: Path, mode: str) -> bool:
    """Whether a checkpoint is being written."""
    checkpoints = folder / "checkpoints"
    if "in place" in mode:
        model, state = (checkpoints / "step-00000001" / name for name in ("model.safetensors", "state.json"))
        with contextlib.suppress(OSError):
            return model.stat().st_mtime_ns > state.stat().st_mtime_ns
        return False
    return checkpoints.is_dir() and any(name.startswith(".tmp") for name in os.listdir(checkpoints))


def logged(folder: Path) -> int:
    """Steps in the log."""
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def attempt(folder: Path, mode: str, steps: int | None, in_write: bool) -> str:
    """Fork a training and kill it `steps` steps on (None: let it end): "done", "failed" or "killed[ in a write]"."""
    start = logged(folder)
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            work(folder, mode)
            code = 0
        os._exit(code)
    reached = False
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return "done" if os.waitstatus_to_exitcode(status) == 0 else "failed"
        reached = reached or (steps is not None and logged(folder) >= start + steps)
        if reached and (not in_write or written(folder, mode)):
            time.sleep(random.random() * 0.01)
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            if not os.WIFSIGNALED(status):
                return "done"  # it was faster
            return "killed in a write" if written(folder, mode) else "killed"
        time.sleep(0.0005)


def main(mode: str, count: int, seed: int, folder: Path) -> dict[str, int]:
    import torch.utils.tensorboard  # noqa: F401 - imported before the forks, as is all that follows

    import llmanac.models.lm.transformer
    import llmanac.train.loop
    import llmanac.train.optimizers._adamw_kernel
    import llmanac.train.optimizers.muon  # noqa: F401
    from llmanac.data.tokens import TokenDataset

    text = Path(__file__).read_bytes()
    TokenDataset.write_examples(folder / "data", [(list(part), None) for part in text.split(b"\n\n")], vocab_size=256)
    random.seed(seed)
    assert attempt(folder / "whole", "good", None, False) == "done"
    expected = (folder / "whole" / "done.json").read_text("utf-8")
    found = {"trials": count, "kills": 0, "in_write": 0, "wrong": 0, "revisions": 0}
    for number in range(count):
        target, outcome = folder / f"trial-{number}", "killed"
        for life in range(KILLS + 1):
            steps = None if life == KILLS else random.randint(0, 4)
            outcome = attempt(target, mode, steps, random.random() < 0.6)
            if not outcome.startswith("killed"):
                break
            found["kills"] += 1
            found["in_write"] += outcome == "killed in a write"
        done, plan = target / "done.json", target / "plan.json"
        if mode == "revised":
            again = folder / f"whole-{number}"
            again.mkdir()
            (again / plan.name).write_bytes(plan.read_bytes())
            assert attempt(again, mode, None, False) == "done"
            expected = (again / done.name).read_text("utf-8")
            found["revisions"] += len(json.loads(plan.read_text("utf-8"))["revisions"])
        found["wrong"] += outcome == "failed" or done.read_text("utf-8") != expected
    return found


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))))
