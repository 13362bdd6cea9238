"""Files of a build that are lost or damaged, after its end or on the way: made again, alone, or named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from _builds import digests, make_inputs, stage

from llmanac.core.errors import DataError
from llmanac.data.pipeline import build as building
from llmanac.data.pipeline.build import build
from llmanac.data.pipeline.finish import fate
from llmanac.data.pipeline.recipe import BuildSpec, make_recipe


class Counted:
    """An engine that does tasks itself, says which, and stops where it is told to."""

    did: list[str]
    stop = 10**9

    def __init__(self, root: Path) -> None:
        from llmanac.data.pipeline.worker import make_worker

        self.worker = make_worker(root, lambda key, index, count, name: None)

    def run(self, tasks: Sequence[dict[str, Any]], done: Callable[[dict[str, Any]], None], slowed: Any) -> None:
        for task in tasks:
            if len(Counted.did) >= Counted.stop:
                raise KeyboardInterrupt
            self.worker.do(task)
            Counted.did.append(task["folder"])
            done(task)

    def close(self) -> None:
        pass


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BuildSpec:
    monkeypatch.setattr(building, "_engine", lambda name, root, workers, limit: Counted(root))
    monkeypatch.setattr(Counted, "did", [], raising=False)
    stages = ["clean", stage("short"), stage("first_seen"), stage("short", words=10)]
    inputs = make_inputs(tmp_path / "in", 250)
    return make_recipe(
        {"inputs": [str(inputs)], "stages": stages, "shard_bytes": 6000, "output": {"shard_bytes": 9000}}
    )


def stopped(recipe: BuildSpec, folder: Path, after: int) -> list[str]:
    """Begin a build and stop it after some tasks, which are returned."""
    Counted.did, Counted.stop = [], after
    with pytest.raises(KeyboardInterrupt):
        build(recipe, folder)
    Counted.stop = 10**9
    found, Counted.did = Counted.did, []
    return found


LOST = ["data/00001.jsonl", "data", "dropped/00-read.jsonl", "dropped", "manifest.json", "stages.svg", "recipe.toml"]


@pytest.mark.parametrize("name", LOST)
def test_what_a_finished_build_has_lost_is_made_again(recipe: BuildSpec, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    first = build(recipe, out)
    before = digests(out)
    lost = out / name
    shutil.rmtree(lost) if lost.is_dir() else lost.unlink()
    assert build(recipe, out) == first
    assert digests(out) == before
    Counted.did = []
    assert build(recipe, out) == first
    assert Counted.did == []


def test_a_build_that_makes_lost_files_again_may_be_stopped(recipe: BuildSpec, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build(recipe, out)
    before = digests(out)
    (out / "data" / "00000.jsonl").unlink()
    stopped(recipe, out, 5)
    assert not (out / "manifest.json").exists(), "half mended is not finished"
    build(recipe, out)
    assert digests(out) == before


@pytest.mark.parametrize("name", ["data/00000.jsonl", "dropped/00-read.jsonl"])
@pytest.mark.parametrize("how", ["cut", "flipped"])
def test_what_is_damaged_is_named_and_not_written_over(recipe: BuildSpec, tmp_path: Path, name: str, how: str) -> None:
    out = tmp_path / "out"
    build(recipe, out)
    before, path = digests(out), out / name
    data = path.read_bytes()
    path.write_bytes(data[:-9] if how == "cut" else data[:40] + b"#" + data[41:])
    with pytest.raises(DataError, match=rf"{name}: is not what the build wrote .*delete it and run the same command"):
        build(recipe, out)
    assert path.read_bytes() != data, "what is there may have been edited"
    path.unlink()
    build(recipe, out)
    assert digests(out) == before


def test_marks_of_a_finished_build_that_are_damaged_are_named(recipe: BuildSpec, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build(recipe, out)
    for name, hint in (("manifest.json", "delete it and run"), ("inputs.jsonl", "--no-resume"), ("build.json", "anew")):
        path = out / name
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
        with pytest.raises(DataError, match=rf"{name}.*{hint}"):
            build(recipe, out)
        path.write_bytes(data)
    (out / "inputs.jsonl").unlink()
    with pytest.raises(DataError, match=r"inputs\.jsonl: is gone.*--no-resume"):
        build(recipe, out)


def test_a_manifest_of_another_structure_and_a_lost_output_are_named(recipe: BuildSpec, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build(recipe, out)
    place = out / "manifest.json"
    found = json.loads(place.read_text())
    stages, output = found["stages"], found["output"]
    for other, named in (
        ({"stages": [{**stages[0], "documents_in": None}]}, "documents_in: expected a whole number"),
        ({"stages": [1]}, "name: is missing"),
        ({"stages": {}}, "stages: expected a list"),
        ({"output": {**output, "files": [{"name": 3, "bytes": 1}]}}, "name: expected a text"),
        ({"output": None}, "output.documents: is missing"),
    ):
        place.write_text(json.dumps({**found, **other}))
        with pytest.raises(DataError, match=rf"manifest\.json: {named}.*; delete it, and run"):
            fate(out, "nothing")
    place.write_text(json.dumps(found))
    (out / "data" / output["files"][0]["name"]).unlink()
    with pytest.raises(DataError, match=r"damaged .*delete it and run its build again"):
        fate(out, "nothing")


def every(out: Path) -> list[Path]:
    found = [path for path in (out / "work").rglob("*") if path.is_file() and path.suffix != ".log"]
    return sorted(path for path in found if "describe" not in path.parts)


# each way and each moment once in every run; the slow tests have all nine of them
DAMAGE = [
    pytest.param(after, how, marks=pytest.mark.slow if i != j else ())
    for i, after in enumerate((9, 22, 60))
    for j, how in enumerate(("gone", "empty", "flipped"))
]


@pytest.mark.parametrize(("after", "how"), DAMAGE)
def test_a_damaged_task_is_done_again_alone(recipe: BuildSpec, tmp_path: Path, how: str, after: int) -> None:
    whole = tmp_path / "whole"
    build(recipe, whole)
    expected, tasks = digests(whole), len(Counted.did)
    after = min(after, tasks - 2)
    before = stopped(recipe, tmp_path / "begun", after)
    redone = set()
    for at in range(0, len(every(tmp_path / "begun")), 17):
        out = tmp_path / "out"
        shutil.copytree(tmp_path / "begun", out)
        aim = every(out)[at]
        data = aim.read_bytes()
        if how == "gone":
            aim.unlink()
        else:
            aim.write_bytes(b"" if how == "empty" else data[:-1] + bytes([data[-1] ^ 1]) if data else b"x")
        Counted.did = []
        build(recipe, out)
        assert digests(out) == expected, aim
        again = set(Counted.did) & set(before)
        redone |= again
        # the task itself, at most the one before it whose shard is removed by now, and what looks for the input
        own = {folder for folder in again if "scan" not in folder and "describe" not in folder}
        assert len(own) <= 3 or "decide" in str(aim), (aim, own)
        assert len(Counted.did) < tasks, aim
        shutil.rmtree(out)
    assert redone


def test_a_shard_that_two_passes_need_again_is_made_again(recipe: BuildSpec, tmp_path: Path) -> None:
    """The decisions of a corpus stage are lost when the shards it decided on are removed."""
    build(recipe, tmp_path / "whole")
    tasks = Counted.did
    after = next(n for n, folder in enumerate(tasks) if folder.startswith("work/write")) + 1
    stopped(recipe, tmp_path / "out", after)
    decided = next((tmp_path / "out" / "work").glob("decide-*/done.json"))
    decided.write_text(json.dumps({"found": {}, "files": []})[:-3])
    build(recipe, tmp_path / "out")
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")
