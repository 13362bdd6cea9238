"""The same command gives the same weights, however fast the machine seems to be when it runs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from _runs import recipe

import llmanac
from llmanac.core import device, files, threads
from llmanac.core.spec import make_method
from llmanac.recipes import plan
from llmanac.recipes.spec import load_recipe
from llmanac.recipes.tune import TuneSpec, tune
from llmanac.recipes.tune_rows import RowsSpec
from llmanac.train import TrainSpec
from llmanac.train import plan as training_plan


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Every measurement says the opposite of the one before; there are two threads."""
    for module in (device, training_plan):  # not the whole cache folder: compiled code stays kept
        monkeypatch.setattr(module, "calibration", lambda: tmp_path / "calibration.json")
    turn = {"now": 0}

    def rate(dtype, *given, **named):
        fast = (dtype is torch.bfloat16) == (turn["now"] % 2 == 0)
        return 4e11 if fast else 1e10

    monkeypatch.setattr(device, "measure_gemm", rate)
    monkeypatch.setattr(plan, "training_rate", lambda *given: 1e12 if turn["now"] % 2 else 1e9)
    before = torch.get_num_threads()
    torch.set_num_threads(2)

    def again():
        """As in a new process, at another moment."""
        turn["now"] += 1
        device._kept_choice.cache_clear()
        device._kept_rate.cache_clear()
        return rate(torch.bfloat16), rate(torch.float32)

    device._kept_choice.cache_clear()
    device._kept_rate.cache_clear()
    yield again
    torch.set_num_threads(before)
    device._kept_choice.cache_clear()
    device._kept_rate.cache_clear()


def weights(place: Path) -> bytes:
    return next(iter(place.glob("*model.safetensors"))).read_bytes()


def open_run(text: Path, **changes):
    """A recipe that leaves size, precision, form and threads to the machine."""
    asked = recipe(text, **changes)
    asked["model"] = {"name": "transformer"}
    asked["train"] = {"length": 64, "batch_tokens": 256, "steps": 3}
    return asked


def test_a_run_gives_the_same_bytes_twice(text, tmp_path, measured):
    one = llmanac.run(open_run(text), folder=tmp_path / "one")
    assert measured() == (1e10, 4e11)
    two = llmanac.run(open_run(text), folder=tmp_path / "two")
    assert weights(one.folder / "model") == weights(two.folder / "model")
    assert two.recipe == one.recipe
    plans = [files.read_json(done.folder / "pretrain" / "plan.json") for done in (one, two)]
    assert plans[0]["train"] == plans[1]["train"] and plans[0]["gemm"] == plans[1]["gemm"]
    named = Path(plans[1]["measured"]["calibration"])
    assert named == device.calibration() and named.is_file()
    named.unlink()  # measured anew: the machine is another one by now
    measured()
    measured()
    three = llmanac.run(open_run(text), folder=tmp_path / "three")
    assert three.recipe.train.dtype != one.recipe.train.dtype


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("adapter", ["lora", None])
def test_a_tuning_gives_the_same_bytes_twice(text, tmp_path, measured, adapter, optimizer):
    base = llmanac.run(recipe(text), {"train.steps": 2}, folder=tmp_path / "base").folder
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "seven small", "completion": " dogs"}\n' * 30)
    asked = TuneSpec(
        model=str(base), rows=RowsSpec(file=str(rows)), adapter=adapter and make_method("adapter", adapter),
        train=TrainSpec(steps=3, optimizer=make_method("optimizer", optimizer)),
    )  # fmt: skip
    found = []
    for name in ("one", "two"):
        tune(asked, tmp_path / name, report=lambda line: None)
        found.append(weights(tmp_path / name / "model"))
        measured()
    assert found[0] == found[1]


