"""What each tracker holds of a training that fails past its last checkpoint and is resumed, read by its own library."""

from __future__ import annotations

import http.server
import json
import struct
import subprocess
import sys
import threading

import pytest
from _training import run, same

from llmanac.core import spec
from llmanac.core.errors import LlmanacError
from llmanac.objectives.autoregressive import Autoregressive
from llmanac.train import TrainSpec
from llmanac.train.metrics import MetricsLog, read_metrics
from llmanac.train.trackers import Tracker

pytestmark = pytest.mark.usefixtures("one_thread")
STEPS = 12


class Fails(Autoregressive):
    """Raises in step 9: checkpoints are at 3, 6 and 9, so 7 and 8 were written and are computed again."""

    calls = 0

    def loss(self, model, batch):
        self.calls += 1
        if self.calls == 9:
            raise RuntimeError("stopped")
        return super().loss(model, batch)


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(sys, "exit", sys.exit)  # wandb puts a method of its own there and leaves it
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    for name in ("MLFLOW_TRACKING_URI", "WANDB_API_KEY", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")


def trained(dataset, place, tracker):
    """A training that is resumed; its metrics, and a model without trackers is the same in the end."""
    chosen = tuple(spec.make_method("tracker", name) for name in tracker)
    options = {"trackers": chosen, "evaluate": lambda model: {"loss": 1.5}, "evaluate_every": 4}
    with pytest.raises(RuntimeError, match="stopped"):
        run(dataset, place, objective=Fails(), **options)
    assert max(line["step"] for line in read_metrics(place)) == 8
    _, model = run(dataset, place, **options)
    return model, read_metrics(place)


def pairs(lines, key):
    return [(line["step"], pytest.approx(line[key], rel=1e-6)) for line in lines if key in line]


def test_tensorboard_reads_every_step_once(dataset, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.summary.writer import event_file_writer

    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(9))  # names in .9 and .10
    model, lines = trained(dataset, tmp_path / "a", ["tensorboard"])
    read = EventAccumulator(str(tmp_path / "a" / "tensorboard"))
    read.Reload()
    for tag, key in (("train/loss", "loss"), ("evaluate/loss", "evaluate_loss")):
        assert [(event.step, event.value) for event in read.Scalars(tag)] == pairs(lines, key)
    assert len(read.Scalars("train/loss")) == STEPS
    assert same(model, run(dataset, tmp_path / "b", trackers=())[1])
    assert not (tmp_path / "b" / "tensorboard").exists()


def test_mlflow_goes_on_in_one_run_without_double_steps(dataset, tmp_path, offline):
    model, lines = trained(dataset, tmp_path / "a", ["mlflow"])
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=(tmp_path / "a" / "mlflow").resolve().as_uri())
    (found,) = client.search_runs([client.get_experiment_by_name("llmanac").experiment_id])
    for tag, key in (("train/loss", "loss"), ("evaluate/loss", "evaluate_loss")):
        history = client.get_metric_history(found.info.run_id, tag)
        assert sorted((one.step, one.value) for one in history) == pairs(lines, key)
    assert found.data.params["train.optimizer.name"] == "adamw" and found.data.params["seed"] == "0"
    assert found.info.status == "FINISHED" and found.info.run_name.endswith("/a")
    assert same(model, run(dataset, tmp_path / "b", trackers=())[1])
    run(dataset, tmp_path / "a", trackers=(spec.make_method("tracker", "mlflow"),), resume=False)
    assert len(client.search_runs([found.info.experiment_id])) == 2  # begun anew it is another run


