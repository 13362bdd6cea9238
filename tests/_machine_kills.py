"""Ranks that are killed and machines that are cut off, again and again, in a run over two machines in miniature.

PYTHONPATH=. python tests/_machine_kills.py --kills 40 --partitions 10 --record FILE

A kill ends one rank (SIGKILL) a random time after a random step; torchrun starts both again, and they go on from the
last checkpoint. A partition takes one machine's cable out until both ranks have ended; then the cable is back, and the
same run is started again. Each fault is a line of the record: what it was, after how many seconds which rank and
machine were named, when no process of the broken start was left, and how busy the machine was. The last line of a run
compares final weights bit for bit. Each line has a commit, a date, the machine, and a digest of itself.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from _builds import small_recipe, text
from _machines import Machine, Machines, machines, until

from llmanac.train.checkpoint import Checkpoints
from llmanac.train.metrics import read_metrics
from tools import records

TIMEOUT, GRACE = 20, 15  # seconds: parallel.timeout, and what a rank may take besides
STARTING = 240  # seconds until a start computes steps, on a busy machine
EACH, EVERY, BEFORE = 10, 10, 20  # kills of one run; steps between checkpoints, and after a start until a fault


class Said:
    """What programs say, line by line, as it comes."""

    def __init__(self, *programs: subprocess.Popen[str]) -> None:
        self.lines: list[tuple[float, str]] = []
        self.programs = programs
        for program in programs:
            threading.Thread(target=self._read, args=(program,), daemon=True).start()

    def _read(self, program: subprocess.Popen[str]) -> None:
        assert program.stdout is not None
        with suppress(ValueError):
            for line in program.stdout:
                self.lines.append((time.monotonic(), line))

    def when(self, pattern: str, since: float = 0.0) -> float | None:
        """When a line that fits was said."""
        return next((at for at, line in list(self.lines) if at >= since and re.search(pattern, line)), None)

    def ended(self) -> bool:
        return all(program.poll() is not None for program in self.programs)


def prepared(machine: Machine, steps: int) -> Path:
    """The recipe and its text on one machine's disk; where it logs the steps of its run."""
    rng = random.Random(0)
    (machine.folder / "text").mkdir()
    for n in range(12):
        (machine.folder / "text" / f"{n}.txt").write_text("\n\n".join(f"{text(rng, 60)}." for _ in range(12)))
    (machine.folder / "small.toml").write_text(small_recipe(steps, EVERY, "micro_batch = 4"))
    return machine.folder / "run" / "pretrain"


def started(each: list[Machine], *options: str, restarts: int = 0, ranks: int = 1) -> Said:
    command = ["-m", "torch.distributed.run", "--nnodes", str(len(each)), "--nproc-per-node", str(ranks)]
    command += ["--max-restarts", str(restarts), "--rdzv-backend", "c10d", "--rdzv-endpoint", "node0:29500"]
    command += ["-m", "llmanac", "run", "small.toml", "--folder", "run", "-s", "parallel.data=2"]
    return Said(*(m.python(*command, "-s", f"parallel.timeout={TIMEOUT}", *options) for m in each))


def logged(folder: Path) -> int:
    with suppress(OSError, ValueError):  # as it is cut back by a start that goes on
        return max((line["step"] for line in read_metrics(folder) if "loss" in line), default=0)
    return 0


def weights(folder: Path, steps: int) -> dict[str, torch.Tensor]:
    found = Checkpoints(folder / "checkpoints").latest()
    assert found is not None and found.step == steps, folder
    return {f"{part}.{name}": t for part, tensors in found.tensors.items() for name, t in tensors.items()}


def computing(folder: Path, said: Said, starts: int, rng: random.Random) -> int:
    """Wait for a random step of the last of so many starts, each of which says what it reads."""
    until(lambda: said.ended() or sum("documents, " in line for _, line in list(said.lines)) >= starts, STARTING)
    first = logged(folder)
    aim = first + rng.randrange(2, BEFORE)
    until(lambda: said.ended() or logged(folder) >= aim, STARTING)
    time.sleep(rng.uniform(0.0, 0.1))
    assert not said.ended(), "".join(line for _, line in said.lines)
    return logged(folder)


def watched(fault: dict[str, Any], said: Said, begin: float, names: list[str], gone: Any) -> dict[str, Any]:
    """A fault with the seconds until each of `names` was named with its machine, and until `gone`."""
    patterns = [rf"rank \d*,? ?{name} (stopped|hangs|cannot|gave)" for name in names]
    limit = TIMEOUT + GRACE
    with suppress(AssertionError):
        until(gone, limit + 30)
        fault["ended"] = round(time.monotonic() - begin, 1)
    time.sleep(0.5)
    at = [said.when(pattern, begin) for pattern in patterns]
    fault["named"] = [None if one is None else round(one - begin, 1) for one in at]
    fault["good"] = all(one is not None for one in at) and fault.get("ended", 1e9) <= limit
    if not fault["good"]:
        fault["said"] = "".join(line for one, line in said.lines if one >= begin)[-1500:]
    return fault


