"""What takes long says so on standard error, and what does not is quiet."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from _small_models import transformer

from llmanac.core import progress
from llmanac.models.load import load_model


def test_one_line_where_it_takes_long_and_none_where_it_does_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.announced("short"):
        pass
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.01)
    with progress.announced("long"):
        time.sleep(0.5)
    assert capsys.readouterr().err == "long\n"
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.3)
    with pytest.raises(ValueError), progress.announced("broken"):
        raise ValueError
    time.sleep(0.4)
    assert capsys.readouterr().err == ""


def test_a_log_ends_with_the_last_state_and_says_no_state_twice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.0)
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with progress.progress("load", total=1, unit="parts") as bar:
        bar._live = False
        bar.advance(0)
        monkeypatch.setattr(progress, "LINE_SECONDS", 1000.0)
        bar.advance()
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("load    0%") and last.startswith("load  100%")
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with progress.progress("load", total=1, unit="parts") as bar:
        bar._live = False
        bar.advance()
    assert len(capsys.readouterr().err.splitlines()) == 1
    monkeypatch.setattr(progress, "QUIET_SECONDS", 1000.0)
    with progress.progress("load", total=1, unit="parts") as bar:
        bar.advance()
    assert not capsys.readouterr().err


def test_a_kernel_that_is_compiled_says_so_once_and_one_that_is_read_does_not(tmp_path: Path) -> None:
    code = (
        "from llmanac.core import progress\n"
        "progress.QUIET_SECONDS = 0.0\n"
        "import numpy as np\n"
        "from llmanac.kernels.text import cached\n"
        "@cached\n"
        "def part(x):\n    return x + 1\n"
        "@cached\n"
        "def whole(xs):\n    total = 0\n    for x in xs:\n        total += part(x)\n    return total\n"
        "assert [whole(np.arange(4)), whole(np.arange(5)), whole(np.arange(6))] == [10, 15, 21]\n"
        "progress.say_once.cache_clear()\n"
        "again = cached(whole.py_func)\n"
        "assert again(np.arange(4)) == 10 and sum(again.stats.cache_hits.values()) == 1\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert done.stderr == "compiling for this machine; it is done once and kept, and takes up to a minute\n"


def test_a_rate_below_one_a_second_is_seconds_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    said = {}
    for seconds in (0.5, 4, 40):
        bar = progress.Progress("train", 10, "steps")
        bar.done, clock[0] = 5, clock[0] + 5 * seconds
        said[seconds] = bar.line()
    assert "/s" not in progress.Progress("train", 10, "steps").line()  # nothing is done yet
    assert "2 steps/s" in said[0.5] and "4 s a step" in said[4] and "40 s a step" in said[40]
    assert " 0 steps/s" not in "".join(said.values())


def test_loading_weights_says_how_far_it_is_by_bytes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The rate and the time left, with every line of a slow load; a fast one is quiet."""
    model = transformer()
    model.save_pretrained(tmp_path)
    load_model(tmp_path, device="cpu")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.0)
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    load_model(tmp_path, device="cpu")
    shown = [line for line in capsys.readouterr().err.splitlines() if line.startswith("load weights")]
    assert len(shown) == sum(1 for _ in model.parameters()) and "100%" in shown[-1]
    assert all("B/s" in line and " left" in line for line in shown)
    shares = [int(line.split("%")[0].split()[-1]) for line in shown]
    assert shares == sorted(shares) and shares[0] < 50
