"""The command as a user meets it: stopped with Ctrl-C, started twice, shown."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from _builds import digests, dropped, stage

from llmanac.cli.data import build_command
from llmanac.core.errors import LlmanacError
from llmanac.data.pipeline.build import build
from llmanac.data.pipeline.recipe import read_recipe


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A build of some seconds: every document takes a while, until there is a file `no-longer`."""
    (tmp_path / "in").mkdir()
    for n in range(24):  # enough that a busy machine does not finish before it is stopped
        lines = [json.dumps({"text": f"SLOW text {n} {k}"}) + "\n" for k in range(25)]
        (tmp_path / "in" / f"{n}.jsonl").write_text("".join(lines))
    path = tmp_path / "slow.toml"
    name = stage("hostile")["name"]
    path.write_text(
        f'inputs = ["{tmp_path / "in"}"]\nshard_bytes = 400\n[[stages]]\nname = "{name}"\nmark = "{tmp_path}"\n'
    )
    return path


def start(recipe: Path, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "llmanac.cli", "data", "build", str(recipe), "--folder", str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.Popen(
        [*command, "--workers", "2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def wait_for_work(process: subprocess.Popen[str], folder: Path, tasks: int = 1) -> None:
    while sum(1 for _ in (folder / "work").glob("pass-0/*/done.json")) < tasks:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def test_ctrl_c_ends_cleanly_and_says_how_to_go_on(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(recipe, out)
    wait_for_work(process, out)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    workers = children.read_text().split() if children.exists() else []
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert f"llmanac data build {recipe} --folder {out}" in printed
    assert "Traceback" not in errors
    for worker in workers:
        assert not Path(f"/proc/{worker}").exists()
    (tmp_path / "no-longer").touch()
    build(read_recipe(recipe), out, workers=1)
    build(read_recipe(recipe), tmp_path / "whole", workers=1)
    assert digests(out) == digests(tmp_path / "whole")


def test_two_builds_do_not_share_a_folder(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(recipe, out)
    wait_for_work(process, out)
    with pytest.raises(LlmanacError, match="another build is at work in this folder"):
        build(read_recipe(recipe), out, workers=1)
    (tmp_path / "no-longer").touch()
    printed, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    assert "600" in printed
    assert not (out / "dropped").exists() or not dropped(out)


def test_workers_end_when_the_build_is_killed(recipe: Path, tmp_path: Path) -> None:
    process = start(recipe, tmp_path / "out")
    wait_for_work(process, tmp_path / "out")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        process.kill()
        pytest.skip("this system does not list a process' children")
    workers = children.read_text().split()
    assert len(workers) == 2
    process.kill()
    process.communicate()
    for _ in range(1000):
        if not any(Path(f"/proc/{worker}/exe").exists() for worker in workers):
            return
        time.sleep(0.01)
    raise AssertionError("a worker outlived its build")


def test_a_build_that_leaves_pages_raw_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pages = tmp_path / "crawl"
    pages.mkdir()
    for n in range(3):
        (pages / f"{n}.html").write_text(
            f"<html><body><p>This is the text of page {n}, and it goes on.</p></body></html>"
        )
    (pages / "note.txt").write_text("A note.")
    for stages, count in ([["clean"], 3], [["extraction", "clean"], None]):
        out = tmp_path / stages[0]
        path = tmp_path / f"{stages[0]}.toml"
        path.write_text(f'inputs = ["{pages}"]\nstages = {json.dumps(stages)}\n')
        build_command(path, [], folder=out, workers=1, engine="local", resume=True, show=False)
        printed = " ".join(capsys.readouterr().out.split())
        assert json.loads((out / "manifest.json").read_text())["output"].get("html_pages") == count
        assert ("warning: 3 documents are raw HTML; add the stage extraction" in printed) == bool(count)
