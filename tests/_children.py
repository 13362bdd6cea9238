"""Children that a test starts: busy ones, and such as hear Ctrl-C."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

LOOP = "import time\nend = time.monotonic() + 600\nwhile time.monotonic() < end:\n    pass\n"


def hear_interrupts() -> None:
    """Let every child of this process hear Ctrl-C, also where the process ignores it itself.

    A shell that starts a job in the background (`nohup make test &`) has it ignore Ctrl-C. What is ignored is handed
    on to children, a handler is not: with one that does nothing this process still ignores it, and they do not.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda number, frame: None)


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes beside the test that take what they can get of a core; ended by their ids."""
    loops = [subprocess.Popen([sys.executable, "-c", LOOP]) for _ in range(count)]
    time.sleep(0.3)
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
        for loop in loops:
            loop.wait()
