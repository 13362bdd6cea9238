"""Weights & Biases, through its library.

Nothing is sent by default; `wandb sync FOLDER/wandb/offline-run-*` uploads what was kept, and WANDB_MODE=online sends
at once. A resumed run keeps its id; an offline one has a file for each session.
"""

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmanac.core.extras import naming
from llmanac.core.files import write_text
from llmanac.train.trackers import Tracker, TrackerSpec, kept_id

CARD = {
    "title": "Weights & Biases",
    "paper": "https://docs.wandb.ai",
    "reference": "the records of wandb's own messages in its offline file",
    "test": "tests/references/test_trackers.py::test_wandb_goes_on_in_one_run_without_double_steps",
}


@dataclass(frozen=True, kw_only=True)
class Spec(TrackerSpec):
    """project: where the run belongs."""

    project: str = "llmanac"

    def build(self, *, folder: Path, name: str, config: Mapping[str, Any], step: int) -> Tracker:
        os.environ.setdefault("WANDB_MODE", "offline")
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # its library's own reports, also of offline runs
        with naming("train.trackers=wandb"):
            import wandb
        own = kept_id(folder / "wandb", step) or secrets.token_hex(8)
        write_text(folder / "wandb" / "id", own)
        quiet = wandb.Settings(silent=True, console="off", reinit="create_new")
        named: Any = {"project": self.project, "name": name, "id": own, "config": dict(config)}
        run = wandb.init(**named, dir=str(folder), resume="allow", settings=quiet)
        return Tracker(lambda step, values: run.log(dict(values), step=step), run.finish)
