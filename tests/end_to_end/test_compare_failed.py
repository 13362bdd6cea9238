"""`llmanac compare` where an arm cannot be trained: it has failed, by name, and the others are compared."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from _studies import ask

from llmanac.cli.compare import print_study

pytestmark = pytest.mark.usefixtures("one_thread")


def test_an_arm_that_diverges_has_failed_and_the_others_go_on(
    recipe: dict[str, Any], store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines: list[str] = []
    found = ask("train.optimizer.lr", "0.003,1e6", recipe, tmp_path, store, seeds=1, report=lines.append)
    assert set(found.data["failed"]) == {"1e6"} and set(found.values()) == {"0.003"}
    (line,) = [line for line in lines if line.startswith("seed 0, 1e6: ")]
    assert re.fullmatch(r"seed 0, 1e6: failed \(step \d: the (loss|gradient).*\)", line)
    print_study(found)
    for said in (found.markdown(), (tmp_path / "study.md").read_text(), " ".join(capsys.readouterr().out.split())):
        assert re.search(r"Against 0.003: 1e6 failed \(seed 0: step \d: the", said)
