"""TensorBoard: event files in the training's folder, which `tensorboard --logdir runs` shows.

One scalar a tag and step. A resumed run writes a purge mark, so readers leave out steps that are computed again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmanac.core.extras import naming
from llmanac.train.trackers import TrackerSpec

CARD = {
    "title": "TensorBoard",
    "paper": "https://www.tensorflow.org/tensorboard",
    "reference": "tensorboard's EventAccumulator",
    "test": "tests/references/test_trackers.py::test_tensorboard_reads_every_step_once",
}


@dataclass(frozen=True, kw_only=True)
class Spec(TrackerSpec):
    """Files in `tensorboard/`."""

    def build(self, *, folder: Path, name: str, config: Mapping[str, Any], step: int) -> _Board:
        return _Board(folder / "tensorboard", step)


class _Board:
    takes_back = True

    def __init__(self, folder: Path, step: int) -> None:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorBoard imports TensorFlow where it finds it
        with naming("train.trackers=tensorboard"):
            from torch.utils.tensorboard import SummaryWriter
        self._writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, step)

    def close(self) -> None:
        self._writer.close()
