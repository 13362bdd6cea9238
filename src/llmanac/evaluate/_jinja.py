"""Templates of prompts: Jinja's fields, filters, conditions and one level of loops over a row of data.

    Template("Question: {{question}}\\nAnswer:").text(row)        Expression("choices[answer|int]").value(row)

Templates may come with a file of somebody else, so they cannot take much time or memory: there are no assignments,
macros, imports, products or loops in loops; of a value's methods only some of text and tables may be called; the
result has a bounded length and a regular expression a bounded time. A field that a row lacks is an error.
"""

import ast
import contextlib
import functools
import json
from collections.abc import Callable, Iterator, Mapping
from types import BuiltinMethodType
from typing import Any

import jinja2
import regex
from jinja2 import meta, nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from llmanac.core.errors import DataError, SpecError, shown

MOST = 4 << 20  # characters of a prompt or of a value in it
SECONDS = 2.0  # of a regular expression on one text
_PARTS = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.Getattr, nodes.Getitem,
    nodes.Slice, nodes.Filter, nodes.Test, nodes.Concat, nodes.Add, nodes.Sub, nodes.List, nodes.Tuple, nodes.Dict,
    nodes.Pair, nodes.CondExpr, nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Neg, nodes.If,
    nodes.For, nodes.Call, nodes.Keyword,
)  # fmt: skip
_METHODS = {
    str: {
        "strip", "lstrip", "rstrip", "lower", "upper", "capitalize", "split", "splitlines", "startswith", "endswith",
        "replace", "find", "rfind", "index", "count", "isdigit",
    },
    dict: {"get", "keys", "values", "items"},
    list: {"index", "count"},
    tuple: {"index", "count"},
}  # fmt: skip
_FILTERS = (
    "join", "first", "last", "length", "count", "lower", "upper", "capitalize", "trim", "int", "float", "string",
    "list", "default", "d", "unique", "map", "select", "reject", "selectattr", "rejectattr", "sort", "reverse", "abs",
    "min", "max", "sum", "tojson", "items",
)  # fmt: skip


def _replace(text: Any, old: str, new: str, count: int = -1) -> str:
    text, old, new = str(text), str(old), str(new)
    times = text.count(old) if count < 0 else min(count, text.count(old))
    if len(text) + times * (len(new) - len(old)) > MOST:
        raise SpecError(f"replace: makes a text of more than {MOST:,} characters")
    return text.replace(old, new, times)


def _regex_replace(text: Any, pattern: str, new: str = "", count: int = 0) -> str:
    try:
        out: str = regex.sub(pattern, new, str(text), count=count, timeout=SECONDS)
    except regex.error as error:
        raise SpecError(f"regex_replace: {shown(pattern)} is not a regular expression ({error})") from None
    except TimeoutError:
        raise SpecError(f"regex_replace: {shown(pattern)} takes more than {SECONDS:g} s on one text") from None
    return out


def _table_rows(table: Any) -> list[dict[str, Any]]:
    """A table of columns as a list of rows; a list stays as it is."""
    if not isinstance(table, Mapping):
        return list(table or ())
    return [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]


def _spans(answer: Mapping[str, Any]) -> list[str]:
    """The spans of one annotation of DROP: its number, else its spans, else its date."""
    number, date = str(answer.get("number") or ""), answer.get("date") or {}
    if number:
        return [number]
    return list(answer.get("spans") or ()) or [
        " ".join(str(date.get(k) or "") for k in ("day", "month", "year")).strip()
    ]


def _numbers(values: Any) -> list[int]:
    """The numbers, from 0, of the values that are true."""
    return [number for number, value in enumerate(values) if value]


def _function_docs(functions: Any) -> str:
    """BFCL's functions as its prompts have them."""
    hint = " Note that the provided function is in Python 3 syntax."
    return json.dumps([{**one, "description": one["description"] + hint} for one in functions], indent=4)


def _lm_eval_target(value: Any, digits: bool = True) -> Any:
    """What lm-eval makes of a rendered `doc_to_target`: a number where there are choices, a list, else a text."""
    text = str(value)
    if digits and text.isascii() and text.isdigit():
        return int(text[:9])
    if text[:1] == "[" and text[-1:] == "]" and len(text) <= 4096:
        with contextlib.suppress(SyntaxError, ValueError, MemoryError, RecursionError):
            return ast.literal_eval(text)
    return text


def _lm_eval_gold(value: Any, choices: Any) -> Any:
    """The number of the right choice, or numbers; lm-eval counts a row without one as wrong, which is refused here."""
    if isinstance(value, list) and all(type(one) is int for one in value):
        return value
    if isinstance(value, str) and isinstance(choices, (list, tuple)) and value in choices:
        return choices.index(value)
    if not isinstance(value, int):
        raise SpecError(f"doc_to_target: {shown(value)} is neither one of the choices nor a number")
    return int(value)


