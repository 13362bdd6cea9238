"""The wheel as a user has it: from the package index in a clean environment. These tests need a network."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from _pages import Session
from test_wheel import COMPILED, QUICK, inputs

LONGEST = 15 * 60  # seconds of a use
USES = 6
OFFLINE = ("NewConnectionError", "(from versions: none)", "dns error", "error sending request")
INLINE = re.compile(r"`(llmanac (?:ask|question|guide)[^`]*)`")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * USES * LONGEST)]


def outside() -> dict[str, str]:
    """The environment without what leads to the checkout: pip would take llmanac for installed."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def environment(folder: Path, *installs: list[str], python: str = sys.executable) -> str:
    """The Python of a new environment in which these were typed, a line after the other."""
    subprocess.run([python, "-m", "venv", str(folder)], check=True, timeout=300)
    for program, *words in installs:
        command = [str(folder / "bin" / program), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=1800, env=outside())
        if any(sign in done.stderr for sign in OFFLINE):
            pytest.skip(f"needs packages in an environment of its own: {done.stderr[-500:]}")
        assert done.returncode == 0, done.stderr[-3000:]
    return str(folder / "bin" / "python")


def smoke(python: str, folder: Path) -> None:
    """Commands of every part that needs no torch."""
    folder.mkdir()
    inputs(folder)
    for words, text in (*QUICK, *COMPILED):
        command = [str(Path(python).parent / "llmanac"), *shlex.split(words)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900, env=outside())
        assert done.returncode == 0 and text in done.stdout + done.stderr, (words, done.stdout, done.stderr[-2000:])


def test_the_oldest_releases_that_are_promised(root: Path, wheel: Path, tmp_path: Path) -> None:
    lowest = ["uv", "pip", "install", "--python", str(tmp_path / "env"), "--resolution", "lowest-direct"]
    python = environment(
        tmp_path / "env", ["pip", "install", "uv"], [*lowest, "-r", str(root / "pyproject.toml")],
        ["pip", "install", "--no-deps", str(wheel)],
    )  # fmt: skip
    smoke(python, tmp_path / "with spaces and \u00fcmlauts")


@pytest.mark.parametrize("version", ["3.12", "3.13"])
def test_other_pythons(version: str, wheel: Path, tmp_path: Path) -> None:
    other = shutil.which(f"python{version}")
    if not other or subprocess.run([other, "--version"], capture_output=True).returncode:  # a shim may name none
        pytest.skip(f"no Python {version}")
    smoke(environment(tmp_path / "env", ["pip", "install", str(wheel)], python=other), tmp_path / "use")


def opens(command: str, session: Session) -> None:
    """A server that says where it is."""
    words = [str(Path(session.executable).parent / "llmanac"), *command.split()[1:]]
    with subprocess.Popen(words, cwd=session.folder, env=session.environment, stdout=subprocess.PIPE, text=True) as app:
        assert app.stdout is not None and "http://127.0.0.1" in app.stdout.readline()
        app.terminate()


def test_the_six_uses_of_the_readme(root: Path, wheel: Path, tmp_path: Path) -> None:
    """Each by what the README says of it, one after the other as a reader would, and how long it took."""
    python = environment(tmp_path / "env", ["pip", "install", f"{wheel}[all]", "openai"])
    text = (root / "README.md").read_text("utf-8").partition("## Six uses\n")[2].partition("\n## ")[0]
    uses = [use for use in re.split(r"(?=\*\*[A-Z])", text) if use.startswith("**")]
    assert len(uses) == USES, [use[:40] for use in uses]
    (tmp_path / "use").mkdir()
    shutil.copytree(root / "docs", tmp_path / "use" / "docs", ignore=shutil.ignore_patterns("evidence"))
    session = Session(tmp_path / "use", python)
    session.environment.pop("PYTHONPATH", None)
    session.environment["LLMANAC_CACHE"] = str(tmp_path / "cache")  # nothing is compiled yet
    try:
        for use in uses:
            start = time.monotonic()
            session.page(use)
            for command in INLINE.findall(use):
                if command == "llmanac guide":
                    opens(command, session)
                else:
                    session.run(command)
            took = time.monotonic() - start
            print(f"{took:6.0f} s  {use.partition('**: ')[0].partition('.')[0].strip('*')[:40]}")
            assert took < LONGEST, use[:40]
    finally:
        session.close()