def over(made: Machines, old: list[int] | None = None) -> bool:
    """Whether no rank is left, of those that are named where some are."""
    found = [pid for rank, machine in enumerate(made.each) for pid in machine.processes(f"RANK={rank}")]
    return not found if old is None else set(found).isdisjoint(old)


def kills(made: Machines, count: int, rng: random.Random) -> Iterator[dict[str, Any]]:
    """One run of torchrun, which starts its ranks again after each kill."""
    steps = (BEFORE + EVERY) * (count + 1)
    folder = prepared(made.each[0], steps)
    said = started(made.each, restarts=count + 2)
    until(lambda: logged(folder) > 0, STARTING)
    for number in range(count):
        step, victim = computing(folder, said, number + 1, rng), rng.randrange(2)
        alive = {rank: m.processes(f"RANK={rank}") for rank, m in enumerate(made.each)}
        begin = time.monotonic()
        os.kill(alive[victim][0], signal.SIGKILL)
        old = [*alive[0], *alive[1]]
        names = [rf"{victim} \(node{victim}\)"]
        gone = functools.partial(over, made, old)
        yield watched({"fault": "kill", "rank": victim, "step": step}, said, begin, names, gone)
    until(said.ended, 2 * STARTING)
    assert not any(program.returncode for program in said.programs), "".join(line for _, line in said.lines)
    yield {"fault": "", "steps": steps, "folder": str(folder)}


def partitions(made: Machines, count: int, rng: random.Random) -> Iterator[dict[str, Any]]:
    """The same run, started again after each partition."""
    steps = (BEFORE + EVERY) * (count + 1)
    folder = prepared(made.each[0], steps)
    for number in range(count + 1):
        said = started(made.each, *(["--resume"] if number else []))
        if number == count:
            break
        until(lambda: logged(folder) > 0, STARTING)
        step, lost = computing(folder, said, 1, rng), rng.randrange(2)
        begin = time.monotonic()
        made.cut(made.each[lost])
        gone = functools.partial(over, made)
        names = [r"1 \(node1\)", r"0 \(node0\)"]
        fault = watched({"fault": "partition", "rank": lost, "step": step}, said, begin, names, gone)
        made.heal(made.each[lost])
        for program in said.programs:  # torchrun's agents wait for each other
            for pid in _below(program.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            program.wait()
        yield fault
    until(said.ended, 2 * STARTING)
    assert not any(program.returncode for program in said.programs), "".join(line for _, line in said.lines)
    yield {"fault": "", "steps": steps, "folder": str(folder)}


def _below(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for one in found:
        with suppress(OSError):
            found += map(int, Path(f"/proc/{one}/task/{one}/children").read_text().split())
    return found


@contextmanager
def two(base: Path) -> Iterator[Machines]:
    base.mkdir()
    with machines(2, base) as made:
        yield made


@functools.cache
def undisturbed(base: Path, steps: int) -> dict[str, torch.Tensor]:
    """The weights and the optimizer's state of a run that nothing disturbs."""
    with two(base / f"plain-{steps}") as made:
        folder = prepared(made.each[0], steps)
        said = started(made.each)
        until(said.ended, 2 * STARTING)
        return weights(folder, steps)


def faults(base: Path, count: int, kind: Any, seed: int) -> Iterator[dict[str, Any]]:
    """The faults of one run, and then whether its weights are those of a run that nothing disturbed."""
    base.mkdir()
    with two(base / "disturbed") as made:
        for fault in kind(made, count, random.Random(seed)):
            if fault["fault"]:
                yield fault
            else:
                found = weights(Path(fault["folder"]), fault["steps"])
                losses = logged(Path(fault["folder"])) == fault["steps"]
    expected = undisturbed(base.parent, fault["steps"])
    same = found.keys() == expected.keys() and all(torch.equal(found[name], t) for name, t in expected.items())
    yield {"run": kind.__name__, "faults": count, "equal bit for bit": same and losses}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--partitions", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the first run; each further one has the next")
    parser.add_argument("--record", type=Path)
    asked = parser.parse_args()
    runs = [(kills, min(EACH, asked.kills - at)) for at in range(0, asked.kills, EACH)]
    runs += [(partitions, asked.partitions)] if asked.partitions else []
    stamp = records.stamp()
    with tempfile.TemporaryDirectory() as place:
        for number, (kind, count) in enumerate(runs, asked.seed):
            for line in faults(Path(place) / str(number), count, kind, number):
                print(json.dumps(line), flush=True)
                if asked.record is not None:
                    made = records.sealed({**line, "load": round(os.getloadavg()[0], 1), **stamp})
                    with asked.record.open("a") as file:
                        file.write(records.canonical(made) + "\n")


if __name__ == "__main__":
    sys.exit(main())
