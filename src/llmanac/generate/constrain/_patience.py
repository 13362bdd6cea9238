"""How long the compilation of one constraint may take: processor time of its thread, which other work does not use."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from llmanac.core.errors import RequestError

MOST_SECONDS = 10.0
_LIMIT: ContextVar[tuple[float, str]] = ContextVar("limit", default=(math.inf, ""))


@contextmanager
def limited(name: str) -> Iterator[None]:
    """The time for the work in this block; `name` is what the error says was compiled."""
    token = _LIMIT.set((time.thread_time() + MOST_SECONDS, name))
    try:
        yield
    finally:
        _LIMIT.reset(token)


def check() -> None:
    """Raise RequestError where the time is used up. What takes long calls it now and then."""
    limit, name = _LIMIT.get()
    if limit < math.inf and time.thread_time() > limit:
        raise RequestError(f"{name}: compiling it takes more than {MOST_SECONDS:g} s; make it smaller or simpler")
