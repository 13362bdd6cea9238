"""The README's own blocks are run, in order, in one folder: console lines as a user would type them, then Python.

The folder holds the project's own documentation, as a clone does. A TOML block is written to the file that its first
line names in a comment, else to recipe.toml. `make` lines are what runs these tests, so they are not run again here. A
`llmanac serve` line is started, waited for, and stopped at the end. Output shown in the README is not compared word by
word: numbers differ between machines.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
DOCUMENTS = ["README.md", "docs/classify.md", "docs/ngrams.md", "docs/server.md"]


def blocks(text: str) -> list[tuple[str, str]]:
    return [(m[1], m[2]) for m in BLOCK.finditer(text)]


def commands(block: str) -> list[str]:
    """The lines after `$`, continued over backslashes."""
    joined = block.replace("\\\n", " ")
    return [line[2:].strip() for line in joined.splitlines() if line.startswith("$ ")]


class Session:
    """A shell in a folder of its own, with this Python's `llmanac` first on the path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.servers: list[subprocess.Popen[bytes]] = []
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1"}

    def run(self, command: str) -> None:
        if command.startswith(("make ", "git ", "cd ")):
            return
        if command.startswith("llmanac serve"):
            self.serve(command)
            return
        done = subprocess.run(
            command, shell=True, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, f"$ {command}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        assert done.stdout.strip(), f"$ {command} printed nothing"

    def serve(self, command: str) -> None:
        port = (re.search(r"--port (\d+)", command) or ["", "8000"])[1]
        words = command.removesuffix("&").split()
        executable = shutil.which(words[0], path=self.environment["PATH"])
        assert executable, words[0]
        self.servers.append(subprocess.Popen([executable, *words[1:]], cwd=self.folder, env=self.environment))
        for _ in range(240):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as reply:
                    if reply.status == 200:
                        return
            except OSError:
                assert self.servers[-1].poll() is None, f"$ {command} ended with {self.servers[-1].returncode}"
                time.sleep(0.5)
        raise AssertionError(f"$ {command} never became healthy")

    def python(self, code: str) -> None:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == 0, f"{code}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"

    def close(self) -> None:
        for server in self.servers:
            server.terminate()
            server.wait(timeout=30)


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    session = Session(tmp_path)
    yield session
    session.close()


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_block_runs(document: str, root: Path, session: Session) -> None:
    found = blocks((root / document).read_text("utf-8"))
    for path in [*root.glob("*.md"), *root.glob("docs/*.md")]:
        (session.folder / path.relative_to(root)).parent.mkdir(exist_ok=True)
        shutil.copy(path, session.folder / path.relative_to(root))
    assert any(language == "console" for language, _ in found), f"{document} shows no command"
    for language, block in found:
        if language == "console":
            for command in commands(block):
                session.run(command)
        elif language == "toml":
            named = re.match(r"# (\w+\.toml)\n", block)
            (session.folder / (named[1] if named else "recipe.toml")).write_text(block, "utf-8")
        elif language == "python":
            session.python(block)


def test_the_numbers_are_those_of_the_evidence(root: Path) -> None:
    done = subprocess.run([sys.executable, root / "tools" / "readme.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
