"""Solutions of exercises with one operator, comparison, number or function changed, and which of them tests find.

A changed solution runs on the inputs of the hidden tests, and its answers are compared as a reader's are. A change that
makes no difference to any input (`i <= n` where i is never n) survives, so not all can be found.
"""

from __future__ import annotations

import ast
import copy
import json
import math
import signal
from collections.abc import Collection, Iterator
from types import CodeType
from typing import Any

from llmanac.guide import exercise as guide
from llmanac.guide.exercise import Exercise, exercises

SECONDS = 0.1  # of CPU, for one mutant: one that runs on is found
OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Pow: ast.Mult,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
NAMES = {"min": "max", "max": "min", "sum": "max", "exp": "expm1", "log": "log1p", "any": "all", "all": "any"}


def changed(node: Any) -> tuple[str, Any, Any] | None:
    """(attribute, its value there, another one) of a node that can be changed, else None."""
    if isinstance(node, (ast.BinOp, ast.AugAssign, ast.BoolOp)) and type(node.op) in OPERATORS:
        return "op", node.op, OPERATORS[type(node.op)]()
    if isinstance(node, ast.Compare) and type(node.ops[0]) in OPERATORS:
        return "ops", node.ops, [OPERATORS[type(node.ops[0])](), *node.ops[1:]]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return "op", node.op, ast.UAdd()
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return "value", node.value, node.value + 1
    name = {ast.Name: "id", ast.Attribute: "attr"}.get(type(node), "")
    word = getattr(node, name) if name else ""
    return (name, word, NAMES[word]) if word in NAMES else None


def mutants(source: str) -> Iterator[tuple[str, CodeType]]:
    """(the line with the change, code) for each place of the source that can be changed."""
    tree = ast.parse(source)
    for node in list(ast.walk(tree)):
        if (change := changed(node)) is not None:
            attribute, value, other = change
            setattr(node, attribute, other)
            yield f"line {node.lineno}: {ast.unparse(node)}", compile(tree, "mutant", "exec")
            setattr(node, attribute, value)


def survives(exercise: Exercise, inputs: Any, expected: Any, code: CodeType) -> bool:
    """Whether an answer is right on every input."""
    space: dict[str, Any] = {"math": math, "__name__": "answer"}
    try:
        exec(code, space)
    except ArithmeticError:
        return False
    for (_, arguments), wanted in zip(inputs, expected, strict=True):
        try:
            found = json.loads(json.dumps(space[exercise.function](*copy.deepcopy(arguments))))
        except (ArithmeticError, ValueError) as error:
            found = None if wanted is None else str(error)
        except Exception:
            return False
        if not guide.same(found, wanted):
            return False
    return True


def outcomes(names: Collection[str]) -> dict[str, tuple[int, list[str]]]:
    """For each named exercise the number of its mutants, and those that survive."""

    def end(number: int, frame: object) -> None:
        raise TimeoutError

    found: dict[str, tuple[int, list[str]]] = {}
    old = signal.signal(signal.SIGVTALRM, end)
    try:
        for name in names:
            exercise = exercises()[name]
            inputs, expected = exercise.inputs(), exercise.outputs(exercise.solution)
            count, left = 0, list[str]()
            for what, code in mutants(exercise.solution):
                signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
                count += 1
                if survives(exercise, inputs, expected, code):
                    left.append(what)
                signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            found[name] = (count, left)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, old)
    return found
