"""Training on two ranks of which one is killed at random: what is lost, and whether the weights are the same.

A decoder of {parameters:,} parameters in float32 is trained for {steps} steps of AdamW on two processes of this
machine (gloo, one thread each), with a checkpoint every {every} steps. A random rank is killed (SIGKILL) a random time
after a random step or, {aimed} times, as soon as the unfinished folder of the next checkpoint is seen. Then the run is
started again and goes on from the newest checkpoint, until it has been killed {kills} times; then it runs to its end.
This is done on {runs} meshes.

- {killed} kills, {first} of them of rank 0; {writing} left an unfinished checkpoint. {failed} restarts failed.
- Of {runs} runs the final weights and the optimizer's state equal those of the uninterrupted run of the same mesh bit
  for bit in {equal}.
- A kill lost {lost:.1f} steps on average and {most} at most; a checkpoint is written every {every}.
- The other rank ended by itself after {alone} of {killed} kills, {named} times with an error that names the killed
  rank. It took {ended:.1f} s at most, but for {joining} kill while the ranks joined: there the other rank waits for the
  timeout of {timeout} s and gives torch's own message. `--processes` sees such a rank and ends the run (a test); the
  ranks of this study are forked without it. A rank that had not joined yet ends with the one that started it, without a
  word.
- The comparison can fail: with another seed of the data the weights differ ({control}).
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import socket
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from llmanac.core.errors import DataError, TrainingError
from llmanac.core.files import TEMPORARY
from llmanac.core.pages import Section, table
from llmanac.core.spec import make, make_method
from llmanac.data.pack import ListStream
from llmanac.objectives.autoregressive import Autoregressive
from llmanac.parallel import ParallelSpec
from llmanac.train import TrainSpec
from llmanac.train.checkpoint import Checkpoints, hash_tensors
from llmanac.train.loop import train
from llmanac.train.metrics import read_metrics
from llmanac.train.ranks import team
from llmanac.train.team import follow

ROWS: tuple[str, ...] = ()
CLAIM = "a run of two ranks, one of which is killed again and again, ends with the weights of a run that was not"
SEEDS, REPLICATE = 4, "run"
TIMED = ("kills", "parameters")

MESHES: list[dict[str, Any]] = [{"data": 2}, {"data": 2, "weights": "replicated"}, {"tensor": 2}, {"pipeline": 2}]
KILLS, EVERY, COUNT, LENGTH = 5, 3, 8, 16
STEPS = {"full": 18, "small": 6}
PATIENCE, TIMEOUT = 400.0, 30


def measure(seed: int, size: str) -> dict[str, Any]:
    """One mesh: an uninterrupted run, one whose ranks are killed, and one of other data."""
    threads, choose, mesh = torch.get_num_threads(), random.Random(seed), MESHES[seed]
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            plain, broken, other = (Path(folder) / name for name in ("plain", "broken", "other"))
            wanted = finished(mesh, plain, size)
            count = KILLS if size == "full" else 0
            kills = [killed(mesh, broken, choose, size, aimed=bool(number % 2)) for number in range(count)]
            equal, differs = finished(mesh, broken, size) == wanted, finished(mesh, other, size, data=1) != wanted
    finally:
        torch.set_num_threads(threads)
    return {
        "mesh": name_of(mesh), "parameters": built().parameter_count(), "kills": kills, "equal": equal,
        "differs": differs,
    }  # fmt: skip


def name_of(mesh: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" if isinstance(value, int) else value for name, value in mesh.items())


def built() -> Any:
    fields = {"name": "transformer", "dim": 32, "layers": 2, "max_length": 32, "tied": True}
    return make_method("lm", fields).build(vocab_size=64).initialise(0)


def train_once(mesh: dict[str, Any], folder: Path, size: str, data: int) -> None:
    """Rank 0's training; it goes on where the folder has a checkpoint."""
    fields = {"steps": STEPS[size], "batch_tokens": COUNT * LENGTH, "length": LENGTH, "micro_batch": 4}
    fields |= {"checkpoint_every": EVERY, "compile": "never", "schedule": {"name": "constant"}}
    fields |= {"dtype": "float32", "attention": "sdpa", "optimizer": {"name": "adamw", "form": "foreach"}}
    generator = torch.Generator().manual_seed(data)
    rows = torch.randint(64, (64, LENGTH + 1), generator=generator).tolist()
    with team(ParallelSpec(timeout=TIMEOUT, **mesh), torch.device("cpu")) as made:
        train(
            built(), ListStream(rows, rows=COUNT, seed=0), Autoregressive(), make(TrainSpec, fields, "train"), folder,
            seed=0, team=made, report=lambda text: None,
        )  # fmt: skip


