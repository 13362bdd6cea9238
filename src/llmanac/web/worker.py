"""The one thread that runs the engine, and the bounded queue in front of it.

HTTP handlers live in the event loop and never touch the model. They hand a `Job` to the `Worker`, whose thread steps
one `Scheduler` for all clients, so that their sequences share each call of the model, and sends every piece back to
the loop. At most `max_queue` jobs wait for a row; the next one is refused with `Busy`, at once. Free rows go to the
jobs in turn, a prompt each, and the prompts of one job leave a part of the rows to others.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from llmanac.core.errors import LlmanacError, RequestError
from llmanac.generate.engine import Engine, Piece, Request, evaluating
from llmanac.web._errors import Busy, Late, ShuttingDown
from llmanac.web._metrics import Metrics, Times, render

log = logging.getLogger(__package__)

RESERVED = 1 / 8  # of the rows: not for the further prompts of a job that has some already
SLOWER = 3.0  # times as long as else a streaming client's next token may take while another's prompt is read
PATIENCE = 0.1  # seconds that it may take in any case
Pieces = Iterator[tuple[int, Piece]]


Event = tuple[int, Piece] | Exception | None


class Job:
    """What one HTTP request asks of the engine: prompts to continue, or work of its own that yields the pieces.

    Must be made inside the event loop that will read it.

    Attributes:
        requests: the engine requests; `pieces` names them by their place in this list.
        work: runs in the worker's thread, between two steps, in place of the scheduler.
        stream: whether the pieces are delivered; without, only the end is.
        seconds: after which it is given up, from its arrival on.
        extra: what `work` leaves for the reply.
    """

    def __init__(
        self,
        requests: list[Request],
        work: Callable[[Job], Pieces] | None = None,
        *,
        stream: bool = True,
        seconds: float | None = None,
    ) -> None:
        self.requests = requests
        self.work = work
        self.stream = stream
        self.arrival = time.monotonic()
        self.seconds = seconds
        self.extra: dict[str, Any] = {}
        self.started = False
        self.cancelled = False
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[list[Event]] = asyncio.Queue()

    @property
    def late(self) -> bool:
        return self.seconds is not None and time.monotonic() > self.arrival + self.seconds

    @property
    def rows(self) -> int:
        """Sequences that are not finished yet."""
        return sum(s.finish_reason is None for r in self.requests for s in r.sequences)

    def deliver(self, *events: Event) -> None:
        """Send pieces, a failure, or the end to the event loop; called from the worker's thread."""
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, list(events))
        except RuntimeError:  # the loop is closed: nobody is listening any more
            self.cancelled = True

    async def steps(self, patience: float | None = None) -> AsyncIterator[list[tuple[int, Piece]]]:
        """What each step brought, as `(request, piece)`; an empty list after `patience` seconds of nothing.

        Raises whatever stopped the job.
        """
        while True:
            try:
                async with asyncio.timeout(patience):  # wait_for may swallow a cancellation (Python 3.11)
                    events = await self._events.get()
            except TimeoutError:
                yield []
                continue
            pieces = [event for event in events if isinstance(event, tuple)]
            if pieces:
                yield pieces
            for event in events[len(pieces) :]:
                if event is None:
                    return
                if isinstance(event, Exception):
                    raise event


