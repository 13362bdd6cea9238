"""Function calls in an answer, compared with the right ones as the Berkeley leaderboard does (BFCL, by syntax trees).

    [weather(city="Rome", days=3), weather(city="Oslo")]

A call is right where it has the expected name, every required parameter and no unknown one, and each value is one of
those allowed: an int stands for a float, texts are compared without case, spaces and `,./-_*^`, a tuple is a list, of a
table each value has its own allowed ones, and a parameter that may be missing allows "". The order of several calls is
free. Nothing of an answer is run. Patil et al. 2025, Berkeley Function Calling Leaderboard.
"""

import ast
import operator
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from llmanac.core.errors import DataError, shown

MOST = 20_000  # characters of an answer that is read as calls
TYPES: dict[str, type] = {"string": str, "integer": int, "float": float, "boolean": bool, "array": list, "tuple": list,
                          "dict": dict, "any": str}  # fmt: skip
OPERATIONS: dict[type, Any] = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
                               ast.Div: operator.truediv}  # fmt: skip
LARGEST = 1e15  # of numbers that are computed with
_SKIPPED = re.compile(r"[ ,./\-_*^]")

Call = dict[str, dict[Any, Any]]  # a name and its parameters


def calls_in(answer: str) -> list[Call] | None:
    """The calls that an answer consists of, with or without brackets around them; None where it is anything else."""
    text = answer.strip("`\n ")
    if len(text) > MOST:
        return None
    text = (text if text.startswith("[") else "[" + text) + ("" if text.endswith("]") else "]")
    try:
        with warnings.catch_warnings(action="ignore"):  # of escapes that Python does not know
            body = ast.parse(text.strip().strip("'"), mode="eval").body
        parts: Any = body.elts if isinstance(body, ast.List | ast.Tuple | ast.Set) else [body]
        if not all(isinstance(part, ast.Call) for part in parts):
            return None
        return [_value(part) if part.keywords else {ast.unparse(part.func): {}} for part in parts]
    except (SyntaxError, ValueError, RecursionError, MemoryError, TypeError):
        return None


def _value(node: ast.AST) -> Any:
    """A literal's value; a call with parameters as its name and them; what else there is as its text."""
    match node:
        case ast.Constant():
            return "..." if node.value is Ellipsis else node.value
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=ast.Constant(value=int() | float())):
            return ast.literal_eval(node)
        case ast.List():
            return [_value(one) for one in node.elts]
        case ast.Tuple():
            return tuple(_value(one) for one in node.elts)
        case ast.Dict():
            return {_value(key): _value(one) for key, one in zip(node.keys, node.values, strict=True) if key}
        case ast.BinOp():
            sides = [_value(node.left), _value(node.right)]
            small = all(isinstance(side, (int, float)) and abs(side) < LARGEST for side in sides)
            if small and type(node.op) in OPERATIONS and (sides[1] or not isinstance(node.op, ast.Div)):
                return OPERATIONS[type(node.op)](*sides)
        case ast.Call(keywords=[_, *_]):
            return {ast.unparse(node.func): {one.arg: _value(one.value) for one in node.keywords}}
    return ast.unparse(node)


def checked(row: Mapping[str, Any]) -> tuple[dict[str, Any], list[Call]]:
    """`(functions by name, right calls)` of a row. Raises DataError for what cannot be compared; it names the field."""
    functions: Any = row.get("function") or ()
    truth: Any = row.get("truth")
    try:
        known = {one["name"]: one["parameters"] for one in functions}
        if not all(isinstance(parameters.get("required") or [], list) for parameters in known.values()):
            raise TypeError("required is no list")
        for one in (one for parameters in known.values() for one in parameters["properties"].values()):
            if TYPES[one["type"]] is list:
                TYPES[one["items"]["type"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"function: is not a list of parameters.properties with known types ({error!r})") from None
    good = isinstance(truth, list) and all(
        isinstance(one, dict) and len(one) == 1 and isinstance(fields := next(iter(one.values())), dict)
        and all(isinstance(allowed, list) for allowed in fields.values()) and set(one) <= set(known) for one in truth
    )  # fmt: skip
    if not good:
        raise DataError(f"truth: {shown(truth)} is not a list of calls of its functions with lists of allowed values")
    return known, list(truth)


def right_calls(row: Mapping[str, Any], calls: Sequence[Call] | None) -> bool:
    """Whether calls are the right ones of a row, which may be none at all."""
    known, truth = checked(row)
    left = list(calls or ())
    for one in truth:
        ((name, allowed),) = one.items()
        found = next((call for call in left if name in call and _right(call[name], known[name], allowed)), None)
        if found is None:
            return False
        left.remove(found)
    return not left


def _right(given: Mapping[Any, Any], parameters: Mapping[str, Any], allowed: Mapping[str, list[Any]]) -> bool:
    known = parameters["properties"]
    return (
        all(name in given for name in parameters.get("required") or ())
        and all(name in known and name in allowed and _allowed(value, known[name], allowed[name])
                for name, value in given.items())
        and all(name in given or "" in values for name, values in allowed.items())
    )  # fmt: skip


def _allowed(value: Any, schema: Mapping[str, Any], allowed: list[Any]) -> bool:
    kind = schema["type"]
    expected, inner = TYPES[kind], TYPES[schema["items"]["type"]] if TYPES[kind] is list else None
    if kind == "tuple" and isinstance(value, tuple):
        value = list(value)
    if kind == "float" and type(value) is int and abs(value) < LARGEST:
        value = float(value)
    fits = _fits(value, allowed, expected, inner)
    if fits == "variable":
        return value in allowed
    if fits == "wrong":
        return False
    if expected is dict or inner is dict:
        tables: list[Any] = [value] if expected is dict else value
        listed: list[Any] = [[one] for one in allowed if one != ""] if expected is dict else allowed
        return any(len(tables) == len(own) and all(map(_table, tables, own)) for own in listed)
    if expected is str:
        return _plain(value) in [_plain(one) for one in allowed if isinstance(one, str)]
    if expected is list:
        return list(map(_plain, value)) in [list(map(_plain, one)) for one in allowed if isinstance(one, (list, str))]
    return value in allowed


def _fits(value: Any, allowed: Any, expected: type, inner: type | None) -> str:
    """`value`, `variable` where the allowed values are of another type (a name in the place of a value), or `wrong`."""
    first = next((type(one) for one in allowed if one != ""), None)
    parts: list[Any] = value if isinstance(value, list) else []
    if type(value) is expected and (inner is None or any(
        not isinstance(one, list) or all(_fits(part, one, inner, None) != "wrong" for part in parts) for one in allowed
    )):  # fmt: skip
        return "value" if first in (None, expected) else "variable"
    return "variable" if first is type(value) else "wrong"


def _plain(value: Any) -> Any:
    return _SKIPPED.sub("", value).lower().replace("'", '"') if isinstance(value, str) else value


def _table(value: Any, allowed: Any) -> bool:
    return (
        isinstance(value, dict) and isinstance(allowed, dict)
        and all(key in allowed and _plain(one) in map(_plain, allowed[key]) for key, one in value.items())
        and all(key in value or "" in own for key, own in allowed.items())
    )  # fmt: skip
