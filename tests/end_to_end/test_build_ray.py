"""The Ray engine leaves the bytes that the local one leaves."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
from _builds import digests, make_inputs, stage, text
from _machines import machines, said_by

from llmanac.core.errors import LlmanacError
from llmanac.data.pipeline.build import OtherBuild, build
from llmanac.data.pipeline.recipe import make_recipe

pytest.importorskip("ray", reason="needs `pip install llmanac[ray]`")

from _ray_cluster import cluster

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(2400)]


def test_two_ray_workers_leave_the_same_bytes_and_dead_ones_are_named(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "in")
    stages = ["clean", stage("short"), stage("first_seen"), stage("short", words=10)]
    recipe = make_recipe({"inputs": [str(inputs)], "stages": stages, "shard_bytes": 10_000})
    build(recipe, tmp_path / "local", workers=1)
    build(recipe, tmp_path / "ray", workers=2, engine="ray")
    assert digests(tmp_path / "ray") == digests(tmp_path / "local")

    (inputs / "zz.txt").write_text("DIE")
    stages = ["clean", stage("hostile", mark=str(tmp_path))]
    recipe = make_recipe({"inputs": [str(inputs)], "stages": stages, "shard_bytes": 10_000})
    build(recipe, tmp_path / "died", workers=2, engine="ray")
    assert (tmp_path / "died" / "manifest.json").is_file()
    build(recipe, tmp_path / "alive", workers=1)
    assert digests(tmp_path / "died") == digests(tmp_path / "alive")

    (inputs / "zz.txt").write_text("DIES")
    with pytest.raises(LlmanacError, match=r"a Ray process died at work/pass-0/.*to go on"):
        build(recipe, tmp_path / "dead", workers=2, engine="ray")
    (inputs / "zz.txt").write_text("LIVES")
    with pytest.raises(OtherBuild, match="has changed"):
        build(recipe, tmp_path / "dead", workers=2, engine="ray")


def test_machines_with_disks_of_their_own_leave_the_same_bytes(tmp_path: Path) -> None:
    """The driver's disk has text and build; another machine's processes get and give files over the network."""
    (tmp_path / "own").mkdir()
    inputs = make_inputs(tmp_path / "own" / "in")
    long = [{"text": f"{n} {text(random.Random(n), 30)}"} for n in range(2000)]
    (inputs / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in long))  # cut into stretches
    stages = ["clean", stage("short"), stage("first_seen"), stage("short", words=10)]
    recipe = make_recipe({"inputs": [str(inputs)], "stages": stages, "shard_bytes": 50_000})
    build(recipe, tmp_path / "local", workers=1)
    with machines(3, tmp_path) as made, cluster(made.each) as variables:
        first, *others = made.each
        shutil.copytree(inputs, first.folder / "in")
        tables = "".join(
            "[[stages]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
            for table in ({"name": "clean"}, *stages[1:])
        )
        (first.folder / "recipe.toml").write_text(f'inputs = ["in"]\nshard_bytes = 50000\n{tables}')
        command = ("-m", "llmanac", "data", "build", "recipe.toml", "--engine", "ray", "--folder", "built")
        started = first.python(*command, **variables)
        (said,) = said_by(started, seconds=600)
        assert not started.returncode, said
        found, expected = digests(first.folder / "built"), digests(tmp_path / "local")
        names = {"inputs.jsonl", "manifest.json", "build.json", "recipe.toml"}  # these name the folder of the input
        assert {n: d for n, d in found.items() if n not in names} == {
            n: d for n, d in expected.items() if n not in names
        }
        for machine in others:
            assert [path.name for path in machine.folder.iterdir()] == ["ray"]