class Worker:
    """Runs jobs on an engine in one thread.

    Args:
        max_queue: jobs that may wait while every row is taken.
    """

    def __init__(self, engine: Engine, *, max_queue: int = 64) -> None:
        self.engine, self.max_queue = engine, max_queue
        self.scheduler = engine.scheduler(slower=SLOWER)
        self.scheduler.pieces.patience = PATIENCE
        self._jobs: list[Job] = []  # accepted and not over
        self._inbox: deque[Job] = deque()
        self._turns: deque[tuple[Job, deque[Request]]] = deque()  # jobs with prompts that the scheduler has not yet
        self._owners: dict[Request, tuple[Job, int, Times]] = {}
        self.metrics = Metrics()
        self._changed = threading.Condition()
        self._closed = self.draining = False
        self._thread = threading.Thread(target=self._run, name="llmanac-engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop the thread after the step in progress; jobs that are not over end with ShuttingDown."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def drain(self) -> None:
        """Accept nothing more; what was accepted goes on."""
        self.draining = True

    def submit(self, job: Job) -> None:
        """Accept a job. Raises Busy where the queue is full, ShuttingDown after `drain` or `close`."""
        with self._changed:
            if self._closed or self.draining:
                raise ShuttingDown()
            waiting = sum(not j.started for j in self._jobs)
            if waiting >= self.max_queue and sum(j.rows for j in self._jobs) >= self.engine.rows:
                raise Busy(f"the server is busy: {waiting} requests are waiting; try again in a moment")
            self._jobs.append(job)
            self._inbox.append(job)
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """Nobody waits for this job any more; its rows leave the batch before the next step."""
        with self._changed:
            job.cancelled = True
            self._changed.notify()

    @property
    def counts(self) -> tuple[int, int]:
        """Jobs that run, and jobs that wait."""
        with self._changed:
            started = sum(j.started for j in self._jobs)
            return started, len(self._jobs) - started

    def page(self, model_name: str) -> str:
        """What Prometheus reads."""
        cache = self.engine.prefix_cache
        return render(self.metrics, *self.counts, self.scheduler.preemptions, cache, model_name)

    def _run(self) -> None:
        with evaluating(self.engine.model, self.engine.draft_model):
            while (job := self._next()) is not _STOP:
                try:
                    if isinstance(job, Job):
                        self._begin(job)
                    elif self.scheduler.busy or self._turns:
                        self._step()
                except Exception as error:
                    self._fail(error, [job] if isinstance(job, Job) else None)
        for job in self._jobs:
            job.deliver(ShuttingDown())

    def _next(self) -> object:
        """The next new job, or None where there is only stepping to do; waits while there is neither."""
        with self._changed:
            while True:
                self._drop_cancelled()
                if self._closed:
                    return _STOP
                if self._inbox:
                    return self._inbox.popleft()
                if self.scheduler.busy or self._turns:
                    return None
                self._changed.wait()

    def _drop_cancelled(self) -> None:
        gone = [job for job in self._jobs if job.cancelled or job.late]
        for job in gone:
            if job in self._inbox:
                self._inbox.remove(job)
            if not job.cancelled:
                job.deliver(Late(f"the request was not done after {job.seconds:g} s, the time it had"))
            self._end(job)

    def _begin(self, job: Job) -> None:
        if job.work is not None:
            job.started = True
            for event in job.work(job):
                job.deliver(event)
                if job.cancelled:
                    break
            self._finish(job)
            return
        for index, request in enumerate(job.requests):
            self._owners[request] = (job, index, Times(job.arrival))
        self._turns.append((job, deque(job.requests)))

    def _feed(self) -> None:
        """Give the scheduler prompts for its free rows, one of each job in turn."""
        held: dict[Job, int] = {}
        rows = [(row.request, row.rows) for row in self.scheduler.table]
        for request, count in (*rows, *((request, request.rows) for request in self.scheduler.waiting)):
            job = self._owners[request][0]
            held[job] = held.get(job, 0) + count
        free, most = self.engine.rows - sum(held.values()), self.engine.rows - int(self.engine.rows * RESERVED)
        passed = 0
        while free > 0 and passed < len(self._turns):
            job, left = self._turns.popleft()
            own = held.get(job, 0)
            if own and own + left[0].rows > most:
                passed += 1
            else:
                passed, free, held[job] = 0, free - left[0].rows, own + left[0].rows
                self.scheduler.submit(left.popleft())
            if left:
                self._turns.append((job, left))

    def _step(self) -> None:
        """One step of the scheduler; each job that moved gets its pieces in one delivery."""
        # how soon the next token comes matters where somebody sees it come
        self.scheduler.pieces.slower = SLOWER if any(job.stream for job in self._jobs) else None
        self._feed()
        waited, start = list(self.scheduler.waiting), time.monotonic()
        moved = self.scheduler.step()
        now = time.monotonic()
        still = set(self.scheduler.waiting) if waited else ()
        for request in waited:
            if request not in still:
                job, _, times = self._owners[request]
                job.started, times.begun = True, times.begun or start
        gained: dict[Job, list[Event]] = {}
        broken: dict[Job, LlmanacError] = {}
        ended: dict[Request, None] = {}
        for sequence in moved:
            request, piece = sequence.request, sequence.take()
            job, index, times = self._owners[request]
            self.metrics.tokens(request, times, sequence.index, len(piece.token_logprobs), now)
            error = getattr(sequence.constraint, "error", None)
            if error is not None:
                broken[job] = error
            if job.stream:
                gained.setdefault(job, []).append((index, piece))
            if sequence.finish_reason and request.finished:
                ended[request] = None
        over: dict[Job, None] = {}
        for request in ended:
            job, _, times = self._owners[request]
            self.metrics.end(request, times, now)
            if job not in broken and all(other.finished for other in job.requests):
                over[job] = None
        for job, error in broken.items():
            gained.pop(job, None)
            self._fail(error, [job])
        for job, events in gained.items():
            job.deliver(*events, *([None] if job in over else []))
        for job in over:
            self._finish(job, told=job in gained)

    def _finish(self, job: Job, *, told: bool = False) -> None:
        if not told:
            job.deliver(None)
        with self._changed:
            self._end(job)

    def _end(self, job: Job, reason: str = "abort") -> None:
        self._jobs = [j for j in self._jobs if j is not job]
        self._turns = deque(turn for turn in self._turns if turn[0] is not job)
        for request in job.requests:
            owned = self._owners.pop(request, None)
            if owned is not None and not request.finished:
                self.scheduler.cancel(request)
                self.metrics.end(request, owned[2], time.monotonic(), reason)

    def _fail(self, error: Exception, jobs: list[Job] | None) -> None:
        """Tell those concerned: one job, or all that the scheduler was running or had waiting."""
        if isinstance(error, RequestError) or self.engine.lost():  # the client is told, and what is lost was logged
            log.warning("a request ended with an error: %s", error)
        else:
            log.error("a request failed", exc_info=error)
        if jobs is None:
            jobs = list({id(job): job for job, _, _ in self._owners.values()}.values())
            self.scheduler.reset()
        for job in jobs:
            job.deliver(error)
            with self._changed:
                self._end(job, "error")


_STOP = object()
