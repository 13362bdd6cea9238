"""Ctrl-C in a training: finish the step, save, then stop."""

from __future__ import annotations

import contextlib
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
