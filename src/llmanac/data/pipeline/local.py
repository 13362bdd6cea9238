"""The local engine: a few processes that live as long as the build, each with one task at a time.

A process that dies is named, with what it was working on. One that exceeds the time of a document (compiled
code that cannot be stopped from inside) is ended, and its task starts again: first one document at a time, to find out
which it is, then without it.

What a process is working on, in a few bytes of a file that both sides have mapped: it costs no system call to say,
and it can be read after the process has died.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import queue
import signal
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llmanac.core import errors
from llmanac.core.errors import LlmanacError
from llmanac.data.pipeline.tasks import Task

SIZE = 1024
HEAD = struct.Struct("<QI")  # how many times it was written; bytes of JSON that follow


class Pulse:
    """One process's pulse. The worker opens it with `make`, who watches without."""

    def __init__(self, path: Path, *, make: bool = False) -> None:
        if make:
            path.write_bytes(bytes(SIZE))
        with open(path, "r+b") as handle:
            self._map = mmap.mmap(handle.fileno(), SIZE)
        self._count = 0

    def beat(self, key: str, index: int, count: int, name: str) -> None:
        """Say what comes next: `count` documents from number `index` on, the first called `name`, at stage `key`."""
        data = json.dumps([key, index, count, name[:100]]).encode("ascii")
        self._count += 1
        self._map[HEAD.size : HEAD.size + len(data)] = data
        HEAD.pack_into(self._map, 0, self._count, len(data))

    @property
    def count(self) -> int:
        """How often it has beaten."""
        return int(HEAD.unpack_from(self._map, 0)[0])

    def last(self) -> tuple[str, int, int, str] | None:
        """What it said last; None before that, or while it is being written."""
        _, size = HEAD.unpack_from(self._map, 0)
        with contextlib.suppress(ValueError, TypeError):
            found: Any = json.loads(self._map[HEAD.size : HEAD.size + size])
            return str(found[0]), int(found[1]), int(found[2]), str(found[3])
        return None

    def close(self) -> None:
        self._map.close()


GRACE = 15.0  # CPU seconds past a document's time before its process is ended
IDLE = 20.0  # how many times the limit a document may take by the clock, where it uses no CPU
WATCHED = ("read", "apply")
Slowed = Callable[[Task, str, int, bool], None]  # task, stage, index, whether the index is exact


class _Process:
    """One worker process, seen from outside."""

    def __init__(self, root: Path, number: int, said: queue.Queue[tuple[_Process, dict[str, Any] | None]]) -> None:
        self.number, self.ended = number, False
        self.task: Task | None = None
        work = root / "work"
        self._pulse_file, self.log = work / f"pulse-{number}", work / f"worker-{number}.log"
        self._pulse_file.unlink(missing_ok=True)
        self.pulse: Pulse | None = None
        one = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        environment = {**os.environ, **one, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        environment["TOKENIZERS_PARALLELISM"] = "false"
        group: Any = (
            {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}  # type: ignore[attr-defined]
            if os.name == "nt"
            else {"start_new_session": True}
        )
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "llmanac.data.pipeline.worker", str(root), str(self._pulse_file)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment, **group,
            )  # fmt: skip
        self._beats, self._cpu, self._clock = -1, 0.0, 0.0
        threading.Thread(target=self._listen, args=(said,), daemon=True).start()

    def _listen(self, said: queue.Queue[tuple[_Process, dict[str, Any] | None]]) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with contextlib.suppress(ValueError):  # the last line of a process that was killed
                said.put((self, json.loads(line)))
        said.put((self, None))

    def give(self, task: Task) -> None:
        """Hand it a task."""
        self.task, self._beats = task, -1
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):  # it has died; the listener says so
            self.process.stdin.write(json.dumps(task).encode() + b"\n")
            self.process.stdin.flush()

    def overdue(self, limit: float) -> bool:
        """Whether the document it is at has had its time and more."""
        if self.task is None or self.task["kind"] not in WATCHED or not self._open_pulse():
            return False
        assert self.pulse is not None
        cpu, clock, beats = _cpu_seconds(self.process.pid), time.monotonic(), self.pulse.count
        last = self.pulse.last()
        if last is None or last[2] == 0 or beats != self._beats:  # loading and compiling have no limit
            self._beats, self._cpu, self._clock = beats, cpu if cpu is not None else 0.0, clock
            return False
        waited = clock - self._clock
        if cpu is None:
            return waited > 4 * limit + GRACE
        return cpu - self._cpu > 1.2 * limit + GRACE or waited > IDLE * limit + 2 * GRACE

    def _open_pulse(self) -> bool:
        if self.pulse is None and self._pulse_file.is_file():
            with contextlib.suppress(OSError, ValueError):
                self.pulse = Pulse(self._pulse_file)
        return self.pulse is not None

    def at(self) -> tuple[str, int, int, str] | None:
        """What it was last working on."""
        return self.pulse.last() if self._open_pulse() and self.pulse else None

    def end(self) -> None:
        """Kill it and wait until it is gone."""
        self.ended = True
        self.process.kill()
        self.process.wait()

    def how_it_ended(self) -> str:
        """One sentence on how the process ended."""
        code = self.process.wait()
        at = self.at()
        where = f" while stage {at[0]} was at {at[3]!r}" if at and at[3] else ""
        task = f" of {self.task['folder']}" if self.task else ""
        if code < 0:
            with contextlib.suppress(ValueError):
                name = signal.Signals(-code).name
                hint = (
                    "most often for lack of memory: use fewer --workers or a smaller limits.max_bytes"
                    if name == "SIGKILL"
                    else f"its output is in {self.log}"
                )
                return f"worker {self.number} (process {self.process.pid}) was killed by {name}{where}{task}; {hint}"
        return (
            f"worker {self.number} (process {self.process.pid}) ended with status {code}{where}{task}; see {self.log}"
        )


