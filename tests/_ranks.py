"""Ranks for tests: processes forked after torch is imported, which saves the imports."""

from __future__ import annotations

import faulthandler
import os
import signal
import socket
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any

CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def on_ranks(count: int, call: Callable[[], Any], *, seconds: float = 120, others: Any = None) -> None:
    """Run `call` on rank 0, a child of this process, and `follow` on the others; AssertionError where one fails.

    A fork of a process with many threads may crash before it comes to our code: where a child crashed, all are started
    once more, with a warning that says where. One that a test killed did not crash.
    """
    failed, late, text = _once(count, call, seconds, others)
    if any(-status in CRASHES for _, status in failed):
        warnings.warn(f"a signal ended a rank, (rank, status) {failed}; started once more\n{text}", stacklevel=2)
        failed, late, text = _once(count, call, seconds, others)
    ranks = [rank for rank, _ in failed]
    assert not failed and not late, f"failed {ranks}, did not end {late}; (rank, status) {failed}\n{text}"


def _once(
    count: int, call: Callable[[], Any], seconds: float, others: Any
) -> tuple[list[tuple[int, int]], list[int], str]:
    port = free_port()
    children = {}
    reader, writer = os.pipe()
    for rank in range(count):
        pid = os.fork()
        if not pid:
            os.close(reader)
            faulthandler.enable(writer)
            status = 0
            try:
                os.environ.update(
                    RANK=str(rank), WORLD_SIZE=str(count), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1",
                    MASTER_PORT=str(port),
                )  # fmt: skip
                from llmanac.train.team import follow

                call() if rank == 0 else (others or follow)()
            except BaseException:
                os.write(writer, f"rank {rank}: {traceback.format_exc()}\n".encode())
                status = 1
            os._exit(status)
        children[pid] = rank
    os.close(writer)
    failed, stop = [], time.monotonic() + seconds
    while children and time.monotonic() < stop and not failed:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid in children:
            rank = children.pop(pid)
            failed += [(rank, os.waitstatus_to_exitcode(status))] if status else []
        else:
            time.sleep(0.01)
    time.sleep(0.5 if failed else 0)
    late = sorted(children.values())
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    with os.fdopen(reader, "rb") as pipe:
        return failed, late, pipe.read().decode(errors="replace")
