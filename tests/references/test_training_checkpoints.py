"""What a training run leaves on disk: checkpoints kept, damaged, refused by the disk, and resumed from."""

from __future__ import annotations

import copy
import errno
import json
import os
import resource
import signal
import subprocess

import numpy as np
import pytest
import torch
from _forked import executables
from _training import FIXED, VOCAB, Stops, losses, model_of, run, same, stream
from safetensors.torch import load_file, save_file

from llmanac.core import spec
from llmanac.core.errors import CheckpointError, LlmanacError, SpecError
from llmanac.core.spec import make_method
from llmanac.data.pack import ListStream, MixedRows
from llmanac.data.tokens import TokenDataset
from llmanac.objectives.autoregressive import Autoregressive
from llmanac.train import TrainSpec, checkpoint
from llmanac.train.loop import train
from llmanac.train.metrics import read_metrics

pytestmark = pytest.mark.usefixtures("one_thread")


def test_ctrl_c_saves_and_says_how_to_go_on(dataset, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    whole, first = run(dataset, tmp_path / "whole")
    said = []
    with pytest.raises(KeyboardInterrupt):
        run(dataset, tmp_path / "cut", objective=Stops(5), report=said.append)
    assert "step 5 of 12 is saved" in said[-1] and "run it again" in said[-1]
    result, second = run(dataset, tmp_path / "cut", report=said.append)
    assert "resuming" in said[-1] and result.steps == whole.steps == 12
    assert same(first, second) and losses(tmp_path / "whole") == losses(tmp_path / "cut")
    assert signal.getsignal(signal.SIGINT) is before


def evaluate(model):
    torch.rand(3)  # an evaluation may draw numbers as it likes
    evaluate.calls += 1
    return {"loss": abs(evaluate.calls - 2) + 1.0, "other": 3}


evaluate.calls = 0


def test_newest_and_best_are_kept_and_evaluation_disturbs_nothing(dataset, tmp_path):
    class Noisy(Autoregressive):
        def collate(self, rows):
            batch = super().collate(rows)
            batch.ids[torch.rand(batch.ids.shape) < 0.1] = 0
            return batch

    evaluate.calls = 0
    result, one = run(dataset, tmp_path / "a", objective=Noisy(), evaluate=evaluate, keep=2, steps=15)
    steps = sorted(p.name for p in (tmp_path / "a" / "checkpoints").iterdir())
    assert steps == ["step-00000006", "step-00000012", "step-00000015"]
    assert result.best == {"step": 6, "value": 1.0}
    _, other = run(dataset, tmp_path / "b", objective=Noisy(), steps=15)
    assert same(one, other)
    assert [line["evaluate_other"] for line in read_metrics(tmp_path / "a") if "evaluate_other" in line] == [3.0] * 5
    assert list((tmp_path / "a" / "tensorboard").iterdir())
    with pytest.raises(SpecError, match="watch: evaluate gave"):
        run(dataset, tmp_path / "c", evaluate=evaluate, watch="bits")


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_checkpoint_is_named_and_passed_over(file, damage, dataset, tmp_path):
    _, whole = run(dataset, tmp_path)
    target = tmp_path / "checkpoints" / "step-00000012" / file
    data = target.read_bytes()
    if damage == "gone":
        target.unlink()
    else:
        middle = len(data) // 2
        flipped = data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :]
        target.write_bytes(data[:middle] if damage == "cut" else flipped)
    said = []
    result, again = run(dataset, tmp_path, report=said.append)
    assert said[0].startswith("warning:") and str(target) in said[0]
    assert "at step 9 of 12" in said[1]
    assert result.steps == 12 and same(whole, again)


def test_no_whole_checkpoint_is_an_error_not_a_fresh_start(dataset, tmp_path):
    run(dataset, tmp_path)
    for file in tmp_path.glob("checkpoints/*/state.json"):
        file.write_text("{")
    with pytest.raises(CheckpointError, match="none of 2 checkpoints is whole; start over without --resume"):
        run(dataset, tmp_path)
    assert run(dataset, tmp_path, resume=False)[0].steps == 12


def test_a_full_disk_is_an_error_and_older_checkpoints_stay(dataset, tmp_path, monkeypatch):
    _, whole = run(dataset, tmp_path / "whole")
    real, calls = checkpoint.save_file, []

    def full(tensors, path):
        calls.append(path)
        if len(calls) == 8:  # the third checkpoint's second file
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(LlmanacError, match=r"step-00000009: cannot write \(No space left on device\)"):
        run(dataset, tmp_path / "full")
    monkeypatch.undo()
    assert sorted(p.name for p in (tmp_path / "full" / "checkpoints").iterdir()) == ["step-00000003", "step-00000006"]
    _, again = run(dataset, tmp_path / "full")
    assert same(whole, again)


