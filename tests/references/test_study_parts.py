"""The parts of a comparison that need no training: arms, axis, budget, cache, source hashes, the study."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from llmanac.core.errors import LlmanacError, SpecError
from llmanac.core.spec import make_method
from llmanac.lab import sources
from llmanac.lab.arms import parse_arms
from llmanac.lab.axis import Axis, find_axis
from llmanac.lab.budget import MIN_STEPS, Speed, StudyPlan, format_duration, make_plan, round_up
from llmanac.lab.cache import StudyCache, canonical, digest
from llmanac.lab.runner import parse_tune
from llmanac.lab.stats import Metric
from llmanac.lab.study import Measurement, Study
from llmanac.train import TrainSpec
from llmanac.train.plan import settled_numerics

# arms


def test_arms_as_the_user_writes_them() -> None:
    arms = parse_arms('rope, learned{rows=64} ,mlp{activation="relu",width=512},x{a=[1,2],b="p,q}"}')
    assert [a.label for a in arms] == [
        "rope",
        "learned{rows=64}",
        "mlp{activation=relu,width=512}",
        "x{a=[1, 2],b=p,q}}",
    ]
    assert arms[0].value == "rope"
    assert arms[2].value == {"name": "mlp", "activation": "relu", "width": 512}
    assert dict(arms[3].fields) == {"a": [1, 2], "b": "p,q}"}
    assert parse_arms("mlp{activation=relu},rope")[0].value == {"name": "mlp", "activation": "relu"}
    named = parse_arms({"wide": {"name": "mlp", "width": 9}, "plain": "mlp{width=3}", "patched": {"train.clip": 0.5}})
    assert [a.label for a in named] == ["wide", "plain", "patched"]
    assert named[1].value == {"name": "mlp", "width": 3}
    assert named[2].patches == (("train.clip", 0.5),)


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ("rope", "at least two arms, got 1"),
        ("", "at least two arms, got 0"),
        ("rope,rope", "'rope' is named twice"),
        ("rope,mlp{width=3", "} is missing"),
        ("rope,{width=3}", "starts with a method's name"),
        ("rope,mlp{width}", "'width' is not field=value"),
        ("rope,mlp{width=3}x", "expected } at the end"),
    ],
)
def test_arms_that_cannot_be_read(arms: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse_arms(arms)


# axis


def test_axes_know_what_lies_on_them() -> None:
    ffn = find_axis("ffn")
    assert ffn.covers("model.blocks.0.ffn.width") and ffn.covers("model.blocks.12.ffn.name")
    assert not ffn.covers("model.blocks.0.mixer.heads") and not ffn.covers("model.ffn")
    assert not find_axis("position").covers("model.positions") and find_axis("position").covers("model.position.theta")
    assert find_axis("train.optimizer.lr").covers("train.optimizer.lr")
    assert find_axis("recipe").covers("anything.at.all")
    assert not find_axis("train.length").same_rows and find_axis("train.batch_tokens").same_rows


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("position,ffn", "varies one axis, and this names 2 \\(position, ffn\\)"),
        ("position+norm", "varies one axis"),
        ("positon", "did you mean 'position'"),
    ],
)
def test_axes_that_do_not_exist(kind: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        find_axis(kind)


# budget


def test_a_plan_spends_the_budget_and_no_more() -> None:
    speed = {"a": Speed(0.01, 1.0), "b": Speed(0.03, 2.0)}
    plan = make_plan(180, 20, 3, speed, {"a": 1.0, "b": 1.0})
    assert plan.steps["a"] == plan.steps["b"]
    assert 0.9 * 180 < plan.expected_seconds <= 0.95 * 180 + 1e-9
    assert plan.expected_seconds == pytest.approx(20 + 3 * sum(map(plan.seconds_of, speed)))
    assert StudyPlan.from_json(json.loads(json.dumps(plan.as_json()))) == plan
    held = make_plan(180, 20, 3, speed, {"a": 1.0, "b": 1 / 3}, tuning_runs=3)
    assert held.steps["a"] * 0.01 == pytest.approx(held.steps["b"] * 0.03, rel=0.01)
    assert held.expected_seconds <= 0.95 * 180 + 0.1


def test_a_budget_that_is_too_small_names_one_that_does() -> None:
    speed = {"a": Speed(0.1, 5.0), "b": Speed(0.1, 5.0)}
    with pytest.raises(SpecError, match=r"at least 200; use --budget \S+, fewer arms") as error:
        make_plan(60, 10, 5, speed, {"a": 1.0, "b": 0.5})
    wanted = str(error.value).partition("use --budget ")[2].partition(",")[0]
    seconds = float(wanted[:-1]) * {"s": 1, "m": 60}[wanted[-1]]
    enough = make_plan(seconds, 10, 5, speed, {"a": 1.0, "b": 0.5})
    assert MIN_STEPS <= min(enough.steps.values()) < 1.4 * MIN_STEPS


def test_stated_steps_are_kept_or_refused() -> None:
    speed = {"a": Speed(0.01, 1.0), "b": Speed(0.01, 1.0)}
    assert make_plan(600, 0, 5, speed, {"a": 1.0, "b": 1.0}, stated=300).steps == {"a": 300, "b": 300}
    with pytest.raises(SpecError, match=r"too little for train\.steps = 300000"):
        make_plan(600, 0, 5, speed, {"a": 1.0, "b": 1.0}, stated=300_000)
    with pytest.raises(
        SpecError, match=r"^train\.steps: 40 gives b 20 steps a run, .* set train\.steps to 400 or more"
    ):
        make_plan(600, 0, 5, speed, {"a": 1.0, "b": 0.5}, stated=40)


def test_steps_for_a_verdict_are_asked_for_only_where_there_can_be_one() -> None:
    speed = {"a": Speed(0.01, 1.0)}
    assert make_plan(600, 0, 2, speed, {"a": 1.0}, stated=40).steps == {"a": 40}
    assert make_plan(10, 0, 1, speed, {"a": 1.0}, min_steps=5000).steps == {"a": 850}
    with pytest.raises(SpecError, match=r"leaves a 0 steps a run .* and a run needs at least 1; use --budget 10s"):
        make_plan(1, 0, 1, speed, {"a": 1.0})


def test_the_attention_form_of_a_study_is_not_timed() -> None:
    found = settled_numerics(TrainSpec(dtype="float32"), torch.device("cpu"))
    assert (found.attention, found.dtype) == ("blocks", "float32")
    assert settled_numerics(TrainSpec(attention="plain", dtype="bfloat16"), torch.device("cpu")).attention == "plain"


def test_durations() -> None:
    assert [format_duration(s) for s in (4.25, 45, 180, 200, 3900)] == ["4.2s", "45s", "3m", "3m 20s", "1h 05m"]
    assert [round_up(s) for s in (41, 115, 121, 301)] == ["50s", "2m", "130s", "6m"]


def test_tune_grids() -> None:
    assert parse_tune(None) == () and parse_tune("lr=3") == (0.5, 1.0, 2.0) and len(parse_tune("lr=5")) == 5
    for text in ("lr", "lr=1", "lr=99", "wd=3"):
        with pytest.raises(SpecError, match="expected lr=N"):
            parse_tune(text)


# cache


def test_equal_parts_have_one_key_and_any_difference_another() -> None:
    parts = {"model": {"dim": 64, "name": "transformer"}, "seed": 0, "sources": {"a.py": "11"}}
    again = {"sources": {"a.py": "11"}, "seed": 0, "model": {"name": "transformer", "dim": 64}}
    assert digest(parts) == digest(again)
    for change in ({"seed": 1}, {"model": {"dim": 65, "name": "transformer"}}, {"sources": {"a.py": "12"}}):
        assert digest(parts | change) != digest(parts)
    with pytest.raises(ValueError, match="JSON"):
        canonical({"x": float("nan")})


def test_a_result_is_kept_and_a_failure_is_not(tmp_path: Path) -> None:
    cache, calls = StudyCache(tmp_path), []

    def compute(work: Path) -> dict[str, Any]:
        calls.append((work / "half").exists())
        (work / "half").write_text("x")
        if len(calls) == 1:
            raise RuntimeError("killed")
        return {"value": 1.5}

    with pytest.raises(RuntimeError):
        cache.run({"a": 1}, compute)
    assert cache.get(digest({"a": 1})) is None
    assert cache.run({"a": 1}, compute) == ({"value": 1.5}, False)
    assert calls == [False, True]  # the second attempt found what the first one left
    assert cache.run({"a": 1}, compute) == ({"value": 1.5}, True)
    assert len(calls) == 2


@pytest.mark.parametrize(
    "change", [lambda t: t[:9], lambda t: t.replace("1.5", "1.6"), lambda t: t.replace("1.5", "NaN"),
               lambda t: t.replace('"value"', '"more": 1, "value"'), lambda t: "[1.5]", lambda t: ""],
)  # fmt: skip
def test_a_damaged_result_is_named_and_computed_again(
    change: Callable[[str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = StudyCache(tmp_path)
    cache.run({"a": 1}, lambda work: {"value": 1.5})
    file = cache.folder(digest({"a": 1})) / "result.json"
    assert capsys.readouterr().err == ""
    file.write_text(change(file.read_text()))
    assert cache.run({"a": 1}, lambda work: {"value": 2.5}) == ({"value": 2.5}, False)
    assert f"{file}: is cut or was changed" in capsys.readouterr().err
    assert cache.run({"a": 1}, lambda work: {}) == ({"value": 2.5}, True)


def _compute_slowly(root: str, log: str) -> None:
    def compute(work: Path) -> dict[str, Any]:
        with open(log, "a") as handle:
            handle.write("x")
        time.sleep(0.3)
        return {"value": 1}

    assert StudyCache(root).run({"a": 1}, compute)[0] == {"value": 1}


def test_two_processes_that_want_one_run_compute_it_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    others = [
        context.Process(target=_compute_slowly, args=(str(tmp_path / "cache"), str(tmp_path / "log"))) for _ in range(3)
    ]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert [o.exitcode for o in others] == [0, 0, 0]
    assert (tmp_path / "log").read_text() == "x"


@pytest.mark.skipif(os.name == "nt", reason="kill -9 is a POSIX signal")
def test_a_killed_process_leaves_no_lock_and_its_work(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom llmanac.lab.cache import StudyCache\n"
        "def compute(work):\n    (work / 'step').write_text('7')\n    print('in', flush=True)\n    time.sleep(60)\n"
        f"StudyCache({str(tmp_path)!r}).run({{'a': 1}}, compute)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "in\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    result, cached = StudyCache(tmp_path).run({"a": 1}, lambda work: {"found": (work / "step").read_text()})
    assert (result, cached) == ({"found": "7"}, False)


# sources


def test_a_run_hashes_the_files_it_uses_and_no_others() -> None:
    rope = sources.fingerprint([make_method("position", "rope")])
    assert "models/positions/rope.py" in rope and "models/positions/__init__.py" in rope
    assert "models/positions/learned.py" not in rope and "models/mixers/softmax.py" not in rope
    block = sources.fingerprint([make_method("block", "pre-norm")])
    assert {"models/blocks/pre_norm.py", "models/mixers/softmax.py", "models/ffn/gated.py"} <= block.keys()
    trained = sources.fingerprint([], ["llmanac.train.loop"])
    assert {"train/loop.py", "train/step.py", "train/checkpoint.py"} <= trained.keys()
    assert not any(name.startswith("core/errors") for name in trained)


def test_code_counts_and_comments_do_not(tmp_path: Path) -> None:
    path = tmp_path / "method.py"
    path.write_text('"""One."""\n\nX = 1  # kept\n\n\ndef f(x):\n    """Two."""\n    # a note\n    return x + 1\n')
    before = sources.code_hash(path)
    path.write_text(
        '"""Another\ntext."""\n# note\nX = 1  # kept\n\ndef f(x):\n    """Longer\n    text."""\n    return x + 1\n'
    )
    assert sources.code_hash(path) == before
    path.write_text('"""One."""\n\nX = 1  # kept\n\n\ndef f(x):\n    """Two."""\n    # a note\n    return x + 2\n')
    assert sources.code_hash(path) != before


def test_files_that_a_method_names_are_part_of_its_key(tmp_path: Path) -> None:
    """A rulebook that is written further, an encoder or a reward that is trained anew in place."""
    for kind, choices, file in (
        ("classifier", {"name": "rules", "rules": str(tmp_path / "own.toml")}, "own.toml"),
        ("reward", {"name": "function", "file": f"{tmp_path / 'own.py'}:f"}, "own.py"),
        (
            "reward",
            {"name": "mix", "parts": [{"name": "model", "path": str(tmp_path / "run")}]},
            "run/model/a.safetensors",
        ),
        ("retriever", {"name": "dense", "model": str(tmp_path / "encoder")}, "encoder/tokenizer.json"),
    ):
        spec, place = make_method(kind, choices), tmp_path / file
        keys = [sources.run_key("a trial", [spec])]
        place.parent.mkdir(parents=True, exist_ok=True)
        for number, text in enumerate(("one", "two", "one")):
            place.write_text(text)
            os.utime(place, ns=(number, number))
            keys.append(sources.run_key("a trial", [spec]))
        assert keys[1] == keys[3] and len({json.dumps(key, sort_keys=True) for key in keys}) == 3
    assert "named" not in sources.run_key("a trial", [make_method("classifier", "rules")])


# study


@dataclass
class FakeTrial:
    """Values from a table; what it was asked for is recorded."""

    table: dict[str, list[float]]
    asked: list[tuple[str, int]]
    replicate: str = "seed"
    rows: str = "same"
    metrics: tuple[Metric, ...] = (Metric("bits_per_byte", "bit/B", "lower"),)
    costs: tuple[Metric, ...] = (Metric("seconds", "s", "lower"),)

    def parts(self, arm: Any, seed: int) -> dict[str, Any]:
        return {"arm": arm.label, "seed": seed, "sources": {"models/x.py": "1"}}

    def measure(self, arm: Any, seed: int, work: Path) -> Measurement:
        from llmanac.core.errors import TrainingError

        self.asked.append((arm.label, seed))
        value = self.table[arm.label][seed]
        if value != value:
            raise TrainingError("step 3: the loss is nan")
        rows = [f"{self.rows}-{seed}" if self.rows == "same" else f"{arm.label}"]
        pairing = {"parameters": {}, "rows": rows}
        return Measurement({"bits_per_byte": [value]}, {"seconds": 1.0}, [], pairing)


def study(trial: FakeTrial, seeds: int) -> Study:
    from llmanac.lab.axis import Arm

    arms = tuple(Arm(label, None, {}, {}) for label in trial.table)
    return Study("s", Axis("position", "position", "model.position"), arms, "a", tuple(range(seeds)), trial)  # type: ignore[arg-type]


def test_seeds_go_outside_and_arms_inside_and_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    trial = FakeTrial({"a": [2.0, 2.1, 1.9, 2.0, 2.05], "b": [1.8, 1.9, 1.71, 1.8, 1.86]}, [])
    first = study(trial, 3).run(StudyCache(tmp_path))
    assert trial.asked == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    (few,) = first["comparisons"]["bits_per_byte"]
    assert (few["verdict"], few["further"]) == ("too few", 2)
    assert first["sources"] == {"models/x.py": "1"} and first["pairing"]["checked"]
    longer = study(trial, 5).run(StudyCache(tmp_path))
    assert trial.asked[6:] == [("a", 3), ("b", 3), ("a", 4), ("b", 4)]
    assert [r["cached"] for r in longer["runs"]] == [True] * 6 + [False] * 4
    assert longer["comparisons"]["bits_per_byte"][0]["verdict"] == "better"
    assert longer["values"]["bits_per_byte"]["a"] == trial.table["a"]


def test_a_diverged_arm_has_no_verdict_and_the_others_do(tmp_path: Path) -> None:
    nan = float("nan")
    trial = FakeTrial({"a": [2.0, 2.1, 1.9], "b": [1.8, nan, 1.7], "c": [1.8, 1.9, 1.71]}, [])
    found = study(trial, 3).run(StudyCache(tmp_path))
    assert list(found["failed"]) == ["b"] and "the loss is nan" in found["failed"]["b"][0]
    assert [c["arm"] for c in found["comparisons"]["bits_per_byte"]] == ["c"]
    json.dumps(found, allow_nan=False)


def test_a_study_whose_arms_read_other_rows_stops_after_the_first_seed(tmp_path: Path) -> None:
    trial = FakeTrial({"a": [2.0, 2.1, 1.9], "b": [1.8, 1.9, 1.7]}, [], rows="own")
    with pytest.raises(LlmanacError, match="differ in training row 0 under seed 0"):
        study(trial, 3).run(StudyCache(tmp_path))
    assert trial.asked == [("a", 0), ("b", 0)]