@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b"\xff"])
def test_a_damaged_calibration_is_made_again(tmp_path, monkeypatch, damage):
    monkeypatch.setenv("LLMANAC_CACHE", str(tmp_path))
    device.calibration().write_bytes(damage)
    assert device.calibrated("speed", lambda: 7.0, float) == 7.0
    assert device.calibrated("speed", lambda: 8.0, float) == 7.0
    assert device.calibrated("other", lambda: 8.0, float) == 8.0


@pytest.mark.parametrize("kept", ['"fast"', "null", "[1]", "0", "-5", "NaN", "Infinity", "true"])
def test_a_value_of_another_kind_is_measured_again(tmp_path, monkeypatch, kept):
    monkeypatch.setenv("LLMANAC_CACHE", str(tmp_path))
    assert device.calibrated("speed", lambda: 7.0, float) == 7.0
    place = device.calibration()
    place.write_text(place.read_text().replace("7.0", kept))
    assert device.calibrated("other", lambda: 3.0, float) == 3.0
    assert device.calibrated("speed", lambda: 8.0, float) == 8.0


@pytest.mark.parametrize(("quota", "most"), [("150000 100000", 2), ("50000 100000", 1), ("max 100000", 4), ("", 4)])
def test_processors_are_counted_by_a_containers_quota_too(tmp_path, monkeypatch, quota, most):
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(threads, "QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda which: range(4), raising=False)
    assert threads.cores() == most


def test_where_nothing_can_be_kept_it_is_measured(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LLMANAC_CACHE", str(tmp_path / "file"))
    assert (
        device.calibrated("speed", lambda: 7.0, float) == 7.0 and device.calibrated("speed", lambda: 8.0, float) == 8.0
    )


@pytest.mark.parametrize(("own", "found"), [(0.95, 1e9), (0.5, 4e9)])
def test_a_product_rate_does_not_fall_while_others_compute(tmp_path, monkeypatch, own, found):
    monkeypatch.setenv("LLMANAC_CACHE", str(tmp_path))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    now = {"clock": 0.0}

    def rate(dtype, where, clock=None):
        now["clock"] += 1.0
        return 2e9 if clock else 1e9

    monkeypatch.setattr(device, "measure_gemm", rate)
    monkeypatch.setattr(device.time, "perf_counter", lambda: now["clock"])
    monkeypatch.setattr(device.time, "process_time", lambda: own * 2 * now["clock"])
    for _ in range(2):
        device._kept_rate.cache_clear()
        assert device.gemm_rate(torch.float32, torch.device("cpu")) == found
    device._kept_rate.cache_clear()


def test_of_two_that_measure_at_once_the_first_decides(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMANAC_CACHE", str(tmp_path))
    assert device.calibrated("speed", lambda: device.calibrated("speed", lambda: 1.0, float) + 1, float) == 1.0


def test_of_many_that_measure_at_once_nothing_is_lost(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMANAC_CACHE", str(tmp_path))
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda i: device.calibrated(f"speed {i}", lambda: 1.0 + i, float), range(60)))
    kept = files.read_table(device.calibration())
    assert sorted(kept.values()) == [1.0 + i for i in range(60)]


def test_the_speed_of_training_is_that_of_its_own_steps(text):
    """Of one thread, by its own time: a smaller batch and the optimizer count, and nothing is drawn."""
    spec = load_recipe(recipe(text, train={"length": 64, "batch_tokens": 256}), {}).spec
    state = torch.get_rng_state()
    rate = plan.training_rate(spec, plan.SHAPES[0], 256, torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), state)
    few = load_recipe(recipe(text, train={"length": 64, "batch_tokens": 64}), {}).spec
    before = torch.get_num_threads()
    torch.set_num_threads(16)
    try:
        alone = plan.training_rate(few, plan.SHAPES[0], 256, torch.device("cpu"))  # one row: no thread more has work
        assert torch.get_num_threads() == 16
    finally:
        torch.set_num_threads(before)
    assert rate > 0 and 0 < alone < 4 * rate
