"""What the tests of HumanEval and MBPP let pass.

Each reference solution was changed at one place ({each} places of each, at random: a comparison, an operation, a
number, a boolean, a condition). A mutant and its reference then ran on inputs like those of the problem's own tests:
an argument changed by one step, a list or text shortened, doubled, turned around ({inputs} inputs a problem at most,
those on which the reference raises left out). A mutant that answers otherwise once, raises or does not end is wrong;
the rest differs nowhere that was looked at. All ran in the sandbox. `LLMANAC_SHARED_DATA` names the folder of
humaneval and mbpp.

- HumanEval's tests let {humaneval[passed]} of {humaneval[wrong]} wrong mutants pass: {humaneval[share]:.1%}, 95%
  interval {humaneval[low]:.1%} to {humaneval[high]:.1%} over problems. MBPP's, three asserts each: {mbpp[passed]} of
  {mbpp[wrong]}, {mbpp[share]:.1%} ({mbpp[low]:.1%} to {mbpp[high]:.1%}).
- At least one wrong mutant passes in {humaneval[problems]:.0%} of HumanEval's problems and {mbpp[problems]:.0%} of
  MBPP's.
- With the mutants as a model's samples, HumanEval's pass@1 by its tests is {humaneval[one][0]:.3f}
  ({humaneval[one][1]:.3f} to {humaneval[one][2]:.3f}), of which {humaneval[true_one][0]:.3f}
  ({humaneval[true_one][1]:.3f} to {humaneval[true_one][2]:.3f}) holds on the other inputs too; pass@3
  {humaneval[three][0]:.3f} and {humaneval[true_three][0]:.3f}. MBPP's pass@1 {mbpp[one][0]:.3f} and
  {mbpp[true_one][0]:.3f}, pass@3 {mbpp[three][0]:.3f} and {mbpp[true_three][0]:.3f}. Taking the best of several
  samples makes the tests' gaps count for more: {more}.
- A function that returns one constant, or its first argument, passes at most {humaneval[constant]:.1%} of HumanEval
  and {mbpp[constant]:.1%} of MBPP.

Limits: mutants are not the mistakes that models make. An input may break a precondition that only the description has;
such a difference counts as wrong here, so the figures are an upper limit of what the tests miss on valid input.
"""

from __future__ import annotations

import ast
import gzip
import json
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks._corpora import needed_data
from llmanac.core.pages import Section, table
from llmanac.metrics.pass_at_k import pass_at_k
from llmanac.metrics.statistics.corpus import Measured, percentiles, resampled_together
from llmanac.sandbox.pool import Sandbox

ROWS = ("metric/pass-at-k", "benchmark/humaneval", "benchmark/mbpp")
CLAIM = "tests measure functional correctness, and no more of it than they test"
SEEDS = 1

EACH, INPUTS, SECONDS = 6, 60, 2.0
CONSTANTS = ("None", "True", "False", "0", "[]", "the argument")
OTHER = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.Add: ast.Sub, ast.Sub: ast.Add,
    ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult,
    ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
