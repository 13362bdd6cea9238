"""Shared by all benchmarks: interleaved rounds with the peer, medians, the machine, `--only`, one final JSON line.

A benchmark file makes one `Benchmark`, gives it measurements and calls `main`:

    bench = Benchmark("tokenizer", "Byte-pair encoding and its peers, one thread.")

    @bench.measure("bpe-encode")
    def encode() -> Result:
        tiktoken, peer = find_peer("tiktoken")
        runs = {"ours": ours} | ({"theirs": theirs} if tiktoken else {})
        seconds = interleave(runs, rounds=5)
        return Result.rate("bpe-encode", megabytes, seconds, unit="MB/s", peer=peer)

    if __name__ == "__main__":
        bench.main()

`bench.add(name, function, ...)` adds one of several measurements by one function. The ratio is above 1 where ours is
better, whatever the unit. A peer that is not installed gives `"theirs": null`.
"""

from __future__ import annotations

import argparse
import functools
import gc
import importlib
import importlib.metadata
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:  # a benchmark that is run as a file finds what it shares with studies
    sys.path.append(str(ROOT))
ROUNDS: list[dict[str, list[float]]] = []  # of the measurement that runs: seconds of every round, by contestant


@dataclass(frozen=True)
class Result:
    """One measurement: our figure, the peer's, and what else the reader should know (`more`).

    `ours` is None where what is measured on is not on this machine.
    """

    name: str
    unit: str
    ours: float | None
    peer: str
    theirs: float | None = None
    better: Literal["higher", "lower"] = "higher"
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """How many times better ours is; above 1 is better for rates, times and bytes alike."""
        if not self.ours or not self.theirs:
            return None
        return self.ours / self.theirs if self.better == "higher" else self.theirs / self.ours

    @classmethod
    def rate(
        cls, name: str, amount: float, seconds: Mapping[str, float], *, unit: str, peer: str, **more: Any
    ) -> Result:
        """`amount` units done in `seconds["ours"]` and, where the peer ran, `seconds["theirs"]`."""
        theirs = amount / seconds["theirs"] if "theirs" in seconds else None
        return cls(name, unit, amount / seconds["ours"], peer, theirs, "higher", more)

    def as_json(self) -> dict[str, Any]:
        """The entry of the final line; figures to four significant digits."""
        out: dict[str, Any] = {"name": self.name, "unit": self.unit, "ours": _short(self.ours), "peer": self.peer}
        out |= {"theirs": _short(self.theirs), "ratio": _short(self.ratio), "better": self.better}
        return out | ({"more": {k: _short(v) for k, v in self.more.items()}} if self.more else {})

    def line(self) -> str:
        """The entry as a person reads it."""
        if self.ours is None:
            return f"{self.name:18} not measured" + "".join(f"\n    {key}: {v}" for key, v in self.more.items())
        theirs = "not installed" if self.theirs is None else f"{_short(self.theirs)} {self.unit}"
        ratio = "" if self.ratio is None else f"  {self.ratio:.2f}x"
        more = "".join(f"\n    {key}: {_short(value)}" for key, value in self.more.items())
        return f"{self.name:18} {_short(self.ours)} {self.unit}, {self.peer}: {theirs}{ratio}{more}"


def _short(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def find_peer(module: str, distribution: str | None = None) -> tuple[ModuleType | None, str]:
    """`(module, "tokenizers 0.23.3")`, or `(None, "tokenizers (not installed)")`."""
    distribution = distribution or module
    try:
        return importlib.import_module(module), f"{distribution} {importlib.metadata.version(distribution)}"
    except (ImportError, importlib.metadata.PackageNotFoundError):
        return None, f"{distribution} (not installed)"


def interleave(
    runs: Mapping[str, Callable[[], Any]],
    *,
    rounds: int = 5,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median seconds of each contestant over rounds in which all take turns; every second round runs in reverse order.

    A machine that slows down or wakes up in between then does so for all of them. What a run returns is dropped
    outside the timed part. `clock=time.process_time` counts this process's CPU seconds, which is fairer for
    single-threaded work on a shared machine.
    """
    for _ in range(warmup):
        for run in runs.values():
            run()
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds):
        for name in list(runs) if turn % 2 == 0 else list(reversed(runs)):
            gc.collect()
            start = clock()
            kept = runs[name]()
            taken[name].append(clock() - start)
            del kept
    return medians(taken)


def medians(taken: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The median of each contestant's rounds; the rounds themselves are kept for the record of the run."""
    ROUNDS.append({name: [_short(float(value)) for value in values] for name, values in taken.items()})
    return {name: statistics.median(values) for name, values in taken.items()}


class Benchmark:
    """The measurements of one subject, run in the order they were given."""

    def __init__(self, subject: str, description: str) -> None:
        self.subject, self.description = subject, description
        self.measurements: dict[str, Callable[[], Result | Sequence[Result]]] = {}

    def measure(
        self, name: str
    ) -> Callable[[Callable[[], Result | Sequence[Result]]], Callable[[], Result | Sequence[Result]]]:
        """Add the decorated function as the measurement `name`."""

        def add(function: Callable[[], Result | Sequence[Result]]) -> Callable[[], Result | Sequence[Result]]:
            self.measurements[name] = function
            return function

        return add

    def add(self, name: str, function: Callable[..., Result | Sequence[Result]], *given: Any) -> None:
        """Add `function(name, *given)` as the measurement `name`."""
        self.measurements[name] = functools.partial(function, name, *given)

    def main(self, arguments: Sequence[str] | None = None) -> None:
        """Run the measurements asked for; the last line printed is the JSON document."""
        parser = argparse.ArgumentParser(description=self.description)
        parser.add_argument(
            "--only", action="append", choices=list(self.measurements), metavar="NAME",
            help=f"run this measurement only; may be repeated ({', '.join(self.measurements)})",
        )  # fmt: skip
        chosen = parser.parse_args(arguments).only or list(self.measurements)
        from llmanac.core.device import machine

        results: list[Result] = []
        rounds: dict[str, list[dict[str, list[float]]]] = {}
        for name in chosen:
            ROUNDS.clear()
            made = self.measurements[name]()
            rounds[name] = list(ROUNDS)
            for result in [made] if isinstance(made, Result) else made:
                print(result.line(), file=sys.stderr, flush=True)
                results.append(result)
        document = {
            "benchmark": self.subject, "machine": machine(), "results": [result.as_json() for result in results],
            "rounds": rounds,
        }  # fmt: skip
        print(json.dumps(document), flush=True)
