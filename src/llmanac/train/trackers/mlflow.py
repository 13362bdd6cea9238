"""MLflow, through its library: to the server that MLFLOW_TRACKING_URI names, else to files in `mlflow/`.

`mlflow ui --backend-store-uri FOLDER/mlflow` shows the files. A resumed run keeps its id.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmanac.core.extras import naming
from llmanac.core.files import write_text
from llmanac.train.trackers import Tracker, TrackerSpec, kept_id

CARD = {
    "title": "MLflow",
    "paper": "https://mlflow.org/docs/latest/tracking.html",
    "reference": "mlflow's client",
    "test": "tests/references/test_trackers.py::test_mlflow_goes_on_in_one_run_without_double_steps",
}


@dataclass(frozen=True, kw_only=True)
class Spec(TrackerSpec):
    """experiment: where the run belongs."""

    experiment: str = "llmanac"

    def build(self, *, folder: Path, name: str, config: Mapping[str, Any], step: int) -> Tracker:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # files need no database and no server
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # 7 would hold a training up for minutes
        with naming("train.trackers=mlflow"):
            from mlflow.entities import Metric
            from mlflow.tracking import MlflowClient
        place = folder / "mlflow"
        client = MlflowClient(tracking_uri=os.environ.get("MLFLOW_TRACKING_URI") or place.resolve().as_uri())
        own = kept_id(place, step)
        if own is None:
            found = client.get_experiment_by_name(self.experiment)
            owner = found.experiment_id if found else client.create_experiment(self.experiment)
            own = client.create_run(owner, run_name=name).info.run_id
            write_text(place / "id", own)
            for key, value in config.items():
                client.log_param(own, key, value)
        client.update_run(own, status="RUNNING")

        def write(step: int, values: Mapping[str, float]) -> None:
            now = round(time.time() * 1000)
            client.log_batch(own, [Metric(tag, value, now, step) for tag, value in values.items()])

        return Tracker(write, lambda: client.set_terminated(own))
