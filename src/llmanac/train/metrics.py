"""What a training writes while it runs: metrics.jsonl (one line a step) and TensorBoard events."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmanac.core.errors import LlmanacError
from llmanac.core.files import write_text

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
    """Appends to both. On resume, lines past the checkpoint's step are dropped first: they will be computed again.

    Raises:
        LlmanacError: the disk refused a line.
    """

    def __init__(self, folder: Path, *, step: int) -> None:
        self.path = folder / FILE
        kept = [line for line in read_metrics(folder) if line["step"] <= step] if step else []
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - it lives as long as the run
        self._board = _board(folder / "tensorboard", step)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """One line; values that are not finite are written as null, which every reader takes."""
        line = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        try:
            self._file.write(json.dumps({"step": step, **line}) + "\n")
            self._file.flush()
        except OSError as error:
            raise LlmanacError(f"{self.path}: cannot write ({error.strerror}); free some space and resume") from error
        if self._board is not None:
            for key, value in line.items():
                if isinstance(value, (int, float)):
                    tag = key.replace("_", "/", 1) if key.startswith("evaluate_") else f"train/{key}"
                    self._board.add_scalar(tag, value, step)

    def close(self) -> None:
        """Flush what is buffered."""
        try:
            self._file.close()
        except OSError as error:
            raise LlmanacError(f"{self.path}: cannot write ({error.strerror})") from error
        finally:
            if self._board is not None:
                self._board.close()


def _board(folder: Path, step: int) -> Any:
    """A TensorBoard writer; None where the package is not installed."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorBoard imports TensorFlow where it finds it
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)
