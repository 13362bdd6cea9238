"""Ctrl-C ends a command with status 130, at any point.

An interrupt is an exception, and an exception can be lost: in a callback out of compiled code, in a destructor, in a
library's bare `except`. So each is noted when it comes, and a command that ends well although one came and was not
`answered` has lost it. While a program starts or ends, nothing is there to be cleaned up and it ends at once.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

STATUS = 130  # 128 and SIGINT's number, as shells have it
_lost = threading.Event()


def _is_ours() -> bool:
    """Whether Ctrl-C means what Python says: not in other threads, nor where somebody handles it already."""
    mine = threading.current_thread() is threading.main_thread()
    return mine and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def _leave(number: int, frame: Any) -> None:
    os._exit(STATUS)


def _note(number: int, frame: Any) -> None:
    _lost.set()
    raise KeyboardInterrupt


def answered() -> None:
    """Say that an interrupt came and did what it was for: the command goes on, or ends well."""
    _lost.clear()


@contextlib.contextmanager
def ending() -> Iterator[None]:
    """While inside, Ctrl-C ends the process at once and without a word: for imports."""
    if not _is_ours():
        yield
        return
    signal.signal(signal.SIGINT, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def noted(*, program: bool) -> Iterator[None]:
    """While inside, an interrupt raises KeyboardInterrupt; one that is lost makes of SystemExit(0) SystemExit(130).

    Args:
        program: whether the process ends after this; then Ctrl-C ends it at once from here on.
    """
    if not _is_ours():
        yield
        return
    _lost.clear()
    signal.signal(signal.SIGINT, _note)
    report, sys.unraisablehook = sys.unraisablehook, _quiet(sys.unraisablehook)
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit(STATUS) from None
    except SystemExit as stop:
        if not stop.code and _lost.is_set():
            raise SystemExit(STATUS) from None
        raise
    finally:
        # CPython notes an interrupt that went through exec() of a text, and would end by the signal in spite of the
        # status; the next exec() forgets it
        exec("")
        signal.signal(signal.SIGINT, _leave if program else signal.default_int_handler)
        if not program:
            sys.unraisablehook = report


def _quiet(report: Any) -> Any:
    """The hook without its traceback for an interrupt that came where nothing can be raised."""

    def hook(lost: Any) -> None:
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            report(lost)

    return hook