def _lm_eval_text(value: Any, rendered: bool = False) -> str:
    """A prompt; a number, also a rendered one, chooses one of several prompts in lm-eval, which is not read."""
    if not isinstance(value, str) or (rendered and value.isdigit()):
        raise SpecError(f"{shown(value)} is not a prompt: for lm-eval a number chooses one of several")
    return value


class _Bounded(ImmutableSandboxedEnvironment):
    """Jinja without what may grow."""

    def __init__(self) -> None:
        super().__init__(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, cache_size=0)
        self.filters = {name: self.filters[name] for name in _FILTERS}
        self.filters |= {"replace": _replace, "regex_replace": _regex_replace, "rows": _table_rows, "spans": _spans,
                         "numbers": _numbers, "function_docs": _function_docs}  # fmt: skip
        self.filters |= {"lm_eval_target": _lm_eval_target, "lm_eval_gold": _lm_eval_gold}
        self.filters["lm_eval_text"] = _lm_eval_text
        self.globals.clear()

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return any(isinstance(obj, kind) and attr in names for kind, names in _METHODS.items())

    def wrap_str_format(self, value: Any) -> None:
        """`str.format` is a method like others: not allowed, since it may pad to any width."""

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(__obj, BuiltinMethodType) and __obj.__name__ == "replace" and isinstance(__obj.__self__, str):
            return _replace(__obj.__self__, *args, **kwargs)
        return super().call(__context, __obj, *args, **kwargs)


@functools.cache
def _environment() -> _Bounded:
    return _Bounded()


def _check(tree: nodes.Node, place: str) -> None:
    """Raises SpecError for a part of Jinja that is not read."""
    todo: list[tuple[nodes.Node, bool]] = [(tree, False)]
    while todo:
        node, inside = todo.pop()
        loop = isinstance(node, nodes.For)
        if not isinstance(node, _PARTS) or (isinstance(node, nodes.For) and (inside or node.recursive)):
            what = "a loop in a loop" if loop else type(node).__name__
            raise SpecError(f"{place}: {what} is not read in a template; fields, filters, conditions and loops are")
        if isinstance(node, nodes.Filter) and node.name not in _environment().filters:
            raise SpecError(
                f"{place}: the filter {node.name!r} is not known (known: {', '.join(_environment().filters)})"
            )
        todo += [(child, inside or loop) for child in node.iter_child_nodes()]


class RowTemplate:
    """A text with fields. Raises SpecError that names `place` where it cannot be read."""

    def __init__(self, source: str, place: str = "template") -> None:
        self.source, self.place = source, place
        self._made = None if "{" not in source else _reading(place, self._parse)

    def _parse(self) -> jinja2.Template:
        _check(_environment().parse(self.source), self.place)
        return _environment().from_string(self.source)

    @property
    def names(self) -> list[str]:
        """The fields that it reads."""
        return sorted(meta.find_undeclared_variables(_environment().parse(self.source)))

    def text(self, row: Mapping[str, Any]) -> str:
        """The text for a row. Raises DataError for a field that is missing or a text that is too long."""
        return self.source if self._made is None else _applied(self.place, self._joined, row)

    def _joined(self, row: Mapping[str, Any]) -> str:
        parts, size = [], 0
        assert self._made is not None
        for part in self._made.generate(row):
            parts.append(part)
            size += len(part)
            if size > MOST:
                raise SpecError(f"makes a text of more than {MOST:,} characters")
        return "".join(parts)


class Expression:
    """A value of a row: Jinja's expression, as in `choices[answer|int]`."""

    def __init__(self, source: str, place: str = "expression") -> None:
        self.source, self.place = source, place
        self._made: Callable[..., Any] = _reading(place, self._parse)

    def _parse(self) -> Callable[..., Any]:
        parser = Parser(_environment(), self.source, state="variable")
        _check(parser.parse_expression(), self.place)
        return _environment().compile_expression(self.source, undefined_to_none=False)

    def value(self, row: Mapping[str, Any]) -> Any:
        """The value for a row, a list where Jinja gives a generator. Raises DataError for a field that is missing."""
        found = _applied(self.place, self._made, row)
        if isinstance(found, jinja2.Undefined):
            raise DataError(f"{self.place}: {self.source[:80]!r} has no value; the row has: {', '.join(map(str, row))}")
        return list(found) if isinstance(found, Iterator) else found


def _reading(place: str, parse: Callable[[], Any]) -> Any:
    try:
        return parse()
    except jinja2.TemplateSyntaxError as error:
        raise SpecError(f"{place}: not a template ({error.message}, line {error.lineno})") from None
    except RecursionError:
        raise SpecError(f"{place}: nested too deeply") from None


def _applied(place: str, made: Callable[[Any], Any], row: Mapping[str, Any]) -> Any:
    try:
        return made(row)
    except jinja2.UndefinedError as error:
        raise DataError(f"{place}: {error.message}; the row has: {', '.join(map(str, row))}"[:400]) from None
    except (SpecError, jinja2.TemplateError) as error:
        raise DataError(f"{place}: {error}") from None
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        raise DataError(f"{place}: cannot be computed for this row ({type(error).__name__}: {error})"[:400]) from None
