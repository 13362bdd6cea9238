"""Does generated code do what its tests ask for: HumanEval's and MBPP's problems, run in the sandbox.

A program is the completed code, then its tests. HumanEval: prompt + completion, `test`, and a call of `check` on the
entry point. MBPP: the completion alone, its imports and setup, then each `assert`. It passes if it runs to its end.
Equal programs of one call are run once. pass@k is made of the samples, and of those that passed, of each problem.

Chen et al. 2021, arXiv:2107.03374; Austin et al. 2021, arXiv:2108.07732.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmanac.core.errors import DataError, shown
from llmanac.sandbox.pool import MEMORY, SECONDS, Result, Sandbox


@dataclass(frozen=True)
class ProgramVerdict:
    """One sample: the problem that it is for, and how its program ended."""

    problem: str
    result: Result

    @property
    def passed(self) -> bool:
        return self.result.passed


def _text(problem: Mapping[str, Any], name: str, default: str | None = None) -> str:
    value = problem.get(name, default)
    if not isinstance(value, str):
        raise DataError(f"problem {shown(problem.get('task_id'))}: {name}: must be text, got {shown(value)}")
    return value


def _lines(problem: Mapping[str, Any], name: str, default: Sequence[str] | None = None) -> str:
    value = problem.get(name, default)
    if not isinstance(value, list | tuple) or not all(isinstance(line, str) for line in value):
        raise DataError(f"problem {shown(problem.get('task_id'))}: {name}: must be a list of texts, got {shown(value)}")
    return "".join(f"{line}\n" for line in value)


def program(problem: Mapping[str, Any], completion: str) -> str:
    """The program that tests a completion.

    Args:
        problem: a row of HumanEval (`prompt`, `test`, `entry_point`) or of MBPP (`test_list`, and where there are any
            `test_imports` and `test_setup_code`).
        completion: for HumanEval what follows the prompt, for MBPP all of the code.

    Raises:
        DataError: a field is missing or of another kind; it names the problem and the field.
    """
    if "entry_point" in problem:
        entry = _text(problem, "entry_point")
        if not entry.isidentifier():
            raise DataError(f"problem {shown(problem.get('task_id'))}: entry_point: {shown(entry)} is not a name")
        return f"{_text(problem, 'prompt')}{completion}\n{_text(problem, 'test')}\ncheck({entry})\n"
    if "test_list" not in problem:
        raise DataError(
            f"problem {shown(problem.get('task_id'))}: has neither `entry_point` (HumanEval) nor `test_list` (MBPP)"
        )
    imports, tests = _lines(problem, "test_imports", ()), _lines(problem, "test_list")
    if not tests.strip():
        raise DataError(f"problem {shown(problem.get('task_id'))}: test_list: is empty, so that any code would pass")
    return f"{completion}\n{imports}{_text(problem, 'test_setup_code', '')}\n{tests}"


def check(
    samples: Sequence[tuple[Mapping[str, Any], str]],
    sandbox: Sandbox,
    *,
    seconds: float = SECONDS,
    memory: int = MEMORY,
) -> list[ProgramVerdict]:
    """Run the samples of some problems, in any order; a verdict for each, in the same order.

    Args:
        samples: a problem and a completion of it, each.
        sandbox: an open one.
        seconds: CPU seconds for each program.
        memory: bytes of address space for each program.

    Raises:
        DataError: a problem is malformed; nothing is run then.
        SandboxError: the sandbox is not open.
    """
    programs = [program(problem, completion) for problem, completion in samples]
    once = list(dict.fromkeys(programs))
    results = sandbox.run_many(once, seconds=seconds, memory=memory, label="check code")
    found = dict(zip(once, results, strict=True))
    names = [str(problem.get("task_id", "")) for problem, _ in samples]
    return [ProgramVerdict(name, found[text]) for name, text in zip(names, programs, strict=True)]
