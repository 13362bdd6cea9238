"""Run untrusted Python programs: `Sandbox` has worker processes, and gives each program to a free one.

    with Sandbox(workers=2) as sandbox:
        result = sandbox.run("assert 1 + 1 == 2", seconds=3.0)
        results = sandbox.run_many(programs)

A program passes if it runs to its end without an exception. It has no network, no processes, no files but Python's own
library and an empty folder, and limited time, memory, output and threads; `docs/sandbox.md` says by what.

Messages between a sandbox and its zygotes: the length in 4 bytes, then JSON.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import queue
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llmanac.core.errors import LlmanacError
from llmanac.core.progress import progress
from llmanac.sandbox import _linux

FRAME = 1 << 26  # bytes at most


def send(channel: socket.socket, message: dict[str, Any]) -> None:
    data = json.dumps(message).encode()
    channel.sendall(len(data).to_bytes(4, "big") + data)


def receive(channel: socket.socket) -> dict[str, Any] | None:
    """The next message; None where the other side has closed."""
    data = _exactly(channel, 4)
    if len(data) < 4 or (size := int.from_bytes(data, "big")) > FRAME or len(data := _exactly(channel, size)) < size:
        return None
    message: dict[str, Any] = json.loads(data)
    return message


def _exactly(channel: socket.socket, size: int) -> bytes:
    parts, left = [], size
    with contextlib.suppress(OSError):
        while left and (part := channel.recv(min(left, 1 << 20))):
            parts.append(part)
            left -= len(part)
    return b"".join(parts)


SECONDS, MEMORY = 3.0, 512 << 20
LEAST_MEMORY = 64 << 20  # Python alone takes half of it
LONGEST = 1 << 22  # characters of a program
TO_START = 60.0  # seconds
PROTECTIONS = ("landlock", "namespaces", "root-namespaces", "seccomp", "user-namespaces")
Status = Literal["passed", "failed", "timeout", "cheated", "killed", "refused"]
# Imported before programs are forked, so that each finds them ready.
READY = "bisect collections copy functools heapq itertools math operator re string time typing"
ARRAYS = "numpy numpy.fft numpy.linalg numpy.ma numpy.polynomial numpy.random"  # the same, where arrays are allowed


class SandboxError(LlmanacError, RuntimeError):
    """This machine cannot confine programs, or the sandbox was closed."""


@dataclass(frozen=True)
class Result:
    """How a program ended.

    Attributes:
        status: `passed`; `failed` by an exception, also SystemExit; `timeout`; `cheated`, where it reports a pass
            whatever its end is; `killed`, where it died or left without a verdict; `refused`, where it was
            not run.
        stdout, stderr: the first 16 KiB of what it wrote; stderr ends with the exception.
        seconds: CPU seconds of one run.
    """

    status: Status
    stdout: str = ""
    stderr: str = ""
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        return self.status == "passed"


@dataclass(frozen=True)
class Protection:
    """What confines programs on this machine. `missing` has a sentence for each thing that it does not allow."""

    namespaces: bool
    user_namespace: bool
    landlock: int
    user: int | None
    missing: tuple[str, ...]


def _readable() -> list[str]:
    """Where Python's library, and the shared libraries that it loads, are."""
    base = {"platbase": sys.base_exec_prefix}  # not the virtual environment's
    paths = [
        sysconfig.get_path("stdlib"),
        sysconfig.get_path("platstdlib", vars=base),
        sysconfig.get_config_var("LIBDIR"),
    ]
    system = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo", "/etc/ld.so.cache"]
    return [os.path.abspath(path) for path in dict.fromkeys([*paths, *system]) if path and os.path.lexists(path)]


