"""Environments of harnesses that are no part of [test]: a venv each in the cache folder, made by `make logs-env`."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import pytest

from llmanac.core.files import cache_folder

PACKAGES = {"inspect": ["inspect-ai>=0.3.285"]}


def place(name: str) -> Path:
    return cache_folder() / "test-harnesses" / name


def run_in(name: str, code: str, *arguments: object) -> str:
    """What a program prints in a harness's environment; skips the test where there is none."""
    python = place(name) / "bin" / "python"
    if not python.exists():
        pytest.skip(f"needs {' '.join(PACKAGES[name])} in an environment of its own: make logs-env")
    done = subprocess.run([python, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


if __name__ == "__main__":
    for each, packages in PACKAGES.items():
        if not (place(each) / "bin" / "python").exists():
            venv.create(place(each), with_pip=True)
        subprocess.run([place(each) / "bin" / "python", "-m", "pip", "install", "-q", *packages], check=True)
        print(f"{each}: {place(each)}", file=sys.stderr)
