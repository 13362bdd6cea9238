"""`make test-slow` goes on where it was stopped: a file that passed with the same sources is not run again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tools import slow


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    ran: list[str] = []

    def run(name: str) -> dict[str, Any]:
        ran.append(name)
        failed = name == "b.py" and ran.count("b.py") == 1
        tests = {"failed": 1} if failed else {"passed": 2}
        return {"status": int(failed), "seconds": 60, "tests": tests, "made": "2026-01-01", "commit": "c", "trees": "t"}

    for name, value in {"KEPT": tmp_path / "slow.json", "PAGE": tmp_path / "slow.md", "run": run}.items():
        monkeypatch.setattr(slow, name, value)
    return ran


def test_what_passed_is_not_run_again_and_what_failed_is(runner: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow, "trees", lambda: "t")
    assert slow.main(["a.py", "b.py"]) == 1 and runner == ["a.py", "b.py"]
    assert "| b.py | 1 failed | 60 | 2026-01-01 | c |" in slow.PAGE.read_text()
    assert slow.main(["a.py", "b.py"]) == 0 and runner == ["a.py", "b.py", "b.py"]
    for other in ("u", ""):  # other sources; something that is not committed
        monkeypatch.setattr(slow, "trees", lambda other=other: other)
        runner.clear()
        assert slow.main(["a.py"]) == 0 and runner == ["a.py"]


def test_counts_are_those_of_the_last_line() -> None:
    assert slow.counts("1 failed\n3 passed, 2 skipped, 9 deselected in 4.1s\n") == {"passed": 3, "skipped": 2}


def test_files_that_have_slow_tests_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """With the project's own options of pytest, which decide how a collection is printed."""
    shutil.copy(root / "pyproject.toml", tmp_path)
    test = "import pytest\n@pytest.mark.slow\ndef test_one(): ...\n"
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_slow.py").write_text(test)
    (tmp_path / "tests" / "test_fast.py").write_text(test.replace("@pytest.mark.slow\n", ""))
    monkeypatch.setattr(slow, "ROOT", tmp_path)
    assert slow.slow_files() == ["tests/test_slow.py"]
