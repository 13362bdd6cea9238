"""Loops in processes of their own, which take a step when asked: all see the same machine, and memory is each one's."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from _harness import medians


def resident(field: str) -> float:
    """A field of /proc/self/status in MB: VmRSS (now) or VmHWM (the most so far)."""
    text = Path("/proc/self/status").read_text()
    return int(text.partition(field + ":")[2].split()[0]) / 1024


def begin_memory() -> float | None:
    """Resident memory from which a loop's peak counts, once its imports are done; None where it is not known."""
    before = resident("VmRSS") if Path("/proc/self/status").is_file() else None
    if before is not None:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the peak of the imports is not the loop's
    return before


def answer(
    step: Callable[[], Any], about: dict[str, Any], before: float | None, more: Any = None, warmup: int = 3
) -> None:
    """A few steps to warm up, then a line of JSON for each line of input: step, memory, or what `more` knows."""
    for _ in range(warmup):
        step()
    print(json.dumps(about), flush=True)
    for line in sys.stdin:
        found: dict[str, Any] = {}
        if line.strip() == "step":
            cpu, wall = time.process_time(), time.perf_counter()
            step()
            found = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
        elif line.strip() == "memory" and before is not None:
            found = {"megabytes": resident("VmHWM") - before}
        elif more is not None:
            found = more(line.strip())
        print(json.dumps(found), flush=True)


class Loop:
    """A worker process of a benchmark file, which is run with `--worker NAME ARGUMENTS`."""

    def __init__(self, file: str, name: str, arguments: Sequence[Any]) -> None:
        command = [sys.executable, file, "--worker", name, *map(str, arguments)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.name = name

    def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name}: the loop ended with status {self.process.wait()}")
        return json.loads(line)

    def ask(self, what: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        print(what, file=self.process.stdin, flush=True)
        return self.read()


@contextlib.contextmanager
def loops(
    file: str, names: Sequence[str], *arguments: Any
) -> Iterator[tuple[dict[str, Loop], dict[str, dict[str, Any]]]]:
    """Start workers one after the other (each measures while it plans), and end them in any case."""
    running: dict[str, Loop] = {}
    try:
        about = {}
        for name in names:
            running[name] = Loop(file, name, arguments)
            about[name] = running[name].read()
        yield running, about
    finally:
        for loop in running.values():
            if loop.process.stdin is not None:
                loop.process.stdin.close()
            loop.process.wait(timeout=60)


def memory(file: str, names: Sequence[str], processes: int, *arguments: Any, steps: int = 1) -> dict[str, list[float]]:
    """Peak megabytes above the imports after some steps, of several processes each."""
    found: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(processes):
        for name, taken in found.items():
            with loops(file, [name], *arguments) as (running, _):
                for _ in range(steps):
                    running[name].ask("step")
                taken.append(running[name].ask("memory")["megabytes"])
    return found


def middles(found: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The median of each."""
    return {name: statistics.median(values) for name, values in found.items()}


def their_step(trainer: Any, draw: Callable[[], Any]) -> Callable[[], Any]:
    """A step of one of TRL's trainers, without what its loop does between steps."""
    import torch

    optimizer = trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 1  # its loop sets it

    def step() -> None:
        trainer.training_step(trainer.model, draw())
        torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def turns(running: dict[str, Loop], rounds: int, clock: str = "cpu") -> dict[str, float]:
    """Median seconds a step of each loop, over rounds in alternating order."""
    taken: dict[str, list[float]] = {name: [] for name in running}
    for turn in range(rounds):
        for name in running if turn % 2 == 0 else reversed(running):
            taken[name].append(running[name].ask("step")[clock])
    return medians(taken)
