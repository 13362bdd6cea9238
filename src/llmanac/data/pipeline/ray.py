"""The Ray engine: the same tasks on a Ray cluster whose machines see the build's folder under the same path.

A document's time limit holds here for Python code only: the processes are not watched from outside.
"""

import os
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llmanac.core.errors import LlmanacError
from llmanac.data.pipeline.local import Slowed, was_slow
from llmanac.data.pipeline.tasks import Task

_WORKERS: dict[str, Any] = {}


def _work(root: str, build: str, paths: list[str], task: Task) -> dict[str, Any]:
    """Runs in a Ray process, which keeps its worker for the tasks that follow."""
    sys.path.extend(path for path in paths if path not in sys.path)
    from llmanac.data.pipeline.worker import answer, make_worker

    if build not in _WORKERS:
        _WORKERS.clear()
        _WORKERS[build] = make_worker(Path(root), lambda key, index, count, name: None)
    return answer(lambda: _WORKERS[build], task)


class RayEngine:
    """Runs tasks on the cluster that `RAY_ADDRESS` names, or on one started on this machine."""

    def __init__(self, root: Path, *, workers: int, limit: float) -> None:
        try:
            import ray
        except ImportError:
            raise LlmanacError(
                "ray is not installed; run `pip install 'llmanac[ray]'`, or use --engine local"
            ) from None
        self.root, self.workers = root.resolve(), workers
        self._ray: Any = ray
        self._own = not ray.is_initialized()
        if self._own:
            local: dict[str, Any] = (
                {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": workers, "include_dashboard": False}
            )
            ray.init(log_to_driver=False, **local)
        self._remote = ray.remote(max_retries=0)(_work)
        self._build = f"{self.root}/{os.getpid()}/{id(self)}"

    def run(self, tasks: Sequence[Task], done: Callable[[Task | None], None], slowed: Slowed) -> None:
        """Do every task, as the local engine does. Raises LlmanacError."""
        waiting = deque(tasks)
        running: dict[Any, Task] = {}
        paths = [path for path in sys.path if path]
        try:
            while waiting or running:
                while waiting and len(running) < self.workers:
                    task = waiting.popleft()
                    running[self._remote.remote(str(self.root), self._build, paths, task)] = task
                ready = self._ray.wait(list(running), num_returns=1, timeout=0.5)[0]
                if not ready:
                    done(None)
                for found in ready:
                    task = running.pop(found)
                    if was_slow(task, self._answer(found, task), slowed):
                        waiting.appendleft(task)
                    else:
                        done(task)
        finally:
            for reference in running:
                self._ray.cancel(reference, force=True)

    def _answer(self, reference: Any, task: Task) -> dict[str, Any]:
        try:
            return dict(self._ray.get(reference))
        except self._ray.exceptions.RayError as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise LlmanacError(
                f"a Ray process died at {task['folder']} ({type(error).__name__}: {reason}); "
                "run the same command again to go on"
            ) from None

    def close(self) -> None:
        """Leave the cluster; one that this engine made ends."""
        if self._own:
            self._ray.shutdown()