FILE_LIMIT = """
import resource, sys
sys.path.insert(0, {tests!r})
import _training as t
from pathlib import Path
from llmanac.core.errors import LlmanacError
from llmanac.data.tokens import TokenDataset
from llmanac.train import checkpoint
folder = Path(sys.argv[1])
dataset = TokenDataset(folder / "d")
t.run(dataset, folder / "run", steps=6, objective=t.Stops(99))
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))
store = checkpoint.Checkpoints(folder / "run" / "checkpoints")
try:
    store.save(9, {{"model": checkpoint.model_tensors(t.model_of())}}, {{}})
except LlmanacError as error:
    print("refused:", error)
print(store.steps(), store.latest().step, [p.name for p in store.folder.iterdir() if p.name.startswith(".")])
"""


def test_a_file_size_limit_is_an_error_too(dataset, root, tmp_path):
    """The system itself refuses the write (EFBIG), inside the safetensors library."""
    rows = [(document, None) for document in dataset]
    TokenDataset.write_examples(tmp_path / "d", rows, vocab_size=VOCAB)
    script = FILE_LIMIT.format(tests=str(root / "tests"))
    command = [executables() / "python", "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "refused:" in done.stdout and "step-00000009: cannot write" in done.stdout
    assert "[3, 6] 6 []" in done.stdout
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_another_run_s_folder_is_refused(dataset, tmp_path):
    run(dataset, tmp_path)
    with pytest.raises(SpecError, match=r"train\.optimizer\.lr: 0\.5 was asked for, but the run in .* uses 0\.001"):
        run(dataset, tmp_path, optimizer=spec.make_method("optimizer", {"name": "adamw", "lr": 0.5}))
    with pytest.raises(SpecError, match=r"train\.steps: 20 was asked for"):
        run(dataset, tmp_path, steps=20)
    with pytest.raises(SpecError, match="seed: 1 was asked for"):
        train(model_of(), stream(dataset), Autoregressive(), TrainSpec(steps=12, **FIXED), tmp_path, seed=1)


class WithModels(Autoregressive):
    """A frozen reference, a trained value model, a running number, and a generator of its own."""

    trainable = ("value",)

    def __init__(self, reference, value):
        super().__init__({"reference": reference, "value": value})
        self.mean = torch.zeros(())
        self.generators = {"own": np.random.default_rng(1)}

    def loss(self, model, batch):
        loss, units, _ = super().loss(model, batch)
        with torch.no_grad():
            base = self.models["reference"].nll(batch, "sum")
        value = (self.models["value"](torch.ones(1, 4)) - base / units + self.generators["own"].random()).square().sum()
        self.mean = 0.9 * self.mean + 0.1 * loss.detach()
        return loss + units * value, units, {"value": float(value.detach()) * units}

    def state_dict(self):
        return {"mean": self.mean}

    def load_state_dict(self, state):
        self.mean = state["mean"]


def test_further_models_and_the_objective_s_state_resume(dataset, tmp_path):
    def parts(seed=7):
        torch.manual_seed(0)
        return model_of(seed), torch.nn.Linear(4, 1)

    whole = WithModels(*parts())
    start = copy.deepcopy(whole.models["value"])
    run(dataset, tmp_path / "whole", objective=whole)
    assert not same(start, whole.models["value"])
    assert same(model_of(7), whole.models["reference"])

    class Interrupted(WithModels):
        def loss(self, model, batch):
            self.calls = getattr(self, "calls", 0) + 1
            if self.calls == 8:
                raise RuntimeError("as if killed")
            return super().loss(model, batch)

    with pytest.raises(RuntimeError, match="as if killed"):
        run(dataset, tmp_path / "cut", objective=Interrupted(*parts()))
    again = WithModels(*parts())
    run(dataset, tmp_path / "cut", objective=again)
    assert same(whole.models["value"], again.models["value"]) and torch.equal(whole.mean, again.mean)
    assert losses(tmp_path / "whole") == losses(tmp_path / "cut")
    with pytest.raises(CheckpointError, match=r"frozen models \['reference'\] are not those"):
        run(dataset, tmp_path / "cut", objective=WithModels(*parts(seed=8)))


class Rollouts:
    """A source with a buffer of its own: its state has tensors."""

    def __init__(self, rows):
        self.rows, self.buffer, self.taken = rows, torch.arange(6.0), 0

    def __next__(self):
        self.buffer = self.buffer.roll(1) + 1
        self.taken += 1
        return [np.roll(row, int(self.buffer[0])) for row in self.rows]

    def take(self, count):
        return [row for _ in range(count) for row in next(self)[:1]]

    def state(self):
        return {"taken": self.taken}, {"buffer": self.buffer}

    def restore(self, state, tensors):
        self.taken, self.buffer = state["taken"], tensors["buffer"]


ROWS = list(np.random.default_rng(3).integers(0, VOCAB, (4, 17)))


@pytest.mark.parametrize("mixed", [False, True])
def test_a_source_s_tensors_resume(mixed, tmp_path):
    def source():
        parts = {"a": ListStream([np.full(17, 5)], name="a"), "a.b": Rollouts(ROWS), "b": Rollouts(ROWS[::-1])}
        return MixedRows(parts, dict.fromkeys(parts, 1), rows=4) if mixed else Rollouts(ROWS)

    settings = TrainSpec(steps=9, checkpoint_every=3, **FIXED)
    options = {"seed": 0, "report": lambda text: None}
    whole, again = model_of(), model_of()
    train(whole, source(), Autoregressive(), settings, tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        train(model_of(), source(), Stops(5), settings, tmp_path / "cut", **options)
    (folder,) = (tmp_path / "cut" / "checkpoints").glob("step-00000005")
    kept = load_file(folder / "objective.safetensors")
    assert sorted(kept) == (["source.1.buffer", "source.2.buffer"] if mixed else ["source.buffer"])
    train(again, source(), Autoregressive(), settings, tmp_path / "cut", **options)
    assert same(whole, again) and losses(tmp_path / "whole") == losses(tmp_path / "cut")


def test_a_source_that_cannot_resume_is_refused(tmp_path):
    settings = TrainSpec(steps=1, **FIXED)
    with pytest.raises(SpecError, match=r"source: list_iterator has no state\(\); a source has"):
        train(model_of(), iter([ROWS]), Autoregressive(), settings, tmp_path, seed=0)


def half_frozen(seed=0):
    model = model_of(seed)
    model.model.layers.requires_grad_(False)
    return model


def test_a_frozen_base_is_not_in_checkpoints_and_must_be_the_same(dataset, tmp_path):
    whole = run(dataset, tmp_path / "whole", model=half_frozen())[1]
    with pytest.raises(KeyboardInterrupt):
        run(dataset, tmp_path / "cut", model=half_frozen(), objective=Stops(5))
    (file,) = tmp_path.glob("cut/checkpoints/step-00000005/model.safetensors")
    assert sorted(load_file(file)) == ["model.embed_tokens.weight", "model.norm.weight"]
    other = half_frozen()
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight[0, 0] += 1
    for base in (other, model_of()):
        with pytest.raises(CheckpointError, match=r"the frozen weights of \['model'\] are not those that the run"):
            run(dataset, tmp_path / "cut", model=base)
    again = run(dataset, tmp_path / "cut", model=half_frozen())[1]
    assert same(whole, again) and losses(tmp_path / "whole") == losses(tmp_path / "cut")
    assert same(again.model.layers, model_of().model.layers) and not same(again, half_frozen())


def as_format_1(folder, model):
    """Rewrite a run's checkpoints as earlier versions wrote them: every parameter, the source's state as "cursor"."""
    for place in sorted(folder.glob("checkpoints/step-*")):
        state = json.loads((place / "state.json").read_text())
        parts = {part: load_file(place / f"{part}.safetensors") for part in checkpoint.PARTS}
        parts["model"] = {name: p.detach().clone() for name, p in model.named_parameters()} | parts["model"]
        for file, tensors in parts.items():
            save_file(tensors, place / f"{file}.safetensors")
            state["files"][f"{file}.safetensors"] = checkpoint._sha256(place / f"{file}.safetensors")
        state |= {"cursor": state.pop("source"), "format_version": 1}
        del state["base"]
        (place / "state.json").write_text(json.dumps(state | {"seal": checkpoint._seal(state)}))


def test_packed_weights_are_hashed_as_their_numbers_a_piece_at_a_time(monkeypatch):
    packed = make_method("quantizer", "nf4").build().pack(torch.randn(4096, 512))
    dense, most = checkpoint.hash_tensors({"w": packed.dense()}), []
    rows = type(packed.form).rows
    monkeypatch.setattr(type(packed.form), "rows", lambda *asked: most.append(len(found := rows(*asked))) or found)
    assert checkpoint.hash_tensors({"w": packed}) == dense != checkpoint.hash_tensors({"w": packed[1:]})
    assert max(most) <= 4096 // 2


@pytest.mark.parametrize("made", [model_of, half_frozen])
def test_checkpoints_of_earlier_versions_resume(made, dataset, tmp_path):
    whole = run(dataset, tmp_path / "whole", model=made())[1]
    with pytest.raises(KeyboardInterrupt):
        run(dataset, tmp_path / "cut", model=made(), objective=Stops(5))
    as_format_1(tmp_path / "cut", made())
    again = run(dataset, tmp_path / "cut", model=made())[1]
    assert same(whole, again) and losses(tmp_path / "whole") == losses(tmp_path / "cut")
    assert run(dataset, tmp_path / "cut", model=made())[0].steps == 12  # and what it wrote itself
    (place,) = tmp_path.glob("cut/checkpoints/step-00000012")
    state = json.loads((place / "state.json").read_text())
    for version, says in ((4, "has format 4, this version reads up to 3"), (3, "lists no parts")):
        state["format_version"] = version
        (place / "state.json").write_text(json.dumps(state | {"seal": checkpoint._seal(state)}))
        with pytest.raises(CheckpointError, match=says):
            checkpoint.Checkpoints(place.parent).load(12)
