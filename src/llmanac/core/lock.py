"""A file lock that the system releases when its holder dies, also by kill -9.

The lock of a folder is `.lock` in it or `<folder>.lock` next to it. The next process to lock the folder deletes
leftover temporary files.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from llmanac.core import files
from llmanac.core.errors import LlmanacError
from llmanac.core.progress import say_once

SILENT = 2.0  # seconds of waiting before it is said


@contextlib.contextmanager
def locked(path: Path, *, busy: str = "", fix: str = "choose another folder") -> Iterator[None]:
    """Hold the lock of `path` (made if absent).

    Args:
        busy: what to say when another process or thread holds it; waits for that one where nothing is given, and says
            so when it takes long.
        fix: what to do where the folder cannot be written.

    Raises:
        LlmanacError: the lock is held, and `busy` says what that means; or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise LlmanacError(f"{path.parent}: cannot write ({error.strerror}); {fix}") from None
    try:
        if os.name == "nt":
            _lock_on_windows(handle, busy)
        else:
            _lock_on_posix(handle, busy, path)
        files.sweep(path.parent if path.name == ".lock" else path.with_suffix(""))
        yield
    finally:
        os.close(handle)


def _lock_on_posix(handle: int, busy: str, path: Path) -> None:
    import fcntl

    for _ in range(int(SILENT / 0.05)):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if busy:
                raise LlmanacError(busy) from None
            time.sleep(0.05)
    say_once(f"waiting for another process, which holds {path}")
    fcntl.flock(handle, fcntl.LOCK_EX)


def _lock_on_windows(handle: int, busy: str) -> None:
    import msvcrt

    while True:
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
            return
        except OSError:  # held by another; LK_LOCK would give up after ten seconds
            if busy:
                raise LlmanacError(busy) from None
            time.sleep(0.2)
