"""Write-it-yourself exercises: a task and a scaffold, hidden tests that run in the sandbox, a verdict in seconds.

An exercise is a TOML file in `exercises/`, and its name is the file's. What the tests expect is computed here by the
reference solution; only the inputs go into the sandbox, and what comes out is compared here. So an answer cannot read
or overwrite what is expected. llmanac is not there; numpy is, and an answer may return arrays.
"""

import functools
import json
import math
import random
import secrets
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from llmanac.core import files
from llmanac.core.errors import DataError, SpecError, nearest, shown
from llmanac.sandbox.pool import Sandbox

FOLDER = Path(__file__).parent / "exercises"
SECONDS, WALL = 1.5, 2.2  # of one run; a program that passes is run twice
MOST = 100_000  # bytes of an answer
CLOSE = 1e-6
SEED = 20
HARNESS = """
import json as _json
def _plain(value):
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"Object of type {{type(value).__name__}} is not JSON serializable")
_space = {{"__name__": "answer"}}
exec(compile({code!r}, {name!r}, "exec"), _space)
_out = []
_function = _space[{function!r}]
for _case in _json.loads({cases!r}):
    try:
        _out.append({{"value": _function(*_case)}})
    except Exception as _error:
        _at = _error.__traceback__.tb_next
        while _at is not None and _at.tb_next is not None and _at.tb_next.tb_frame.f_code.co_filename == {name!r}:
            _at = _at.tb_next
        _line = _at.tb_lineno if _at is not None else 0
        _out.append({{"error": f"line {{_line}}: {{type(_error).__name__}}: {{_error}}"[:300]}})
print("\\n{mark}" + _json.dumps(_out, default=_plain))
"""


@dataclass(frozen=True)
class Exercise:
    """One exercise.

    Attributes:
        name, title, chapter, rows: what it is called, and the rows of the catalogue that it practices.
        minutes: what it takes; task: what is to be written; hints: to be looked at one by one.
        scaffold: the function's head with shapes; solution: the reference; mistake: what is often written instead, why
            says what is wrong with it.
        cases: source of a generator `cases(rng)` of (name, arguments).
    """

    name: str
    title: str
    chapter: str
    rows: list[str]
    minutes: int
    task: str
    hints: list[str]
    scaffold: str
    solution: str
    mistake: str
    why: str
    cases: str

    @property
    def function(self) -> str:
        """The name of the function that is to be written."""
        return self.scaffold.partition("def ")[2].partition("(")[0]

    def inputs(self) -> list[tuple[str, list[Any]]]:
        """The hidden cases: a name and the arguments, the same each time."""
        made = _function(self.cases, "cases")(random.Random(SEED))
        return [(name, json.loads(json.dumps(arguments))) for name, arguments in made]

    def outputs(self, source: str) -> list[Any]:
        """What a source of ours gives on the hidden cases, as JSON would; None for a case that it fails on."""
        found = []
        for _, arguments in self.inputs():
            try:
                found.append(json.loads(json.dumps(_function(source, self.function)(*arguments))))
            except (ArithmeticError, ValueError):
                found.append(None)
        return found


@dataclass(frozen=True)
class Verdict:
    """How an answer did.

    Attributes:
        passed: whether every case is right; right, cases: how many are, of how many.
        message: what is wrong with the first that is not, or with the program; the mistake that it is, where it is the
            common one.
    """

    passed: bool
    right: int
    cases: int
    message: str = ""


def _function(source: str, name: str) -> Callable[..., Any]:
    """A function of the package's own source text."""
    space: dict[str, Any] = {"math": math, "__name__": name}
    exec(source, space)
    found: Callable[..., Any] = space[name]
    return found


@functools.cache
def exercises() -> dict[str, Exercise]:
    """Every exercise by name. Raises SpecError for a file that lacks a field."""
    found = {}
    for path in sorted(FOLDER.glob("*.toml")):
        data = files.read_toml(path)
        wanted = {field.name for field in fields(Exercise)} - {"name"}
        if data.keys() != wanted:
            odd = sorted(wanted ^ data.keys())[0]
            raise SpecError(f"{path}: {odd} is {'missing' if odd in wanted else 'not a field'}")
        name = path.stem.replace("_", "-")
        found[name] = Exercise(name=name, **data)
    return found


