"""Code tests: 1 where the code in an answer does what the row's tests ask for, run in the sandbox.

    r(y) = 1[program ends without an exception]          program = code, imports, setup, tests

Rows are those of HumanEval (`test`, `entry_point`; the code is a complete function, or what follows the prompt) or of
MBPP (`test_list`). The code is in the last fenced block of the answer, or is the complete answer. A program that stops
before its tests, or reports a pass itself, earns nothing; `docs/sandbox.md` says what it cannot do.

Le et al. 2022, arXiv:2207.01780 (CodeRL): unit tests as a reward.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmanac.core.errors import DataError
from llmanac.core.ranges import COUNT, POSITIVE, Range, within
from llmanac.rewards import Reward, RewardScore, RewardSpec, Sample
from llmanac.sandbox.pool import Sandbox

CARD = {
    "title": "Code tests",
    "paper": "https://arxiv.org/abs/2207.01780",
    "reference": "the verdicts of evaluate/code.py on the same programs",
    "test": "tests/references/test_rewards.py::test_code_tests_equal_the_evaluation",
}
FENCED = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Spec(RewardSpec):
    """Attributes: seconds: CPU time of a program; memory: MB; workers: programs that run at once."""

    seconds: float = 3.0
    memory: int = 512
    workers: int = 2

    ranges = within(POSITIVE, "seconds") | within(COUNT, "workers") | within(Range(64), "memory")

    def build(self, **context: Any) -> Reward:
        """Raises SandboxError where this machine cannot confine programs, once the first answer is scored."""

        def reward(samples: Sequence[Sample]) -> list[RewardScore]:
            programs = [program(sample) for sample in samples]
            once = list(dict.fromkeys(programs))
            with Sandbox(workers=self.workers) as sandbox:
                found = sandbox.run_many(once, seconds=self.seconds, memory=self.memory << 20, label="test code")
            passed = {text: result.passed for text, result in zip(once, found, strict=True)}
            return [RewardScore(float(passed[text])) for text in programs]

        return reward


def program(sample: Sample) -> str:
    """The program that tests an answer. Raises DataError for a row without tests."""
    row, blocks = sample.row, FENCED.findall(sample.text)
    code = blocks[-1] if blocks else sample.text
    if "entry_point" in row:
        entry = _text(row, "entry_point")
        if not entry.isidentifier():
            raise DataError(f"reward: entry_point: {entry!r} is not a name")
        whole = code if re.search(rf"^def {entry}\b", code, re.MULTILINE) else f"{_text(row, 'prompt')}{code}"
        return f"{whole}\n{_text(row, 'test')}\ncheck({entry})\n"
    tests = sample.column("test_list")
    if not isinstance(tests, list | tuple) or not tests:
        raise DataError("reward: test_list: a list of texts with at least one test was expected")
    before = [*row.get("test_imports", ()), row.get("test_setup_code", "")]
    return "\n".join([code, *map(str, before), *map(str, tests)]) + "\n"


def _text(row: Mapping[str, Any], name: str) -> str:
    if not isinstance(row.get(name), str):
        raise DataError(f"reward: {name}: the row has no text of this name")
    return str(row[name])
