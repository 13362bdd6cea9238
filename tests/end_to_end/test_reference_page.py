"""docs/reference.md names every public name, and its examples run as one script."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from _forked import executables

import llmanac


def test_every_public_name_has_an_example(root: Path) -> None:
    text = (root / "docs" / "reference.md").read_text("utf-8")
    parts = re.split(r"^::: llmanac\.(\w+)$", text, flags=re.M)
    named = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert sorted(named) == sorted(llmanac.__all__)
    assert not [name for name, part in named.items() if "```python" not in part]


@pytest.mark.usefixtures("one_thread")
def test_the_examples_run(root: Path, tmp_path: Path) -> None:
    text = (root / "docs" / "reference.md").read_text("utf-8")
    (tmp_path / "page.py").write_text("\n".join(re.findall(r"```python\n(.*?)```", text, re.S)), "utf-8")
    done = subprocess.run(
        [executables() / "python", "page.py"], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