HARNESS = """
import copy as _copy, math as _math, random as _random
def _load(source):
    space = {"__name__": "solution"}
    exec(source, space)
    return space
def _tests(function):
    space = _load(REFERENCE)
    space[NAME] = function
    exec(TESTS, space)
    if CHECK:
        space["check"](function)
def _passes(function):
    try:
        _tests(function)
        return True
    except Exception:
        return False
def _changed(value, rng):
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice([value + 1, value - 1, 2 * value, value + 10])
    if isinstance(value, float):
        return rng.choice([value + 1, value / 2, -value])
    if isinstance(value, (str, list, tuple)):
        at = rng.randrange(len(value)) if value else 0
        cut, twice = value[:at] + value[at + 1:], value[:at + 1] + value[at:]
        ways = [value[::-1], value + value[:1], cut, twice]
        if value and not isinstance(value, str):
            new = list(value)
            new[at] = _changed(new[at], rng)
            ways += [type(value)(new)] * 3
        return rng.choice(ways)
    if isinstance(value, dict) and value:
        key = rng.choice(list(value))
        return {**value, key: _changed(value[key], rng)}
    return value
def _same(a, b):
    if isinstance(a, float) and isinstance(b, (int, float)):
        return _math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12) or a != a
    return type(a) == type(b) and a == b
def _differs(one, two, given):
    rng = _random.Random(0)
    for number in range(INPUTS):
        arguments = list(_copy.deepcopy(given[number % len(given)]))
        if number >= len(given) and arguments:
            at = rng.randrange(len(arguments))
            arguments[at] = _changed(arguments[at], rng)
        try:
            expected = one(*_copy.deepcopy(arguments))
        except Exception:
            continue
        try:
            if not _same(expected, two(*arguments)):
                return True
        except Exception:
            return True
    return False
_seen = []
_right = _load(REFERENCE)[NAME]
def _record(*arguments, **named):
    if not named:
        _seen.append(_copy.deepcopy(arguments))
    return _right(*arguments, **named)
"""
MUTANT = """
_ok = _passes(_record)
try:
    _mine = _load(MUTANT)[NAME]
except Exception:
    _mine = None
print("fails" if _mine is None or not _passes(_mine) else "passes", flush=True)
if _seen and _mine is not None:
    print("differs" if _differs(_right, _mine, _seen) else "same", flush=True)
"""
CONSTANT = """
for _name, _value in (("None", None), ("True", True), ("False", False), ("0", 0), ("[]", [])):
    if _passes(lambda *a, **k: _value):
        print(_name)
if _passes(lambda *a, **k: a[0] if a else None):
    print("the argument")
"""


def measure(seed: int, size: str) -> dict[str, Any]:
    """Verdicts on mutants of each benchmark."""
    if size == "small":
        problem = {"name": "f", "code": "def f(a, b):\n    return a + b if a > 0 else 2 * b\n", "check": False,
                   "tests": "assert f(1, 2) == 3\n"}  # fmt: skip
        found = [ast.unparse(ast.parse(text)) for text in mutants(problem["code"], 3, seed)]
        return {"mutants": found, **measured([problem], 3, seed, 1)}
    data = needed_data("humaneval", "mbpp")
    sets = {"humaneval": list(humaneval(data)), "mbpp": list(mbpp(data))}
    return {name: measured(problems, EACH, seed, 2) for name, problems in sets.items()}


