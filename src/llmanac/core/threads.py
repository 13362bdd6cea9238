"""How many threads to use, and results in order from work that several threads do."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Generic, TypeVar

VARIABLE = "OMP_NUM_THREADS"  # the variable that numerical libraries read
Item = TypeVar("Item")
Result = TypeVar("Result")
Thing = TypeVar("Thing")


QUOTA = Path("/sys/fs/cgroup/cpu.max")  # microseconds of all processors in a period; `max` where there is no limit


def cores() -> int:
    """The processors this process may use: by affinity, and by a container's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        most, period = map(int, QUOTA.read_text().split())
        count = max(1, min(count, -(-most // period)))
    return count


def use_threads(count: int) -> None:
    """Compute with so many threads from now on, in torch too: it reads the variable when it is imported."""
    os.environ[VARIABLE] = str(count)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(count)


def threads() -> int:
    """As many as processors, or `OMP_NUM_THREADS` if that is fewer; one in a worker process, which has its siblings."""
    if multiprocessing.parent_process() is not None:
        return 1
    named = os.environ.get(VARIABLE, "").strip()
    return min(cores(), max(1, int(named))) if named.isdecimal() else cores()


def in_order(function: Callable[[Item], Result], items: Iterable[Item], count: int | None = None) -> Iterator[Result]:
    """The function's results in the order of the items, from `count` threads (as `threads` says if unset).

    For functions that release the interpreter's lock. At most two items a thread are taken ahead of what is read.
    """
    count = threads() if count is None else count
    stream = iter(items)
    ahead = list(itertools.islice(stream, 2)) if count > 1 else []
    if len(ahead) < 2:
        yield from map(function, itertools.chain(ahead, stream))
        return
    stream = itertools.chain(ahead, stream)
    with ThreadPoolExecutor(count) as pool:
        waiting: deque[Future[Result]] = deque(
            pool.submit(function, item) for item in itertools.islice(stream, 2 * count)
        )
        try:
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(function, item) for item in itertools.islice(stream, 1))
        finally:
            for future in waiting:
                future.cancel()


class Spares(Generic[Thing]):
    """As many things as threads need one at a time. The one put back last is given out first.

    Args:
        make: makes one more, when all are in use.
    """

    def __init__(self, make: Callable[[], Thing]) -> None:
        self.idle: list[Thing] = []
        self._make, self._lock = make, threading.Lock()

    def __reduce__(self) -> tuple[type[Spares[Thing]], tuple[Callable[[], Thing]]]:
        return Spares, (self._make,)  # a copy has none yet

    @contextmanager
    def one(self) -> Iterator[Thing]:
        """One that nobody else uses meanwhile."""
        with self._lock:
            thing = self.idle.pop() if self.idle else None
        if thing is None:
            thing = self._make()
        try:
            yield thing
        finally:
            with self._lock:
                self.idle.append(thing)