class _Worker:
    """A zygote and its guard; one program at a time."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.work: str | None = None
        if not settings["root"]:
            self.work = tempfile.mkdtemp(prefix="llmanac-sandbox-")
        ours, theirs = socket.socketpair()
        package = str(Path(os.path.abspath(__file__)).parents[2])
        ready = f"{READY} {ARRAYS}" if settings["arrays"] else READY
        places = [package, *filter(None, [settings["arrays"]])]
        start = (
            f"import sys; sys.path[:0] = {places!r}; import {ready.replace(' ', ', ')}\n"
            f"from llmanac.sandbox._zygote import become, main; del sys.path[:{len(places)}]\n"
            "become(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))"
        )
        arguments = [str(theirs.fileno()), str(os.getpid()), json.dumps({**settings, "work": self.work})]
        try:
            self.process = subprocess.Popen(
                # the environment is ours, so settings of the user are absent and hashes are the same in every run
                [sys.executable, "-s", "-S", "-P", "-B", "-X", "utf8", "-c", start, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                cwd="/",
                # an arena takes 64 MiB of a program's addresses, and a fork has one thread
                env={"PYTHONHASHSEED": "0", "MALLOC_ARENA_MAX": "1", "OPENBLAS_NUM_THREADS": "1"},
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            raise SandboxError(f"sandbox: cannot start {sys.executable}: {error}") from None
        finally:
            theirs.close()
        self.channel = ours
        ours.settimeout(TO_START)
        hello = receive(ours)
        self.hello = hello or {"error": "the process ended while it started"}
        if "error" in self.hello:
            self.close()

    def ask(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """The answer; None where the worker has died or does not answer."""
        try:
            self.channel.settimeout(2 * request["wall"] + TO_START)
            send(self.channel, request)
            return receive(self.channel)
        except OSError:
            return None

    def interrupt(self) -> None:
        """Have it stop, from any thread."""
        with contextlib.suppress(OSError):
            self.channel.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the zygote and the program that it runs, and wait until both are gone."""
        self.interrupt()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.channel.close()
        if self.work is not None:
            shutil.rmtree(self.work, ignore_errors=True)