def humaneval(data: Any) -> Iterator[dict[str, Any]]:
    with gzip.open(data / "humaneval" / "HumanEval.jsonl.gz", "rt", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            yield {"name": row["entry_point"], "code": row["prompt"] + row["canonical_solution"], "check": True,
                   "tests": row["test"]}  # fmt: skip


def mbpp(data: Any) -> Iterator[dict[str, Any]]:
    """Its test part, problems whose tests call a function of the solution."""
    for line in (data / "mbpp" / "mbpp.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        if not 11 <= row["task_id"] <= 510:
            continue
        tree = ast.parse(row["code"].replace("\r", ""))
        own = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        called = [n.func.id for t in row["test_list"] for n in ast.walk(ast.parse(t))
                  if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]  # fmt: skip
        if name := next((one for one in called if one in own), None):
            setup = row.get("test_setup_code") or ""
            yield {"name": name, "code": ast.unparse(tree), "check": False,
                   "tests": setup + "\n" + "\n".join(row["test_list"])}  # fmt: skip


def mutants(code: str, count: int, seed: int) -> list[str]:
    """The code with one place changed, at most `count` times, each otherwise."""
    sites = len(list(_sites(ast.parse(code))))
    out: list[str] = []
    for at in random.Random(seed).sample(range(sites), sites):
        tree = ast.parse(code)
        change = list(_sites(tree))[at]
        change()
        text = ast.unparse(tree)
        if text not in out:
            out.append(text)
        if len(out) == count:
            break
    return out


def _sites(tree: ast.AST) -> Iterator[Any]:
    """What changes one place of the tree, for each place."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            yield lambda n=node: n.ops.__setitem__(0, OTHER[type(n.ops[0])]())
        elif isinstance(node, (ast.BinOp, ast.BoolOp, ast.AugAssign)) and type(node.op) in OTHER:
            yield lambda n=node: setattr(n, "op", OTHER[type(n.op)]())
        elif isinstance(node, ast.Constant) and isinstance(node.value, (bool, int)):
            new = (not node.value) if isinstance(node.value, bool) else node.value + 1
            yield lambda n=node, v=new: setattr(n, "value", v)
        elif isinstance(node, (ast.If, ast.While, ast.IfExp)):
            yield lambda n=node: setattr(n, "test", ast.UnaryOp(ast.Not(), n.test))


def program(problem: dict[str, Any], rest: str, mutant: str = "") -> str:
    given = {"REFERENCE": problem["code"], "NAME": problem["name"], "TESTS": problem["tests"],
             "CHECK": problem["check"], "MUTANT": mutant, "INPUTS": INPUTS}  # fmt: skip
    return "".join(f"{key} = {value!r}\n" for key, value in given.items()) + HARNESS + rest


def measured(problems: Sequence[dict[str, Any]], count: int, seed: int, workers: int) -> dict[str, Any]:
    """Of each problem: mutants, those that pass the tests, that are wrong, that are wrong and pass; constants."""
    owners, programs = [], []
    for number, problem in enumerate(problems):
        for text in mutants(problem["code"], count, seed + number):
            owners.append(number)
            programs.append(program(problem, MUTANT, text))
    rows = [[0, 0, 0, 0] for _ in problems]
    with Sandbox(workers) as sandbox:
        for owner, result in zip(owners, sandbox.run_many(programs, seconds=SECONDS, label="mutants"), strict=True):
            said = result.stdout.split()
            passes = said[:1] == ["passes"]
            wrong = not passes or said[1:] != ["same"]  # what fails its tests is wrong; so is what does not end
            for place, yes in enumerate((True, passes, wrong, passes and wrong)):
                rows[owner][place] += yes
        texts = [program(problem, CONSTANT) for problem in problems]
        found = sandbox.run_many(texts, seconds=SECONDS, label="constants")
    constants = {name: sum(name in result.stdout.split("\n") for result in found) for name in CONSTANTS}
    return {"rows": rows, "constants": constants}


def pass_wrongly(seeds: Sequence[dict[str, Any]], name: str) -> list[float]:
    """The share of each problem's wrong mutants that pass its tests."""
    return [passed / wrong for _, _, wrong, passed in seeds[0][name]["rows"] if wrong]


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    (found,) = seeds
    rows = []
    for name, one in found.items():
        sums = np.array(one["rows"]).sum(0).tolist()
        rows.append([name, f"{len(one['rows'])}", *map(str, sums)])
    head = ["benchmark", "problems", "mutants", "pass the tests", "wrong", "wrong and pass"]
    constant = [[name, *(f"{one['constants'][c]} of {len(one['rows'])}" for c in CONSTANTS)]
                for name, one in found.items()]  # fmt: skip
    return [Section("Mutants", [], [table(head, rows)]),
            Section("Problems that a constant passes", [], [table(["benchmark", *CONSTANTS], constant)])]  # fmt: skip


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    (found,) = seeds
    out: dict[str, Any] = {"each": EACH, "inputs": INPUTS}
    for name, one in found.items():
        rows = np.array(one["rows"], np.float64)
        share = Measured("share", rows[:, [3, 2]], lambda sums: sums[..., 0] / np.maximum(sums[..., 1], 1))
        low, high = percentiles(resampled_together((share,), 1000, np.random.default_rng(0))[0])
        out[name] = {
            "passed": int(rows[:, 3].sum()), "wrong": int(rows[:, 2].sum()), "share": share.value, "low": low,
            "high": high, "problems": float((rows[:, 3] > 0).mean()),
            "constant": max(one["constants"].values()) / len(rows),
        }  # fmt: skip
        for k, word in ((1, "one"), (3, "three")):
            enough = rows[rows[:, 0] >= k]
            for key, passed in ((word, enough[:, 1]), (f"true_{word}", enough[:, 1] - enough[:, 3])):
                value = pass_at_k(enough[:, 0], passed, k)
                out[name][key] = (value.value, *value.interval())
    gaps = [[out[name][w][0] - out[name][f"true_{w}"][0] for w in ("one", "three")] for name in found]
    out["more"] = " and ".join(f"{three:.3f} of pass@3 against {one:.3f} of pass@1" for one, three in gaps)
    return out
