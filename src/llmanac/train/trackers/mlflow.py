"""MLflow, through its library: to the server that MLFLOW_TRACKING_URI or `uri` names, else to files in `mlflow/`.

`mlflow ui --backend-store-uri FOLDER/mlflow` shows the files. A resumed run keeps its id.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmanac.core.errors import LlmanacError
from llmanac.core.extras import naming
from llmanac.core.files import write_text
from llmanac.train.trackers import TrackerSpec, kept_id

CARD = {
    "title": "MLflow",
    "paper": "https://mlflow.org/docs/latest/tracking.html",
    "reference": "mlflow's client",
    "test": "tests/references/test_trackers.py::test_mlflow_goes_on_in_one_run_without_double_steps",
}


@dataclass(frozen=True, kw_only=True)
class Spec(TrackerSpec):
    """experiment: where the run belongs. uri: of the server, or of the files."""

    experiment: str = "llmanac"
    uri: str | None = None

    def build(self, *, folder: Path, name: str, config: Mapping[str, Any], step: int) -> _MlflowRun:
        return _MlflowRun(self, folder / "mlflow", name, config, step)


class _MlflowRun:
    takes_back = False

    def __init__(self, spec: Spec, place: Path, name: str, config: Mapping[str, Any], step: int) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # files need no database and no server
        with naming("train.trackers=mlflow"):
            from mlflow.entities import Metric, Param
            from mlflow.exceptions import MlflowException
            from mlflow.tracking import MlflowClient
        self._metric = Metric
        uri = spec.uri or os.environ.get("MLFLOW_TRACKING_URI") or place.resolve().as_uri()
        self._client = MlflowClient(tracking_uri=uri)
        try:
            kept = kept_id(place, step)
            if kept is None:
                found = self._client.get_experiment_by_name(spec.experiment)
                owner = found.experiment_id if found else self._client.create_experiment(spec.experiment)
                kept = self._client.create_run(owner, run_name=name).info.run_id
                write_text(place / "id", kept)
                self._client.log_batch(kept, params=[Param(key, str(value)) for key, value in config.items()])
            self._client.update_run(kept, status="RUNNING")
        except MlflowException as error:
            raise LlmanacError(f"train.trackers: mlflow: {uri}: {error}") from error
        self._id = kept

    def write(self, step: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        self._client.log_batch(self._id, metrics=[self._metric(tag, v, now, step) for tag, v in values.items()])

    def close(self) -> None:
        self._client.set_terminated(self._id)
