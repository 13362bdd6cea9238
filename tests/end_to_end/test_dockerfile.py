"""The Dockerfile without Docker: its lines in a plain folder, where an environment of its own is the image.

Not run, since they need root or an image: FROM, USER and `useradd`. Installing needs a network.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_installed import OFFLINE, outside

LARGEST = 450e6  # bytes of files above the base image
NOT_RUN = ("useradd",)


def instructions(root: Path, stage: str) -> list[tuple[str, str]]:
    """Instruction and arguments of each line of a stage."""
    text = (root / "Dockerfile").read_text("utf-8").replace("\\\n", "")
    part = re.split(r"(?m)^FROM ", text)[["light", "full"].index(stage) + 1]
    first, *lines = [line for line in part.splitlines() if line and not line.startswith("#")]
    assert first.endswith(f" AS {stage}")
    return [(name, given) for name, _, given in (line.partition(" ") for line in lines)]


def ignored(folder: str, names: list[str]) -> set[str]:
    return {name for name in names if name == "__pycache__" or name.endswith(".egg-info")}


def copied(root: Path, home: Path, given: str) -> None:
    *sources, target = given.split()
    for source in sources:
        if (root / source).is_dir():
            shutil.copytree(root / source, home / target, ignore=ignored, symlinks=True)
        else:
            shutil.copy(root / source, home / target)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_light_target_is_built_and_answers(root: Path, tmp_path: Path) -> None:
    home, programs = tmp_path / "home", tmp_path / "env" / "bin"
    home.mkdir()
    subprocess.run([sys.executable, "-m", "venv", str(programs.parent)], check=True, timeout=300)
    before = sum(file.lstat().st_size for file in tmp_path.rglob("*"))
    inside = {**outside(), "PATH": f"{programs}:/usr/bin:/bin", "HOME": str(home)}
    command: list[str] = []
    for name, given in instructions(root, "light"):
        if name == "COPY":
            copied(root, home, given)
        elif name == "RUN" and not given.startswith(NOT_RUN):
            done = subprocess.run(given, shell=True, cwd=home, env=inside, capture_output=True, text=True, timeout=1800)
            if any(sign in done.stderr for sign in OFFLINE):
                pytest.skip(f"needs packages in an environment of its own: {done.stderr[-500:]}")
            assert done.returncode == 0, (given, done.stderr[-3000:])
        elif name in ("ENTRYPOINT", "CMD"):
            command += json.loads(given)
        else:
            assert name in ("WORKDIR", "USER", "RUN"), name
    assert sum(file.lstat().st_size for file in tmp_path.rglob("*")) - before < LARGEST
    shutil.rmtree(home / "src")  # what is installed needs no checkout
    for words, text in ((command, "position/rope"), ([*command[:1], "show", "position/rope"], "verdict")):
        done = subprocess.run(words, cwd=home, env=inside, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0 and text in done.stdout, done.stderr[-2000:]


def test_both_targets_are_of_what_the_project_has(root: Path) -> None:
    for stage in ("light", "full"):
        for name, given in instructions(root, stage):
            if name == "COPY":
                assert all((root / source).exists() for source in given.split()[:-1]), given
            if name == "RUN" and (asked := re.search(r"'\.\[(\w+)\]'", given)):
                assert f"\n{asked[1]} = [" in (root / "pyproject.toml").read_text("utf-8")
    full = [shlex.split(given) for name, given in instructions(root, "full") if name == "RUN"]
    assert any("--torch-backend" in words for words in full)  # CUDA's torch is ten times as large
