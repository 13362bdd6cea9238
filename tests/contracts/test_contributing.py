"""The method that CONTRIBUTING.md shows, added to a copy of the package as a reader would, passes its tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from _pages import blocks


def test_the_example_is_a_method(root: Path, tmp_path: Path) -> None:
    files = {block.file: block.text for block in blocks((root / "CONTRIBUTING.md").read_text("utf-8")) if block.file}
    source, package = root / "src" / "llmanac", tmp_path / "llmanac"
    for folder in (package, package / "models"):  # real folders where the registry looks, links for all others
        folder.mkdir()
    for path in source.iterdir():
        if path.name not in ("models", "core", "__pycache__"):
            (package / path.name).symlink_to(path)
    for path in (source / "models").iterdir():
        if path.name not in ("lm", "__pycache__"):
            (package / "models" / path.name).symlink_to(path)
    shutil.copytree(source / "core", package / "core")
    shutil.copytree(source / "models" / "lm", package / "models" / "lm")
    (package / "models" / "lm" / "log_bilinear.py").write_text(files["log_bilinear.py"])
    (tmp_path / "test_log_bilinear.py").write_text(files["test_log_bilinear.py"])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(root / "tests")])}
    contract = str(root / "tests" / "contracts" / "test_every_language_model.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", contract, str(tmp_path / "test_log_bilinear.py"), "-k", "log"],
        cwd=root, env=environment, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