class Run:
    """Two forked ranks; `says` is what a rank that lost the other one wrote."""

    def __init__(self, mesh: dict[str, Any], folder: Path, size: str, data: int = 0) -> None:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        context = multiprocessing.get_context("fork")
        self.reader, writer = context.Pipe(duplex=False)

        def rank(number: int) -> None:
            os.environ.update(RANK=str(number), LOCAL_RANK=str(number))
            try:
                follow() if number else train_once(mesh, folder, size, data)
            except (TrainingError, RuntimeError) as error:  # the store ends with rank 0
                writer.send(str(error))
                os._exit(3)

        def both() -> None:
            """Rank 0 starts rank 1, as `--processes` does."""
            os.environ.update(WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
            further = context.Process(target=rank, args=(1,))
            further.start()
            writer.send(further.pid)
            rank(0)
            further.join()
            os._exit(further.exitcode or 0)

        first = context.Process(target=both)
        first.start()
        writer.close()
        self.first, self.pids = first, [first.pid, self.reader.recv()]

    def alive(self) -> bool:
        return all(_exists(pid) for pid in self.pids)

    def wait(self) -> bool:
        """Whether both ranks ended by themselves."""
        self.first.join(PATIENCE)
        stop = time.monotonic() + PATIENCE
        while _exists(self.pids[1]) and time.monotonic() < stop:
            time.sleep(0.01)
        late = [pid for pid in self.pids if _exists(pid)]
        for pid in late:
            os.kill(pid, signal.SIGKILL)
        self.first.join()
        return not late

    def says(self) -> str:
        try:
            return str(self.reader.recv()) if self.reader.poll(0) else ""
        except EOFError:
            return ""


def _exists(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def finished(mesh: dict[str, Any], folder: Path, size: str, data: int = 0) -> str:
    """Run to the end; a hash of the last checkpoint's weights and optimizer state. DataError where it fails."""
    run = Run(mesh, folder, size, data)
    if not run.wait() or run.first.exitcode:
        raise DataError(f"{name_of(mesh)}: a run that nothing interrupts failed: {run.says()}")
    found = Checkpoints(folder / "checkpoints").latest()
    assert found is not None and found.step == STEPS[size]
    return hash_tensors({f"{part}.{n}": t for part, tensors in found.tensors.items() for n, t in tensors.items()})


def _logged(folder: Path) -> int:
    """The last step that is in the log."""
    try:
        return max((line["step"] for line in read_metrics(folder) if "loss" in line), default=0)
    except (OSError, ValueError, KeyError, json.JSONDecodeError, DataError):
        return 0


def _steps(folder: Path) -> list[int]:
    names = (path.name.removeprefix("step-") for path in (folder / "checkpoints").glob("step-*"))
    return [int(name) for name in names if name.isdigit()]


def killed(mesh: dict[str, Any], folder: Path, choose: random.Random, size: str, *, aimed: bool) -> dict[str, Any]:
    """Start, or start again, and kill a random rank at a random moment, or in a write; `failed` is a failed restart."""
    victim, before = choose.randrange(2), max(_steps(folder), default=0)
    target = choose.randint(min(before + 1, STEPS[size] - 1), min(before + 6, STEPS[size] - 1))
    stale = _unfinished(folder)
    run, stop = Run(mesh, folder, size), time.monotonic() + PATIENCE

    def due() -> bool:
        return bool(_unfinished(folder) - stale) if aimed else _logged(folder) >= target

    while not due() and time.monotonic() < stop and run.alive():
        time.sleep(0.0 if aimed else 0.002)
    failed = not run.alive() or time.monotonic() > stop
    time.sleep(0.0 if aimed else choose.random() * 0.05)
    os.kill(run.pids[victim], signal.SIGKILL)
    start = time.monotonic()
    ended = run.wait()
    reached = _logged(folder)
    return {
        "mesh": name_of(mesh), "aimed": aimed, "rank": victim, "step": reached,
        "lost": reached - max(_steps(folder), default=0), "writing": bool(_unfinished(folder) - stale),
        "failed": failed, "after": time.monotonic() - start, "ended": ended, "says": run.says(),
    }  # fmt: skip


def _unfinished(folder: Path) -> set[str]:
    """Checkpoints that have no name yet."""
    return {path.name for path in (folder / "checkpoints").glob(f"{TEMPORARY}*step-*")}


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    """The page."""
    rows = [
        [
            k["mesh"], "write" if k["aimed"] else "step", str(k["rank"]), str(k["step"]), str(k["lost"]),
            "yes" if k["writing"] else "", f"{k['after']:.1f}" if k["ended"] else "did not",
            "failed" if k["failed"] else "", k["says"].partition(" (")[0],
        ]
        for result in seeds
        for k in result["kills"]
    ]  # fmt: skip
    heads = ["mesh", "aimed at", "rank", "at step", "steps lost", "left unfinished", "s until both ended", "restart"]
    heads += ["the other says"]
    return [Section("Every kill", [], [table(heads, rows)])]


def _joining(kill: dict[str, Any]) -> bool:
    """Whether the other rank still waited for the killed one to join."""
    return "wait timeout" in kill["says"] or not kill["ended"]


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    kills = [kill for result in seeds for kill in result["kills"]]
    return {
        "parameters": seeds[0]["parameters"], "steps": STEPS["full"], "every": EVERY, "kills": KILLS,
        "killed": len(kills), "aimed": sum(k["aimed"] for k in kills),
        "first": sum(k["rank"] == 0 for k in kills), "writing": sum(k["writing"] for k in kills),
        "failed": sum(k["failed"] for k in kills), "runs": len(seeds), "equal": sum(one["equal"] for one in seeds),
        "lost": sum(k["lost"] for k in kills) / len(kills), "most": max(k["lost"] for k in kills),
        "alone": sum(k["ended"] for k in kills),
        "ended": max(k["after"] for k in kills if k["ended"] and not _joining(k)),
        "joining": sum(map(_joining, kills)), "timeout": TIMEOUT,
        "named": sum(f"rank {k['rank']} " in k["says"] for k in kills),
        "control": "they do" if all(result["differs"] for result in seeds) else "they do not",
    }  # fmt: skip
