"""The Ray engine: the same tasks on a Ray cluster.

Machines that see the build's folder under the same path read and write there. To others the files that a task reads
are sent, and what it writes comes back, so that the driver's disk alone holds the build. Files that stages name must be
on every machine.

A document's time limit holds here for Python code only: the processes are not watched from outside.
"""

import hashlib
import tempfile
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llmanac.core import files
from llmanac.core.cluster import Actors
from llmanac.data.pipeline.inputs import is_read
from llmanac.data.pipeline.local import Slowed, was_slow
from llmanac.data.pipeline.recipe import make_recipe
from llmanac.data.pipeline.tasks import Task, TaskWorker, needed
from llmanac.data.pipeline.worker import answer

PIECE = 64 << 20


class _Disk:
    """The driver's disk, as other machines read it."""

    def read(self, path: str, at: int) -> bytes:
        """Up to PIECE bytes from a place on."""
        with open(path, "rb") as file:
            file.seek(at)
            return file.read(PIECE)


class _FarWorker:
    """Does tasks in the build's folder, or in one of its own where this machine does not see that."""

    def __init__(self, root: str, mark: str, recipe: dict[str, Any]) -> None:
        shared = (Path(root) / mark).is_file()
        self._folder = None if shared else tempfile.TemporaryDirectory(prefix="llmanac-")
        self.root = root
        self.own = Path(root) if self._folder is None else Path(self._folder.name)
        self.tasks = TaskWorker(self.own, make_recipe(recipe), lambda key, index, count, name: None)

    def do(self, task: Task, disk: Any) -> dict[str, Any]:
        """The answer; with `files`, what the task wrote, where the driver does not see it."""
        if self._folder is None:
            return answer(lambda: self.tasks, task)
        named = {f"{self.root}/{name}": self.own / name for name in needed(task)}
        parts = [part for part in (*task.get("parts", ()), *task.get("entries", ())) if is_read(part)]
        for part in parts:
            place = self.own / "inputs" / hashlib.sha256(part["path"].encode()).hexdigest()[:16]
            named[part["path"]] = place / Path(part["path"]).name
        for path in self.own.rglob("*"):  # stretches of one file come one after another; the rest is done
            if path.is_file() and path not in named.values():
                path.unlink()
        for source, target in named.items():
            if not target.is_file():
                _fetch(disk, source, target)
        for part in parts:
            part["path"] = str(named[part["path"]])
        said = answer(lambda: self.tasks, task)
        folder = self.own / task["folder"]
        if "done" in said:
            said["files"] = {path.name: path.read_bytes() for path in folder.iterdir()}
        return said


def _fetch(disk: Any, source: str, target: Path) -> None:
    import ray

    with files.atomic_file(target, durable=False) as file:
        at = 0
        while piece := ray.get(disk.read.remote(source, at)):
            file.write(piece)
            at += len(piece)


class RayEngine:
    """Runs tasks on the cluster that `RAY_ADDRESS` names, or on one started on this machine."""

    def __init__(self, root: Path, *, workers: int | None) -> None:
        self.root = root.resolve()
        mark = f"work/seen-{uuid.uuid4().hex}"
        files.write_bytes(self.root / mark, b"")
        recipe = files.read_json(self.root / "build.json")["recipe"]
        self._actors = Actors(_FarWorker, str(self.root), mark, recipe, workers=workers, cpus=1)
        self._disk = self._actors.beside(_Disk)

    def run(self, tasks: Sequence[Task], done: Callable[[Task | None], None], slowed: Slowed) -> None:
        """Do every task, as the local engine does. Raises LlmanacError."""
        left = list(tasks)
        while left:
            given, left = left, []
            names = [str(task["folder"]) for task in given]
            found = self._actors.results(
                _FarWorker.do, [(task, self._disk) for task in given], name=names.__getitem__, idle=lambda: done(None)
            )
            for number, said in found:
                task = given[number]
                if was_slow(task, said, slowed):
                    left.append(task)
                    continue
                if "files" in said:
                    with files.atomic_folder(self.root / task["folder"]) as folder:
                        for name, data in said["files"].items():
                            files.write_bytes(folder / name, data)
                done(task)

    def close(self) -> None:
        """Leave the cluster; one that this engine made ends."""
        self._actors.close()
