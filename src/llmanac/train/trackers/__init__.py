"""Trackers: where the numbers of a training go besides its `metrics.jsonl`. `build(...) -> Tracker`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmanac.core.spec import Spec


@dataclass(frozen=True)
class Tracker:
    """Takes the numbers of a training.

    Attributes:
        write: is given a step and finite numbers by tag, such as `train/loss` (nats); a step may have several calls.
        close: writes what is buffered; the run may be resumed later.
        takes_back: whether it drops what a killed session wrote past the step that the run resumes at.
    """

    write: Callable[[int, Mapping[str, float]], object]
    close: Callable[[], object]
    takes_back: bool = False


@dataclass(frozen=True, kw_only=True)
class TrackerSpec(Spec):
    """Describes a tracker."""

    kind = "tracker"

    @classmethod
    def from_text(cls, text: str, path: str) -> list[str]:
        """`wandb,mlflow` as on a command line."""
        return [name.strip() for name in text.split(",")]

    def build(self, *, folder: Path, name: str, config: Mapping[str, Any], step: int) -> Tracker:
        """The tracker of a run.

        Args:
            folder: the training's; what is kept on this machine goes into its folder with the tracker's name.
            config: settings by dotted path.
            step: how many are done: 0 begins a run, any other goes on with the one before.

        Raises:
            LlmanacError: its package is not installed, or refuses the run.
        """
        raise NotImplementedError


def kept_id(place: Path, step: int) -> str | None:
    """The id in the file `id` of `place`: of the run that is resumed at `step`, where it has one."""
    path = place / "id"
    return path.read_text("utf-8").strip() if step and path.is_file() else None
