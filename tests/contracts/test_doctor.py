"""`llmanac doctor` names what is missing, or too old, for which use, and runs without torch."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from llmanac.core.errors import LlmanacError
from llmanac.core.extras import naming
from llmanac.recipes import doctor

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
from llmanac import cli
cli.main(["doctor", "--json"])
"""


def test_what_is_missing_is_named_with_its_use_and_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [
        "numba>=999", "numpy>=1", "no-such-reader>=2; extra == 'data'", "pillow>=999; extra == 'images'",
        "no-such-peer; extra == 'test'", "no-such-speed; platform_system == 'Plan 9'",
    ]  # fmt: skip
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: asked)
    found = {one["use"]: one for one in doctor.missing()}
    has = {name: importlib.metadata.version(name) for name in ("numba", "pillow")}
    assert found.keys() == {doctor.USES[extra] for extra in ("", "data", "images")}
    assert found[doctor.USES[""]]["packages"] == [f"numba>=999 (is {has['numba']})"]
    assert found[doctor.USES[""]]["install"] == "pip install 'numba>=999'"
    assert found[doctor.USES["images"]]["packages"] == [f"pillow>=999 (is {has['pillow']})"]
    assert found[doctor.USES["data"]]["packages"] == ["no-such-reader>=2"]
    assert found[doctor.USES["data"]]["install"] == "pip install 'llmanac[data]'"


def test_every_extra_that_a_user_may_want_has_a_use(root: Path) -> None:
    extras = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    assert extras.keys() - {"bench", "test", "dev", "kenlm", "docs", "all"} <= doctor.USES.keys()


def test_it_runs_without_torch() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["machine"]["torch"] is None and "gemm_flops" not in found and found["text"]["threads"] >= 1


def test_a_package_that_is_too_old_is_not_called_missing() -> None:
    """Torch's own name for what an older release does not have yet."""
    with (
        pytest.raises(LlmanacError, match="`llmanac run` needs a newer torch than is installed"),
        naming("llmanac run"),
    ):
        raise ImportError("cannot import name 'Writer' from 'torch.distributed'", name="torch.distributed")
    with pytest.raises(LlmanacError, match="needs torch: `uv pip install"), naming("llmanac run"):
        raise ModuleNotFoundError("No module named 'torch'", name="torch")


def test_a_shell_completes_commands_and_their_options() -> None:
    for line, word in (("llmanac comp", "compare"), ("llmanac compare --ar", "--arms"), ("llmanac ngram tr", "train")):
        given = {"_LLMANAC_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
        done = subprocess.run(
            [sys.executable, "-c", "import sys; sys.argv = ['llmanac']; from llmanac import cli; cli.main()"],
            capture_output=True,
            text=True,
            timeout=300,
            env=given | {"PATH": ""},
        )
        assert word in done.stdout.split(), (line, done.stdout, done.stderr)
