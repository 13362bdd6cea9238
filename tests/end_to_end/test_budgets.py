"""`llmanac run --budget` beside processes that take the cores: in time, decayed, and resumed to the same bits."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from _children import busy
from _runs import command, recipe

from llmanac.core import files, spec
from llmanac.core.device import cores
from llmanac.recipes import timetable
from llmanac.train.metrics import read_metrics
from llmanac.train.pace import revised
from llmanac.train.plan import TrainingPlan

BUDGET = 30
OVER = "more than its budget"  # what a run prints that was longer


def start(text: Path, place: Path, **changes: Any) -> subprocess.Popen[str]:
    """A run whose steps are open; its model is small, so that none of its steps takes long."""
    asked = recipe(text, budget=f"{BUDGET}s", **changes)
    del asked["train"]["steps"], asked["train"]["checkpoint_every"]  # type: ignore[attr-defined]
    (place / "small.toml").write_text(spec.to_toml(asked), "utf-8")
    words = [sys.executable, "-m", "llmanac.cli", "run", "small.toml", "--folder", "run"]
    return subprocess.Popen(words, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def seconds_to_load() -> float:
    """What a process takes, as the machine is now, to load the libraries of a run and to end."""
    begin = time.monotonic()
    subprocess.run([sys.executable, "-c", "import llmanac.cli, llmanac.recipes.run"], check=True, timeout=300)
    return time.monotonic() - begin


def wait_for(process: subprocess.Popen[str], what: Any) -> None:
    until = time.monotonic() + 300
    while not what() and time.monotonic() < until:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def plan_of(place: Path) -> TrainingPlan | None:
    return TrainingPlan.read(place / "run" / "pretrain")


def rates(place: Path) -> list[float]:
    return [line["lr_scale"] for line in read_metrics(place / "run" / "pretrain") if "lr_scale" in line]


def evaluations(run: Path) -> list[dict[str, float]]:
    """What the training's evaluations gave, and after which steps."""
    lines = read_metrics(run / "pretrain")
    return [line for line in lines if any(name.startswith("evaluate_") for name in line)]


def decayed(place: Path) -> None:
    """Every step had the rate that the plan with its revisions gives it, the last one that of the schedule's end."""
    made = plan_of(place)
    assert made is not None and made.ended
    schedule = made.spec.schedule.build(steps=made.first_steps)
    share = revised(schedule, made.first_steps, made.revisions)
    assert rates(place) == [share(step) for step in range(made.spec.steps or 0)]
    assert rates(place)[-1] == schedule(made.first_steps - 1) < 0.1


@pytest.mark.slow
def test_a_training_beside_busy_processes_ends_within_its_share(text: Path, tmp_path: Path) -> None:
    """Its training does. What cannot be cut (loading, text, tokenizer, the least that is measured) may take longer
    than all of the budget where other programs have the cores; then the run says that it was over."""
    begin = time.time()
    process = start(text, tmp_path)
    wait_for(process, lambda: len(rates(tmp_path)) > 20)
    with busy(2 * cores()):  # the plan was made on a machine that had nothing else to do
        printed, said = process.communicate(timeout=300)
        loading = seconds_to_load()
    assert process.returncode == 0, said
    made = plan_of(tmp_path)
    assert made is not None and made.revisions and made.spec.steps < made.first_steps
    seconds = files.read_json(tmp_path / "run" / "run.json")["seconds"]
    before = sum(taken for stage, taken in seconds.items() if stage not in ("pretrain", "measure"))
    share = max(timetable.SHORTEST_SHARE * BUDGET, timetable.TRAINING_SHARE * (BUDGET - before))
    assert made.measured["budget_seconds"] <= share
    assert seconds["pretrain"] < 1.25 * made.measured["budget_seconds"]
    # a run looks at the clock right after it wrote run.json; the start of its process it cannot see: a loading at most
    took = (tmp_path / "run" / "run.json").stat().st_mtime - begin
    if took < 1.1 * BUDGET:
        assert OVER not in printed
    if took > 1.1 * BUDGET + loading:
        assert OVER in printed
    assert said.count("a step takes") == len(made.revisions)  # each was said
    decayed(tmp_path)


@pytest.mark.slow
def test_killed_after_a_revision_and_resumed_it_gives_the_same_weights(text: Path, tmp_path: Path) -> None:
    process = start(text, tmp_path)
    wait_for(process, lambda: len(rates(tmp_path)) > 20)
    with busy(2 * cores()):
        wait_for(process, lambda: (made := plan_of(tmp_path)) is not None and made.revisions)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    written = plan_of(tmp_path)
    resumed = command("run", "small.toml", "--folder", "run", "--resume", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    made = plan_of(tmp_path)
    assert written is not None and made is not None
    assert made.revisions[: len(written.revisions)] == written.revisions
    decayed(tmp_path)
    whole = tmp_path / "whole"  # never stopped, with the same revisions
    shutil.copytree(tmp_path / "run", whole)
    for name in ("base", "model", "pretrain/checkpoints", "pretrain/tensorboard"):
        shutil.rmtree(whole / name, ignore_errors=True)
    for name in ("results.json", "pretrain/metrics.jsonl"):
        (whole / name).unlink()
    state = files.read_json(whole / "run.json")
    del state["planned"]["pretrain"]
    files.write_json(whole / "run.json", {**state, "finished": False})
    again = command("run", "small.toml", "--folder", "whole", "--resume", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    first, second = ((tmp_path / name / "base" / "model.safetensors").read_bytes() for name in ("run", "whole"))
    assert first == second
    logs = [json.dumps([line["loss"] for line in read_metrics(tmp_path / name / "pretrain") if "loss" in line])
            for name in ("run", "whole")]  # fmt: skip
    assert logs[0] == logs[1]
    first, second = (evaluations(tmp_path / name) for name in ("run", "whole"))
    assert first == second and len(first) > 1
    first, second = (sorted(p.name for p in (tmp_path / name / "pretrain" / "checkpoints").iterdir())
                     for name in ("run", "whole"))  # fmt: skip
    assert first == second and first


def test_waiting_threads_sleep() -> None:
    """OpenMP itself says so; it reads its settings when torch is loaded."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "KMP_"))}
    shown = subprocess.run(
        [sys.executable, "-c", "import llmanac, torch"],
        env={**environment, "OMP_DISPLAY_ENV": "TRUE", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True, text=True, check=True,
    ).stderr  # fmt: skip
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in shown or "OMP_WAIT_POLICY='PASSIVE'" in shown, shown
