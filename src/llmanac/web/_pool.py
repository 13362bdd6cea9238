"""Threads for slow work outside the model: parsing bodies, chat templates, tokenization.

The event loop does none of it, so that `/health` and the streams of other clients go on whatever a text or a pattern
asks for. Python cannot stop a thread: a call that passes its deadline is answered at once, and its thread is free again
when the tokenizer's or the template's own deadline ends it. The threads are daemons, so none holds up the exit.
"""

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from llmanac.web._errors import ApiError, Busy

T = TypeVar("T")


class _Call:
    """One function to run, and where its result goes. It is waiting, then running, then over."""

    def __init__(self, function: Callable[[float], Any], seconds: float) -> None:
        self.loop = asyncio.get_running_loop()
        self.result: asyncio.Future[Any] = self.loop.create_future()
        self.limit: asyncio.Timeout
        self.function = function
        self.seconds = seconds
        self.until = float("inf")  # of `time.monotonic`; known once it runs
        self.state = "waiting"

    def begun(self) -> None:
        """Its time starts now: what it waited does not count."""
        with contextlib.suppress(RuntimeError):  # nobody waits any more
            self.limit.reschedule(self.loop.time() + max(0.0, self.until - time.monotonic()))

    def deliver(self, value: Any, error: BaseException | None) -> None:
        if self.result.done():
            return
        if error is None:
            self.result.set_result(value)
        else:
            self.result.set_exception(error)


class Pool:
    """Runs functions in a few threads, for handlers in the event loop.

    Args:
        threads: how many run at once.
        waiting: how many may wait for a thread.
        seconds: that a call may wait for a thread, and then that it may run.
        name: of the threads.
    """

    def __init__(self, *, threads: int = 4, waiting: int = 64, seconds: float = 30.0, name: str = "reading") -> None:
        self.threads, self.waiting, self.seconds, self.name = threads, waiting, seconds, name
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._inside = 0
        self._started = False

    def start(self) -> None:
        self._started = True
        for number in range(self.threads):
            threading.Thread(target=self._run, name=f"llmanac-{self.name}-{number}", daemon=True).start()

    def close(self) -> None:
        """Let the threads end once they are through with what they do; nobody waits for them."""
        for _ in range(self.threads if self._started else 0):
            self._calls.put(None)

    async def run(self, function: Callable[[float], T]) -> T:
        """The function's result, or what it raised.

        The function gets the time of `time.monotonic` after which nobody waits for it.

        Raises:
            Busy: too many calls wait, or this one waited too long.
            ApiError: the function runs longer than `seconds` (400).
        """
        with self._lock:
            if self._inside >= self.threads + self.waiting:
                raise Busy(f"the server is busy: {self._inside} requests are being read; try again in a moment")
            self._inside += 1
        call = _Call(function, self.seconds)
        try:
            async with asyncio.timeout(self.seconds) as limit:
                call.limit = limit
                self._calls.put(call)
                return await call.result
        except TimeoutError:
            if self._left(call) or time.monotonic() < call.until - 0.1:  # it has only just begun
                raise Busy("the server is busy reading other requests; try again in a moment") from None
            raise ApiError(
                400,
                f"reading this request (its text, or the structure of its reply) takes longer than {self.seconds:g} s; "
                "send less text, or a simpler structure",
                code="reading_timeout",
            ) from None
        finally:
            self._left(call)

    def _left(self, call: _Call) -> bool:
        """Nobody waits for this call any more. Returns whether no thread had begun it."""
        with self._lock:
            waited = call.state in ("waiting", "left")
            if call.state == "waiting":
                call.state = "left"
                self._inside -= 1
            return waited

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            with self._lock:
                if call.state != "waiting":
                    continue
                call.state, call.until = "running", time.monotonic() + call.seconds
            value, error = None, None
            try:
                call.loop.call_soon_threadsafe(call.begun)
                value = call.function(call.until)
            except BaseException as raised:  # whatever it is belongs to the caller, not to this thread
                error = raised
            with self._lock:
                call.state = "over"
                self._inside -= 1
            try:
                call.loop.call_soon_threadsafe(call.deliver, value, error)
            except RuntimeError:  # the loop is closed: nobody is listening any more
                return
            del call, value, error