def records(path):
    """The records of an offline file: LevelDB's log format after a header of 7 bytes, of wandb's own messages."""
    from wandb.proto import wandb_internal_pb2

    data, at, whole = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        if (1 << 15) - at % (1 << 15) < 7:  # the rest of a block holds no header
            at += (1 << 15) - at % (1 << 15)
            continue
        size, kind = struct.unpack_from("<HB", data, at + 4)
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def test_wandb_goes_on_in_one_run_without_double_steps(dataset, tmp_path, offline):
    model, lines = trained(dataset, tmp_path / "a", ["wandb"])
    files = sorted((tmp_path / "a" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2 and len({file.name for file in files}) == 1  # two sessions of one id
    held = {"train/loss": [], "evaluate/loss": []}
    config = {}
    for record in (record for file in files for record in records(file)):
        if record.WhichOneof("record_type") == "history":
            row = {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
            for tag in held.keys() & row.keys():
                held[tag].append((row["_step"], row[tag]))
        elif record.WhichOneof("record_type") == "run":
            config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
    assert held["train/loss"] == pairs(lines, "loss") and held["evaluate/loss"] == pairs(lines, "evaluate_loss")
    assert config["train.optimizer.name"] == "adamw" and config["seed"] == 0
    assert same(model, run(dataset, tmp_path / "b", trackers=())[1])


def test_several_are_chosen_by_one_text_and_an_unknown_one_is_named():
    chosen = spec.patch(TrainSpec(), spec.parse_patches(["trackers=wandb,mlflow"]))
    assert [one.name for one in chosen.trackers] == ["wandb", "mlflow"]
    assert TrainSpec.from_data(spec.dump(chosen)) == chosen
    other = spec.patch(chosen, {"trackers.0.project": "mine"})
    assert other.trackers[0].project == "mine" and "trackers" not in spec.dump(TrainSpec())
    with pytest.raises(LlmanacError, match=r"trackers\.0: no tracker named 'wandbb'"):
        spec.patch(TrainSpec(), {"trackers": ["wandbb"]})


def test_a_missing_package_is_nothing_by_default_and_an_error_by_name(dataset, tmp_path, monkeypatch):
    for name in ("tensorboard", "wandb", "mlflow", "mlflow.entities"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    run(dataset, tmp_path / "a", steps=3)
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"plan.json", "metrics.jsonl", "checkpoints"}
    for name in ("wandb", "mlflow"):
        with pytest.raises(LlmanacError, match=rf"={name}` needs {name}: pip install 'llmanac\[tracking\]'"):
            run(dataset, tmp_path / name, trackers=(spec.make_method("tracker", name),))


def test_a_tracker_that_fails_is_left_out_and_the_training_goes_on(tmp_path):
    def away(step, values):
        raise OSError("no route to host")

    class Asked(spec.Spec):
        def build(self, **run):
            return Tracker(away, away)

    said = []
    log = MetricsLog(tmp_path, step=0, trackers=[Asked()], config={}, report=said.append)
    log.write(1, {"loss": 2.0})
    log.write(2, {"loss": 1.0})
    log.close()
    assert [line["loss"] for line in read_metrics(tmp_path)] == [2.0, 1.0]
    assert len(said) == 1 and "no route to host; the training goes on" in said[0]


def test_listing_and_specs_import_no_library():
    code = (
        "import sys; from llmanac.core import registry, spec\n"
        "[spec.make_method('tracker', name) for name in registry.methods('tracker')]\n"
        "assert not {'wandb', 'mlflow', 'tensorboard', 'torch'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_server_of_mlflow_that_is_away_is_refused_after_few_tries(dataset, tmp_path, monkeypatch):
    """Each try answers 503, which its client repeats seven times by itself, for minutes."""
    tries = []

    class Away(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            tries.append(self.path)
            self.send_error(503)

        do_POST = do_GET

        def log_message(self, *words):
            pass

    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    with http.server.HTTPServer(("127.0.0.1", 0), Away) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_address[1]}")
        with pytest.raises(LlmanacError, match=r"train\.trackers: .*503"):
            run(dataset, tmp_path / "a", trackers=(spec.make_method("tracker", "mlflow"),))
        server.shutdown()
    assert 1 <= len(tries) <= 3
