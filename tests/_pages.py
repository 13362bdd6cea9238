"""The commands and code that a page shows, run as a reader would: in order, in one folder.

Console lines are typed into a shell, Python blocks run, a block whose first line names a file in a comment is that file
(`# study.toml`), other TOML is `recipe.toml`. `make`, `git` and `cd` lines are what runs the tests, or cannot be run
twice. A `llmanac serve` line is started, waited for and stopped at the end. What a page shows of output is not compared
word by word: numbers differ between machines.

A comment before a block says what the reader has that the test has not, or why it is not run with the others:

    <!-- slow: it trains for minutes -->        run by the slow tests only
    <!-- not run: needs a second machine -->    never
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

BLOCK = re.compile(r"(?:^<!-- (slow|not run): ([^\n]+) -->\n+)?^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\w+\.(?:toml|py))\n")
INDENTED = re.compile(r"^ {4}(?:\$ )?(?:llmanac|python|pip) ", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A block of a page: its language, what is in it, the file that it is, and why it is not run with the others."""

    language: str
    text: str
    mark: str = ""
    why: str = ""

    @property
    def file(self) -> str:
        """The name of the file that it is; empty for what is run."""
        named = FILE.match(self.text)
        return named[1] if named else "recipe.toml" if self.language == "toml" else ""

    @property
    def commands(self) -> list[str]:
        """The lines after `$`, continued over backslashes."""
        if self.language != "console":
            return []
        return [line[2:].strip() for line in self.text.replace("\\\n", " ").splitlines() if line.startswith("$ ")]


def blocks(text: str) -> list[Block]:
    """The blocks of a page, in order."""
    return [Block(m[3], m[4], m[1] or "", m[2] or "") for m in BLOCK.finditer(text)]


class Session:
    """A shell in a folder of its own, with the `llmanac` of a Python first on the path."""

    def __init__(self, folder: Path, python: str = sys.executable) -> None:
        self.folder, self.executable = folder, python
        self.servers: list[subprocess.Popen[bytes]] = []
        path = f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1"}

    def page(self, text: str, *, slow: bool = False) -> None:
        """Run a page: its files first, then its blocks; those that are marked slow only where they are asked for."""
        found = [block for block in blocks(text) if block.mark != "not run" and (slow or block.mark != "slow")]
        for block in found:
            if block.file and block.file != "recipe.toml":
                (self.folder / block.file).write_text(block.text, "utf-8")
        for block in found:
            if block.file:
                (self.folder / block.file).write_text(block.text, "utf-8")
            elif block.language == "python":
                self.python(block.text)
            for command in block.commands:
                self.run(command)

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
        assert done.stdout.strip() or ">" in command, f"$ {command} printed nothing"

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
            [self.executable, "-c", code],
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
