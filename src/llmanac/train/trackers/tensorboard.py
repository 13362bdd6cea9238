"""TensorBoard: event files in the training's folder, which `tensorboard --logdir runs` shows.

One scalar a tag and step. A resumed run writes a purge mark, so readers leave out steps that are computed again.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmanac.core.extras import naming
from llmanac.train.trackers import Tracker, TrackerSpec

CARD = {
    "title": "TensorBoard",
    "paper": "https://www.tensorflow.org/tensorboard",
    "reference": "tensorboard's EventAccumulator",
    "test": "tests/references/test_trackers.py::test_tensorboard_reads_every_step_once",
}


@dataclass(frozen=True, kw_only=True)
class Spec(TrackerSpec):
    """Files in `tensorboard/`."""

    def build(self, *, folder: Path, name: str, config: Mapping[str, Any], step: int) -> Tracker:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorBoard imports TensorFlow where it finds it
        with naming("train.trackers=tensorboard"):
            from torch.utils.tensorboard import SummaryWriter
        # Readers order files by name: by second, then by fields that do not grow. Two of one second could be swapped.
        while any((folder / "tensorboard").glob(f"events.out.tfevents.{int(time.time()):010d}.*")):
            time.sleep(0.05)
        board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

        def write(step: int, values: Mapping[str, float]) -> None:
            for tag, value in values.items():
                board.add_scalar(tag, value, step)

        return Tracker(write, board.close, takes_back=True)
