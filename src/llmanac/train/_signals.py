"""Ctrl-C in a training: finish the step, save, then stop.

Keep freed memory in the process instead of giving it back to the system at every step.

A training step frees and asks for the same large buffers thousands of times. By default glibc maps each one afresh, and
the kernel fills every page with zeros again. Measured on two cores at 1 to 4 million parameters: 10 to 20% of the step.
The largest blocks still go back: the holes that they leave in a heap cost more memory than their pages cost time.
What is kept goes back before something else than a step: its small objects would take the place of large buffers.
"""

import contextlib
import ctypes
import platform
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def interruptible() -> Iterator[threading.Event]:
    """While inside, the first Ctrl-C (or SIGTERM) sets the event instead of raising; a second one raises at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before: dict[int, Any] = {}

    def handle(number: int, frame: Any) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()
        print("\nfinishing this step, then saving; press Ctrl-C again to stop at once", file=sys.stderr)

    for name in (signal.SIGINT, signal.SIGTERM):
        before[name] = signal.signal(name, handle)
    try:
        yield event
    finally:
        for number, old in before.items():
            signal.signal(number, old)


# Numbers of <malloc.h>; glibc never changes them.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
KEPT = 1 << 30  # free bytes at the top of the heap before any go back
STEP = 64 << 20  # how much more than asked for the heap grows at a time
LARGE = 32 << 20  # bytes from which a block is mapped by itself; the most that glibc takes


def keep_freed_memory() -> bool:
    """Tune the allocator of this process; returns False where it is not glibc and nothing was done."""
    library = _glibc()
    if library is None:
        return False
    library.malloc_trim(0)  # what was freed before is in pieces, between which blocks of a step find no place
    asked = {M_MMAP_THRESHOLD: LARGE, M_TRIM_THRESHOLD: KEPT, M_TOP_PAD: STEP}
    return all(library.mallopt(what, size) for what, size in asked.items())


def give_back_freed_memory() -> None:
    """Give the system what was kept, also from between what is in use; where the allocator is not glibc's, nothing."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


def _glibc() -> Any:
    return ctypes.CDLL(None) if sys.platform == "linux" and platform.libc_ver()[0] == "glibc" else None
