"""The Ray engine leaves the bytes that the local one leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
from _builds import digests, make_inputs, stage

from llmanac.core.errors import LlmanacError
from llmanac.data.pipeline.build import build
from llmanac.data.pipeline.recipe import make_recipe

pytestmark = [pytest.mark.slow, pytest.mark.ray]


def test_two_ray_workers_leave_the_same_bytes_and_dead_ones_are_named(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs `pip install llmanac[ray]`")
    inputs = make_inputs(tmp_path / "in")
    stages = ["clean", stage("short"), stage("first_seen"), stage("short", words=10)]
    recipe = make_recipe({"inputs": [str(inputs)], "stages": stages, "shard_bytes": 10_000})
    build(recipe, tmp_path / "local", workers=1)
    build(recipe, tmp_path / "ray", workers=2, engine="ray")
    assert digests(tmp_path / "ray") == digests(tmp_path / "local")

    (inputs / "zz.txt").write_text("DIE")
    stages = ["clean", stage("hostile", mark=str(tmp_path))]
    recipe = make_recipe({"inputs": [str(inputs)], "stages": stages, "shard_bytes": 10_000})
    with pytest.raises(LlmanacError, match=r"a Ray process died at work/pass-0/.*to go on"):
        build(recipe, tmp_path / "dead", workers=2, engine="ray")
    build(recipe, tmp_path / "dead", workers=2, engine="ray")
    build(recipe, tmp_path / "alive", workers=1)
    assert digests(tmp_path / "dead") == digests(tmp_path / "alive")
