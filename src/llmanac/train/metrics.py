"""What a training writes while it runs: metrics.jsonl (one line a step), and the same numbers in trackers."""

import contextlib
import importlib.util
import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmanac.core.errors import LlmanacError
from llmanac.core.files import write_text
from llmanac.core.spec import make_method
from llmanac.train.trackers import Tracker, TrackerSpec

FILE = "metrics.jsonl"
RENAMED = {"rate": "lr_scale"}  # former names in files of earlier versions


def read_metrics(folder: str | Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics."""
    return [{RENAMED.get(key, key): value for key, value in line.items()} for line in read_log(Path(folder) / FILE)]


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a file that a run appends to, without a last one that a killed process left unfinished."""
    rows = []
    for line in path.read_text("utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError):
            break
    return rows


class MetricsLog:
    """Appends to the file and to the trackers. On resume, lines past the checkpoint's step are dropped first: they will
    be computed again, and trackers that cannot take back what they had are not told twice.

    Args:
        step: how many steps are done.
        trackers: None for TensorBoard where it is installed.
        config: the settings that trackers show, by dotted path.
        report: is told when a tracker fails; the training goes on without it.

    Raises:
        LlmanacError: the disk refused a line, or a tracker cannot begin.
    """

    def __init__(
        self, folder: Path, *, step: int, trackers: Sequence[TrackerSpec] | None, config: Mapping[str, Any],
        report: Callable[[str], object],
    ) -> None:  # fmt: skip
        if trackers is None:
            trackers = (make_method("tracker", "tensorboard"),) if importlib.util.find_spec("tensorboard") else ()
        self.path, self.report = folder / FILE, report
        place = folder.resolve()
        name = f"{place.parent.name}/{place.name}"
        try:
            with _own_draws():
                self._trackers = [t.build(folder=folder, name=name, config=config, step=step) for t in trackers]
        except Exception as error:  # of one of their libraries
            raise error if isinstance(error, LlmanacError) else LlmanacError(f"train.trackers: {error}") from error
        before = read_metrics(folder) if step else []
        self._told = {(line["step"], _tag(key)) for line in before if line["step"] > step for key in line}
        kept = [line for line in before if line["step"] <= step]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - it lives as long as the run

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """One line; values that are not finite are written as null, which every reader takes."""
        line = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        try:
            self._file.write(json.dumps({"step": step, **line}) + "\n")
            self._file.flush()
        except OSError as error:
            raise LlmanacError(f"{self.path}: cannot write ({error.strerror}); free some space and resume") from error
        numbers = {_tag(key): value for key, value in line.items() if isinstance(value, (int, float))}
        fresh = {tag: value for tag, value in numbers.items() if (step, tag) not in self._told}
        self._tell(lambda tracker: tracker.write(step, numbers if tracker.takes_back else fresh))

    def close(self) -> None:
        """Flush what is buffered."""
        try:
            self._file.close()
        except OSError as error:
            raise LlmanacError(f"{self.path}: cannot write ({error.strerror})") from error
        finally:
            self._tell(lambda tracker: tracker.close())

    def _tell(self, act: Callable[[Tracker], object]) -> None:
        for tracker in list(self._trackers):
            try:
                with _own_draws():
                    act(tracker)
            except Exception as error:  # a server that is away is no reason to lose a training
                self._trackers.remove(tracker)
                self.report(f"warning: {tracker.write.__module__}: {error}; the training goes on without this tracker")


@contextlib.contextmanager
def _own_draws() -> Iterator[None]:
    """Inside, libraries that draw names of runs from Python's generator do not move the training's."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)


def _tag(key: str) -> str:
    return key.replace("_", "/", 1) if key.startswith("evaluate_") else f"train/{key}"
