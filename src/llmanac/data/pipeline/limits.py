"""The time one document may take: CPU seconds of this process, so that a busy machine changes nothing.

Python code, also `re`, stops at the limit. Compiled code that does not come back to Python cannot be stopped from
inside; the parent process ends it (`local.py`).
"""

from __future__ import annotations

import signal
import threading
from types import FrameType

AGAIN = 1.0  # seconds after which a limit that was swallowed strikes again


class TimeLimit(BaseException):
    """Raised inside the work that took too long. Not an Exception, so that no stage mistakes it for its own."""


class Limit:
    """`with limit: work()` raises TimeLimit when the work has used `seconds` of CPU. Does not nest.

    Where the system has no such timer (Windows), or outside the main thread, it does nothing.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._armed = False
        self._works = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
        if self._works:
            signal.signal(signal.SIGPROF, self._strike)

    def _strike(self, number: int, frame: FrameType | None) -> None:
        if self._armed:
            raise TimeLimit

    def __enter__(self) -> Limit:
        if self._works:
            self._armed = True
            signal.setitimer(signal.ITIMER_PROF, self.seconds, AGAIN)
        return self

    def __exit__(self, *_: object) -> None:
        self._armed = False
        if self._works:
            signal.setitimer(signal.ITIMER_PROF, 0.0)
