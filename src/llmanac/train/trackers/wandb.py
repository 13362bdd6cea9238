"""Weights & Biases, through its library.

Nothing is sent by default; `wandb sync FOLDER/wandb/offline-run-*` uploads what was kept. `mode = "online"`, or the
variable WANDB_MODE, decides otherwise. A resumed run keeps its id; an offline one has a file for each session.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llmanac.core.errors import LlmanacError
from llmanac.core.extras import naming
from llmanac.core.files import write_text
from llmanac.train.trackers import TrackerSpec, kept_id

CARD = {
    "title": "Weights & Biases",
    "paper": "https://docs.wandb.ai",
    "reference": "the records of wandb's own messages in its offline file",
    "test": "tests/references/test_trackers.py::test_wandb_goes_on_in_one_run_without_double_steps",
}


@dataclass(frozen=True, kw_only=True)
class Spec(TrackerSpec):
    """project, entity: where the run belongs. mode: `offline` keeps it in `wandb/`, `online` sends it as well."""

    project: str = "llmanac"
    entity: str | None = None
    mode: Literal["offline", "online"] = "offline"

    def build(self, *, folder: Path, name: str, config: Mapping[str, Any], step: int) -> _WandbRun:
        return _WandbRun(self, folder, name, config, step)


class _WandbRun:
    takes_back = False

    def __init__(self, spec: Spec, folder: Path, name: str, config: Mapping[str, Any], step: int) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # its library's own reports, also of offline runs
        with naming("train.trackers=wandb"):
            import wandb
        place = folder / "wandb"
        own = kept_id(place, step) or secrets.token_hex(8)
        write_text(place / "id", own)
        mode: Any = os.environ.get("WANDB_MODE", spec.mode)
        quiet = wandb.Settings(silent=True, console="off", reinit="create_new")
        try:
            self._run = wandb.init(
                project=spec.project, entity=spec.entity, id=own, name=name, dir=str(folder), config=dict(config),
                resume="allow", mode=mode, settings=quiet,
            )  # fmt: skip
        except wandb.Error as error:
            raise LlmanacError(f"train.trackers: wandb: {error}; log in, or set WANDB_MODE=offline") from error

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()