def was_slow(task: Task, said: dict[str, Any], slowed: Slowed, hint: str = "") -> bool:
    """Take a worker's answer: whether the task has to start again without a document that was too slow.

    Raises:
        LlmanacError: the error that the worker answered with; `hint` is added to one that is no LlmanacError.
    """
    if "error" in said:
        kind = getattr(errors, said.get("type", ""), LlmanacError)
        raise kind(f"{said['error']}{hint if said.get('unexpected') else ''}")
    if "slow" in said:
        slowed(task, said["slow"][0], said["slow"][1], True)
    return "slow" in said


def _cpu_seconds(process: int) -> float | None:
    try:
        fields = Path(f"/proc/{process}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return None


class LocalEngine:
    """Runs tasks in `workers` processes of this machine."""

    def __init__(self, root: Path, *, workers: int, limit: float) -> None:
        self.root, self.workers, self.limit = root, workers, limit
        self._said: queue.Queue[tuple[_Process, dict[str, Any] | None]] = queue.Queue()
        self._processes: list[_Process] = []
        self._made = 0

    def run(self, tasks: Sequence[Task], done: Callable[[Task | None], None], slowed: Slowed) -> None:
        """Do every task; `done` is called as each is (and with None now and then), `slowed` before one starts again
        for a slow document.

        Raises:
            LlmanacError: a task cannot be done, or a process died.
        """
        waiting = deque(tasks)
        left = len(tasks)
        while left:
            self._hand_out(waiting)
            for process in [p for p in self._processes if p.overdue(self.limit)]:
                task = process.task
                process.end()
                self._processes.remove(process)
                if task is not None:
                    waiting.appendleft(self._blame(process, task, slowed))
            try:
                process, said = self._said.get(timeout=0.5)
            except queue.Empty:
                done(None)
                continue
            if process.ended:
                continue
            if said is None:
                raise LlmanacError(f"{process.how_it_ended()}; run the same command again to go on")
            task, process.task = process.task, None
            assert task is not None
            if was_slow(task, said, slowed, f" (the traceback is in {process.log})"):
                waiting.appendleft(task)
            else:
                left -= 1
                done(task)

    def _hand_out(self, waiting: deque[Task]) -> None:
        for process in self._processes:
            if waiting and process.task is None:
                process.give(waiting.popleft())
        while waiting and len(self._processes) < self.workers:
            self._processes.append(_Process(self.root, self._made, self._said))
            self._made += 1
            self._processes[-1].give(waiting.popleft())

    def _blame(self, process: _Process, task: Task, slowed: Slowed) -> Task:
        at = process.at()
        if at is None:
            raise LlmanacError(f"{task['folder']}: a process hung and did not say where; see {process.log}")
        key, index, count, name = at
        if task["kind"] == "apply" and key == task["decided_key"]:
            raise LlmanacError(
                f"stage {key} hangs at {name!r}; raise limits.timeout, or take the document out of the input"
            )
        slowed(task, key, index, count == 1)
        return task

    def close(self) -> None:
        """End every process; what they had not finished is done anew next time."""
        for process in self._processes:
            process.end()
        self._processes.clear()
