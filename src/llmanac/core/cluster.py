"""Processes of a Ray cluster: each makes a thing once, and then does one call after another with it.

The cluster is that of `RAY_ADDRESS`, or one that is started on this machine and ends with its use. A process that dies
is started again on a machine that has room, twice, and its call is done again: calls must leave nothing half done.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

from llmanac.core.errors import LlmanacError, SpecError
from llmanac.core.threads import cores, use_threads

Each = Callable[[Callable[..., Any], Sequence[tuple[Any, ...]]], Iterator[tuple[int, Any]]]
RESTARTS = 2
START = 300.0  # seconds until the first process must be there


def here(thing: Any) -> Each:
    """What `Actors.results` is, for a thing in this process."""
    return lambda function, calls: ((number, function(thing, *given)) for number, given in enumerate(calls))


class _Holder:
    """What runs in a process of the cluster."""

    def __init__(self, make: Callable[..., Any], given: tuple[Any, ...], threads: int) -> None:
        use_threads(threads)
        self.make, self.given, self.made = make, given, None

    def ready(self) -> None:
        """Answers when the process is there."""

    def do(self, function: Callable[..., Any], given: tuple[Any, ...]) -> tuple[bool, Any]:
        """Whether it could be done, and the result or else the error, which crosses as it is."""
        try:
            self.made = self.make(*self.given) if self.made is None else self.made
            return True, function(self.made, *given)
        except LlmanacError as error:
            return False, error


class Actors:
    """As many processes of the cluster, until the end of the block.

    Args:
        make, given: `make(*given)` is what a process holds. Both are found or unpacked there: a function of a module.
        workers: processes; by default one for each GPU, else one for each machine.
        cpus: processors of each; by default all are divided, and with GPUs one. Where it is given no GPU is taken, and
            there are as many processes as have room by default.

    Raises:
        LlmanacError: Ray is not installed or not reached. SpecError: more processes than the cluster has room for.
    """

    def __init__(
        self, make: Callable[..., Any], *given: Any, workers: int | None = None, cpus: int | None = None
    ) -> None:
        try:
            import ray
        except ImportError:
            raise LlmanacError(
                "ray is not installed; run `pip install 'llmanac[ray]'`, or use --engine local"
            ) from None
        if workers is not None and workers < 1:
            raise SpecError(f"--workers: {workers} is not at least 1")
        self.ray: Any = ray
        self._actors: list[Any] = []
        self._free: list[Any] = []
        self._own = not ray.is_initialized()
        if self._own:
            local = {"num_cpus": max(workers or 1, cores()), "include_dashboard": False}
            try:
                self.ray.init(
                    log_to_driver=False, logging_level="error", **({} if os.environ.get("RAY_ADDRESS") else local)
                )
            except ConnectionError as error:
                raise LlmanacError(f"RAY_ADDRESS: {os.environ['RAY_ADDRESS']} does not answer ({error})") from None
        found = ray.cluster_resources()
        total, gpus = int(found.get("CPU", 0)), 0 if cpus else int(found.get("GPU", 0))
        machines = sum(node["Alive"] and node["Resources"].get("CPU", 0) > 0 for node in ray.nodes())
        self.workers = workers or (max(1, total // cpus) if cpus else gpus or machines)
        each = cpus or (1 if gpus else max(1, total // self.workers))
        if self.workers * each > total or (gpus and self.workers > gpus):
            self.close()
            raise SpecError(f"--workers: {self.workers} find no room in {total} processors and {gpus} GPUs")
        made = ray.remote(_Holder).options(
            num_cpus=each, num_gpus=1 if gpus else 0, max_restarts=RESTARTS, max_task_retries=RESTARTS,
            scheduling_strategy="SPREAD",
        )  # fmt: skip
        self._actors = [made.remote(make, given, each) for _ in range(self.workers)]
        self._coming = {actor.ready.remote(): actor for actor in self._actors}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *ended: object) -> None:
        self.close()

    def one(self, function: Callable[..., Any], *given: Any) -> Any:
        """The result of one call. Raises what it raises, where that is an LlmanacError."""
        return next(self.results(function, [given]))[1]

    def results(
        self,
        function: Callable[..., Any],
        calls: Sequence[tuple[Any, ...]],
        *,
        name: Callable[[int], str] = "block {}".format,
        idle: Callable[[], None] = lambda: None,
    ) -> Iterator[tuple[int, Any]]:
        """`(number, function(thing, *call))` of every call, as they are done.

        Args:
            name: of a call, for errors. idle: called where nothing was done for half a second.

        Raises:
            LlmanacError: what the function raised, or a process died for good.
        """
        waiting, running, waited = deque(enumerate(calls)), dict[Any, tuple[int, Any]](), 0.0
        while waiting or running:
            while waiting and self._free:
                number, given = waiting.popleft()
                actor = self._free.pop()
                running[actor.do.remote(function, given)] = number, actor
            ready = self.ray.wait([*running, *(self._coming if waiting else ())], num_returns=1, timeout=0.5)[0]
            if not ready:
                idle()
                waited += 0.5
                if waited > START and len(self._coming) == self.workers:
                    raise LlmanacError(f"ray: none of {self.workers} processes has room after {START:.0f} s")
            for reference in ready:
                number, actor = running.pop(reference, (-1, None))
                answer = self._answer(reference, "its start" if actor is None else name(number))
                self._free.append(self._coming.pop(reference) if actor is None else actor)
                if actor is not None:
                    if not answer[0]:
                        raise answer[1]
                    yield number, answer[1]

    def beside(self, thing: type) -> Any:
        """A handle of one more, on the driver's machine, that the processes may be given."""
        where = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            self.ray.get_runtime_context().get_node_id(), soft=False
        )
        return self.ray.remote(thing).options(num_cpus=0, scheduling_strategy=where).remote()

    def _answer(self, reference: Any, name: str) -> Any:
        try:
            return self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:  # a fault of the function, with its traceback
            raise LlmanacError(f"{name}: {str(error).strip()}") from None
        except self.ray.exceptions.RayError as error:
            reason = (str(error).strip().splitlines() or [""])[0][:200]
            raise LlmanacError(
                f"a Ray process died at {name} ({type(error).__name__}: {reason}); run the same command again to go on"
            ) from None

    def close(self) -> None:
        """End the processes, those that are idle in order; a cluster that was started here ends too."""
        ends = [actor.__ray_terminate__.options(max_task_retries=0).remote() for actor in self._free]
        if ends:
            self.ray.wait(ends, num_returns=len(ends), timeout=10)
        for actor in self._actors:
            self.ray.kill(actor)
        self._actors, self._free = [], []
        if self._own:
            self.ray.shutdown()
