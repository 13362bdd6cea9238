"""A file lock that the system releases when its holder dies, also by kill -9.

The lock of a folder is `.lock` in it or `<folder>.lock` next to it. The next process to lock the folder deletes
leftover temporary files.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from llmanac.core import files
from llmanac.core.errors import LlmanacError


@contextlib.contextmanager
def locked(path: Path, *, busy: str = "", fix: str = "choose another folder") -> Iterator[None]:
    """Hold the lock of `path` (made if absent).

    Args:
        busy: what to say when another process or thread holds it; waits for that one where nothing is given.
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
            import fcntl

            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
            except BlockingIOError:
                raise LlmanacError(busy) from None
        files.sweep(path.parent if path.name == ".lock" else path.with_suffix(""))
        yield
    finally:
        os.close(handle)


def _lock_on_windows(handle: int, busy: str) -> None:
    import msvcrt
    import time

    while True:
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
            return
        except OSError:  # held by another; LK_LOCK would give up after ten seconds
            if busy:
                raise LlmanacError(busy) from None
            time.sleep(0.2)
