"""evalplus's `eval_results.json`: the programs for each problem, and whether base and extra tests pass."""

from collections.abc import Iterator
from pathlib import Path

from llmanac.data.json_rows import members
from llmanac.data.quarantine import Problems
from llmanac.evaluate.verdict.items import LogRow, Task

TITLE = "evalplus"
KEYS = ({"hash", "eval"},)


def read(path: Path, problems: Problems) -> tuple[Task, Iterator[LogRow]]:
    name, settings = "", {}
    for keys, value in members(path, problems, ("eval",)):
        if keys[0] == "hash":
            settings = {"version": str(value)}
        if keys[0] == "eval":
            name = str(keys[-1]).partition("/")[0]
            break
    return Task(name, path, TITLE, settings), _rows(path, problems)


def _rows(path: Path, problems: Problems) -> Iterator[LogRow]:
    place = 0
    for keys, programs in members(path, problems, ("eval",)):
        if keys[0] != "eval" or len(keys) < 2:
            continue
        for sample, one in enumerate(programs, 1):
            place += 1
            base, plus = one.get("base_status") == "pass", one.get("plus_status")
            scores = {"base": float(base), **({} if plus is None else {"plus": float(base and plus == "pass")})}
            yield LogRow(place, str(keys[1]), None, scores, sample=sample, answer=str(one.get("solution", "")))