def find(name: str) -> Exercise:
    """The exercise of this name. Raises SpecError that names the nearest known one."""
    known = exercises()
    if name not in known:
        raise SpecError(f"no exercise named {shown(name)}{nearest(name, known)}; `llmanac exercise list` has them")
    return known[name]


def read_answer(path: str | Path) -> str:
    """The source in a file. Raises DataError where it cannot be read, is too long or is not UTF-8."""
    return files.read_text(path, most=MOST, error=DataError)


def check(exercise: Exercise, code: str, sandbox: Sandbox | None = None) -> Verdict:
    """Run an answer on the hidden cases.

    Args:
        code: the answer's source; it must define the exercise's function.
        sandbox: an open one; by default one is started.

    Raises:
        SandboxError: this machine cannot confine programs.
    """
    if sandbox is None:
        with Sandbox(1, wall=WALL, arrays=True) as own:
            return check(exercise, code, own)
    inputs, mark = exercise.inputs(), secrets.token_hex(8)
    given = json.dumps([arguments for _, arguments in inputs])
    program = HARNESS.format(code=code, name="answer.py", cases=given, function=exercise.function, mark=mark)
    result = sandbox.run(program, seconds=SECONDS)
    if not result.passed:
        return Verdict(False, 0, len(inputs), _failure(result.status, result.stderr, exercise.function))
    line = next((x for x in reversed(result.stdout.splitlines()) if x.startswith(mark)), None)
    try:
        said = json.loads(line.removeprefix(mark)) if line else None
    except ValueError:
        said = None
    if not isinstance(said, list) or len(said) != len(inputs):
        message = "its results did not arrive: it prints too much (16 KiB at most), or returns something too large"
        return Verdict(False, 0, len(inputs), message)
    expected = exercise.outputs(exercise.solution)
    wrong = [_difference(x, y) for x, y in zip(said, expected, strict=True)]
    right = sum(problem is None for problem in wrong)
    first = next((i for i, problem in enumerate(wrong) if problem is not None), None)
    if first is None:
        return Verdict(True, right, len(inputs))
    message = f"case {first + 1} ({inputs[first][0]}): {wrong[first]}"
    usual = exercise.outputs(exercise.mistake)
    if all(same(x.get("value", None), y) for x, y in zip(said, usual, strict=True) if isinstance(x, dict)):
        message += f"\nThis is a common mistake: {exercise.why}"
    return Verdict(False, right, len(inputs), message)


def _failure(status: str, stderr: str, function: str) -> str:
    """Why a program gave no results."""
    if status == "timeout":
        return f"it took longer than {SECONDS:g} s"
    last = next((line for line in reversed(stderr.strip().splitlines()) if line.strip()), "")
    if last == f"KeyError: {function!r}":
        return f"it does not define {function}"
    if "not JSON serializable" in last:
        return f"{function} returns what is neither a number, a text, a bool, an array nor a list of these ({last})"
    return f"it was ended ({status})" + (f": {last[:300]}" if last else "")


def _difference(said: Any, expected: Any) -> str | None:
    """What is wrong with one case's result; None where nothing is."""
    if not isinstance(said, dict):
        return "no result"
    if "error" in said:
        return str(said["error"])
    found = said.get("value")
    return None if same(found, expected) else f"expected {_short(expected)}, got {_short(found)}"


def _short(value: Any, most: int = 200) -> str:
    text = json.dumps(_rounded(value))
    return text if len(text) <= most else f"{text[:most]} ..."


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    return [_rounded(v) for v in value] if isinstance(value, list) else value


def same(found: Any, expected: Any) -> bool:
    """Whether two results are equal: numbers to a millionth, lists place by place, all else exactly."""
    if isinstance(expected, list):
        return isinstance(found, list) and len(found) == len(expected) and all(map(same, found, expected))
    if isinstance(expected, bool) or isinstance(found, bool) or not isinstance(expected, (int, float)):
        return type(found) is type(expected) and bool(found == expected)
    if not isinstance(found, (int, float)):
        return False
    if not math.isfinite(expected) or not math.isfinite(found):
        return found == expected or (found != found and expected != expected)
    return math.isclose(found, expected, rel_tol=CLOSE, abs_tol=CLOSE)
