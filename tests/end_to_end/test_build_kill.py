"""Killed with -9 at any moment, the build or one of its workers, and started again: the same bytes, whatever happened.

Trials run in a process of their own (`python test_build_kill.py MODE TRIALS SEED FOLDER`). Mode `workers` is the local
engine with two processes; mode `inline` does the tasks in the process that is killed, on a slow disk, so that most
kills fall inside a task. The control writes in place and appends, and the same trials must notice. Progress is counted
in finished tasks, never in seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

LIVES = 6  # of a trial; the last may end
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the trials fork")


def trials(mode: str, count: int, seed: int, folder: Path) -> dict[str, int]:
    output = subprocess.run(
        [sys.executable, __file__, mode, str(count), str(seed), str(folder)],
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert output.returncode == 0, output.stderr[-3000:]
    return dict(json.loads(output.stdout.splitlines()[-1]))


@pytest.mark.slow
def test_killed_inside_its_tasks_it_ends_the_same(tmp_path: Path) -> None:
    found = trials("inline", 4, 1, tmp_path)
    assert found["wrong"] == 0, found
    assert found["kills"] >= 12, found
    assert found["in_task"] >= 6, found


def test_the_build_and_its_workers_may_be_killed(tmp_path: Path) -> None:
    found = trials("workers", 1, 2, tmp_path)
    assert found["wrong"] == 0, found
    assert found["kills"] >= 3, found


def test_killed_before_its_first_file_has_its_name(tmp_path: Path) -> None:
    from _builds import digests, make_inputs

    make_inputs(tmp_path / "in", 20)
    work(tmp_path / "whole", "workers")
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / ".tmp-999999-build.json").write_text("{")
    (tmp_path / "killed" / ".lock").touch()
    work(tmp_path / "killed", "workers")
    found = digests(tmp_path / "killed")
    assert {name: found.get(name) for name in digests(tmp_path / "whole")} == digests(tmp_path / "whole")


def test_the_control_is_caught(tmp_path: Path) -> None:
    for seed in range(3, 9):
        if trials("control", 2, seed, tmp_path / str(seed))["wrong"]:
            return
    raise AssertionError("writing in place and appending went unnoticed")


@pytest.mark.slow
def test_killed_many_times(tmp_path: Path) -> None:
    for mode, count in (("inline", 60), ("workers", 15)):
        found = trials(mode, count, 9, tmp_path / mode)
        assert found["wrong"] == 0, (mode, found)
        assert found["kills"] >= 3 * count, (mode, found)


# --- what runs in the process of its own -------------------------------------------------------------------------


class Inline:
    """An engine that does every task itself."""

    def __init__(self, root: Path, **unused: Any) -> None:
        from llmanac.data.pipeline.worker import make_worker

        self.worker = make_worker(root, lambda key, index, count, name: None)

    def run(self, tasks: Sequence[dict[str, Any]], done: Callable[[dict[str, Any]], None], slowed: Any) -> None:
        for task in tasks:
            self.worker.do(task)
            done(task)

    def close(self) -> None:
        pass


def work(folder: Path, mode: str) -> None:
    from _builds import stage

    from llmanac.data.pipeline import build as building
    from llmanac.data.pipeline import records, tasks
    from llmanac.data.pipeline.recipe import make_recipe

    if mode != "workers":
        building._engine = lambda name, root, workers, limit: Inline(root)
        write = records.RecordWriter.write

        def slowly(self: Any, document: Any, data: bytes) -> None:
            time.sleep(0.0003)
            write(self, document, data)

        records.RecordWriter.write = slowly  # type: ignore[method-assign]
    if mode == "control":

        @contextlib.contextmanager
        def in_place(path: Path) -> Iterator[Path]:
            path.mkdir(parents=True, exist_ok=True)
            yield path

        def appending(self: Any, path: Path) -> None:
            self.path, self.documents, self.bytes = path, 0, 0
            self._handle = open(path, "ab", buffering=0)  # noqa: SIM115

        tasks.files.atomic_folder = in_place  # type: ignore[assignment]
        records.RecordWriter.__init__ = appending  # type: ignore[method-assign]
    stages = ["clean", stage("short"), stage("first_seen"), stage("hostile"), stage("first_seen")]
    recipe = make_recipe({"inputs": [str(folder.parent / "in")], "stages": stages, "shard_bytes": 12_000})
    building.build(recipe, folder, workers=2)


def finished(folder: Path) -> int:
    """Tasks that are done, the passes before them too."""
    found = 0
    for path, folders, names in os.walk(folder / "work"):  # passes over what is renamed or removed meanwhile
        folders[:] = [name for name in folders if not name.startswith(".tmp-")]
        found += "done.json" in names and path != str(folder / "work")
    return found


def in_task(folder: Path) -> bool:
    return any(name.startswith(".tmp-") for _, names, _ in os.walk(folder / "work") for name in names)


def attempt(folder: Path, mode: str, tasks: int | None) -> str:
    """Fork a build and kill it, or one of its workers, `tasks` tasks on: "done", "failed", "killed", ..."""
    start = finished(folder)
    child = os.fork()
    if child == 0:
        from llmanac.core.errors import LlmanacError

        code = 1
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        with contextlib.suppress(LlmanacError):
            work(folder, mode)
            code = 0
        os._exit(code)
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return "done" if os.waitstatus_to_exitcode(status) == 0 else "failed"
        if tasks is not None and finished(folder) >= start + tasks:
            time.sleep(random.random() * 0.02)
            workers = Path(f"/proc/{child}/task/{child}/children")
            pids = [int(pid) for pid in workers.read_text().split()] if workers.exists() else []
            aim = random.choice([child, *pids]) if mode == "workers" and pids else child
            with contextlib.suppress(ProcessLookupError):
                os.kill(aim, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            if os.waitstatus_to_exitcode(status) == 0:
                return "done"  # it was faster
            if aim != child:
                return "killed" if os.waitstatus_to_exitcode(status) == 1 else "failed"
            return "killed in a task" if in_task(folder) else "killed"
        time.sleep(0.001)


def main(mode: str, count: int, seed: int, folder: Path) -> dict[str, int]:
    from _builds import digests, make_inputs

    import llmanac.data.pipeline.build
    import llmanac.data.pipeline.worker
    import llmanac.data.stages.clean  # noqa: F401 - imported before the forks, as all that follows

    random.seed(seed)
    make_inputs(folder / "in", 250)
    assert attempt(folder / "whole", "inline", None) == "done"
    expected = digests(folder / "whole")
    found = {"trials": count, "kills": 0, "in_task": 0, "wrong": 0}
    for number in range(count):
        target, outcome = folder / f"trial-{number}", "killed"
        for life in range(LIVES + 1):
            outcome = attempt(target, mode, None if life == LIVES else random.randint(0, 6))
            if not outcome.startswith("killed"):
                break
            found["kills"] += 1
            found["in_task"] += outcome == "killed in a task"
        found["wrong"] += outcome == "failed" or digests(target) != expected
    return found


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))))