class Sandbox:
    """Runs untrusted Python programs; a context manager, for any thread.

    Args:
        workers: programs that run at the same time.
        wall: seconds of waiting, besides CPU time, after which a program is ended; default: 4 times its CPU seconds
            and 2 more, so that a busy machine does not turn a pass into a timeout.
        arrays: whether programs may import numpy, which is then loaded before they are confined.
        without: protections to leave out as if the machine did not allow them, for tests: seccomp, landlock,
            root-namespaces (that root makes), user-namespaces, namespaces (both).

    Raises:
        SandboxError: on entering, where the machine has no seccomp, or neither landlock nor mount namespaces.
    """

    def __init__(
        self, workers: int = 2, *, wall: float | None = None, arrays: bool = False, without: Sequence[str] = ()
    ) -> None:
        if workers < 1:
            raise SandboxError(f"workers: must be at least 1, got {workers}")
        if wrong := sorted(set(without) - set(PROTECTIONS)):
            raise SandboxError(f"without: {wrong[0]!r} is not one of {', '.join(PROTECTIONS)}")
        self.workers, self._wall, self._without = workers, wall, sorted(set(without))
        found = importlib.util.find_spec("numpy") if arrays else None  # a worker imports this file without it
        self._arrays = str(Path(found.origin).parents[1]) if found and found.origin else ""
        self._settings: dict[str, Any] = {}
        self._all: list[_Worker] = []
        self._free: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        self._lock = threading.Lock()
        self._open, self._process = False, 0
        self.protection = Protection(False, False, 0, None, ())

    def __enter__(self) -> Sandbox:
        if self._open:
            raise SandboxError("sandbox: is open already")
        self._process, self._open, self._free = os.getpid(), True, queue.LifoQueue()
        try:
            first, missing = self._first()
            self._all.append(first)
            self._free.put(first)
            with ThreadPoolExecutor(self.workers) as pool:
                list(pool.map(lambda _: self._add(), range(self.workers - 1)))
        except BaseException:
            self.close()
            raise
        root, user = self._settings["root"], self._settings["user"]
        if os.geteuid() == 0 and first.hello["uid"] is None:
            why = (
                "this way of namespaces keeps it, and memory alone bounds their threads"
                if root
                else f"no other user can read {sys.base_prefix}"
            )
            missing.append(f"a user of their own: programs run as root without its capabilities ({why})")
        version = _linux.landlock_version() if first.hello["landlock"] else 0
        self.protection = Protection(root, user, version, first.hello["uid"], tuple(missing))
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _first(self) -> tuple[_Worker, list[str]]:
        """A worker with all that the machine allows, and what it does not allow."""
        if not _linux.supported():
            raise SandboxError("sandbox: needs Linux on x86_64 or aarch64; run it there, or in a virtual machine")
        if "seccomp" in self._without:
            raise SandboxError("sandbox: without seccomp nothing is run")
        missing = []
        ways = [(True, False), (True, True), (False, False)] if os.geteuid() == 0 else [(True, True), (False, False)]
        for root, user in ways:
            kind = "user-namespaces" if user else "root-namespaces"
            if root and {"namespaces", kind} & set(self._without):
                missing.append(f"{'user ' if user else ''}namespaces: left out")
                continue
            self._settings = {"readable": _readable(), "without": self._without, "root": root, "user": user,
                              "arrays": self._arrays}  # fmt: skip
            worker = _Worker(self._settings)
            if problem := worker.hello.get("error"):
                missing.append(f"{'user namespaces' if user else 'namespaces' if root else 'seccomp'}: {problem}")
                continue
            if not worker.hello["landlock"]:
                missing.append(f"landlock: version {_linux.LANDLOCK_ENOUGH} or newer (Linux 6.2) is not available")
                if not root:
                    worker.close()
                    break
            if root:
                missing = [line for line in missing if line.startswith("landlock")]
            return worker, missing
        raise SandboxError(
            f"sandbox: this machine cannot confine programs ({'; '.join(missing)}); it needs seccomp, and landlock or "
            "mount namespaces"
        )

    def _add(self) -> None:
        """One more worker, ready. Raises SandboxError."""
        worker = _Worker(self._settings)
        with self._lock:
            if "error" not in worker.hello and self._open:
                self._all.append(worker)
                self._free.put(worker)
                return
        worker.close()
        raise SandboxError(f"sandbox: a worker did not start: {worker.hello.get('error', 'the sandbox was closed')}")

    def run(self, code: str, *, seconds: float = SECONDS, memory: int = MEMORY) -> Result:
        """Run a program.

        Args:
            code: Python source; it runs as `__main__`.
            seconds: CPU seconds that it may take.
            memory: bytes of address space, at least 64 MiB.

        Raises:
            SandboxError: the sandbox is not open, or its workers died three times over this program.
        """
        if not 0 < seconds < 1e6:
            raise SandboxError(f"seconds: must be above 0 and below a million, got {seconds}")
        if memory < LEAST_MEMORY:
            raise SandboxError(f"memory: must be at least {LEAST_MEMORY} bytes, got {memory}")
        if len(code) > LONGEST:
            return Result("refused", stderr=f"the program has {len(code):,} characters; at most {LONGEST:,} are run")
        try:
            code.encode()
        except UnicodeEncodeError as error:
            return Result("refused", stderr=f"the program is not Unicode text: {error.reason} at {error.start}")
        wall = 4 * seconds + 2 if self._wall is None else self._wall
        request = {"code": code, "seconds": float(seconds), "memory": int(memory), "wall": float(wall)}
        for _ in range(3):
            worker = self._take()
            try:
                answer = worker.ask(request)
            except BaseException:  # Ctrl-C: what it would still write must not answer the next request
                self._replace(worker)
                raise
            if answer is not None:
                self._free.put(worker)
                return Result(**answer)
            self._replace(worker)
        raise SandboxError("sandbox: the worker died three times over this program; is the machine out of memory?")

    def run_many(
        self, programs: Iterable[str], *, seconds: float = SECONDS, memory: int = MEMORY, label: str = "programs"
    ) -> list[Result]:
        """Run programs, `workers` at a time; results in their order. Shows progress under `label`."""
        todo = list(programs)
        with progress(label, len(todo), "programs") as shown, ThreadPoolExecutor(self.workers) as pool:
            try:
                results = []
                for result in pool.map(lambda code: self.run(code, seconds=seconds, memory=memory), todo):
                    results.append(result)
                    shown.advance()
                return results
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _take(self) -> _Worker:
        """A free worker, when there is one."""
        if not self._open or os.getpid() != self._process:
            raise SandboxError("sandbox: is not open in this process; use it in a `with` statement")
        worker = self._free.get()
        if worker is None:
            self._free.put(None)
            raise SandboxError("sandbox: was closed")
        return worker

    def _replace(self, worker: _Worker) -> None:
        """A new worker for one that has died, unless the sandbox was closed."""
        with self._lock:
            if worker in self._all:
                self._all.remove(worker)
        worker.close()
        if self._open:
            self._add()

    def close(self) -> None:
        """End all programs and workers, also while they run. A sandbox that was closed may be entered again."""
        if os.getpid() != self._process:
            return  # a fork: they are the parent's
        with self._lock:
            self._open = False
            workers, self._all = self._all, []
        self._free.put(None)
        for worker in workers:
            worker.interrupt()
        for worker in workers:
            worker.close()


def describe() -> str:
    """One line: what confines programs on this machine, and what is missing; or why nothing is run."""
    try:
        with Sandbox(1) as sandbox:
            has = sandbox.protection
    except SandboxError as error:
        return error.reason
    parts = ["user namespace"] * has.user_namespace + ["namespaces"] * (has.namespaces and not has.user_namespace)
    parts += [f"landlock {has.landlock}"] * (has.landlock > 0) + ["seccomp"] + ["own user"] * (has.user is not None)
    return ", ".join(parts) + "".join(f"; missing: {line}" for line in has.missing)
