"""Where a chat template runs: Jinja's immutable sandbox, with a clock and with bounds on what it may make.

The sandbox keeps a template from our objects; it does not keep it from running for ever or from filling the memory. So
the template's tree is changed before it is compiled: every turn of a loop and everything that is written passes by
`Sandbox`, as calls, look-ups, filters and operators do, and each of them looks at the clock and at sizes.
"""

from __future__ import annotations

import functools
import re
import string
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from types import GeneratorType
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from llmanac.core.errors import TokenizerError

SECONDS, A_MESSAGE = 5.0, 0.05  # that a conversation may take to be rendered, and for each of its messages
LATE = f"it takes more than {SECONDS:g} s and {A_MESSAGE:g} s for each message"
LONGEST = 1 << 24  # characters or items that one value may have, and characters that may be written
WIDEST = 1 << 12  # a width, an indent, a precision
PRODUCT = 1 << 27  # of the sizes of two values, where one is repeated for each part of the other
BITS = 4096  # of a product of whole numbers
WIDE = frozenset(
    "batch center expandtabs indent ljust rjust round slice tojson truncate wordwrap zfill".split()  # noqa: SIM905
)
REPEATING = frozenset("% format format_map indent join replace translate wordwrap".split())  # noqa: SIM905
CHEAP = frozenset(  # filters that look at no item's text
    "count d default first last length list map reject rejectattr select selectattr".split()  # noqa: SIM905
)
_WIDE = re.compile(r"%[^%a-zA-Z]*(?:\d{5}|\*)")

_PASSED = (jinja2.runtime.Context, jinja2.Environment, nodes.EvalContext)  # what Jinja hands to some filters itself


class Sandbox(ImmutableSandboxedEnvironment):
    """The sandbox with a clock and bounds. Each thread has its own clock."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._running = threading.local()

    def begin(self, messages: int = 0) -> None:
        """Start the clock for a conversation of so many messages."""
        self._running.until = time.monotonic() + SECONDS + A_MESSAGE * messages

    def begin_text(self) -> None:
        """Start the count of what is written."""
        self._running.written = 0

    def compiled(self, source: str) -> jinja2.Template:
        """The template of a source, with its loops and its output watched."""
        self.begin()
        self.filters = {name: self._watched(name, function) for name, function in self.filters.items()}
        tree = _Watch().visit(self.parse(source))
        return jinja2.Template.from_code(self, self.compile(tree), self.make_globals(None))

    def tick(self) -> None:
        """One turn of a loop. Raises SecurityError when the time is over."""
        if time.monotonic() > getattr(self._running, "until", float("inf")):
            raise SecurityError(LATE)

    def refuse_late(self) -> None:
        """Raise TokenizerError when the time is over: what failed may have failed for that."""
        try:
            self.tick()
        except SecurityError as error:
            raise TokenizerError(f"chat template: {error}") from None

    def written(self, value: Any) -> Any:
        """What `{{ ... }}` writes, counted."""
        self._running.written = getattr(self._running, "written", 0) + max(8, _size(value))
        if self._running.written > LONGEST:
            raise SecurityError(f"it writes more than {LONGEST:,} characters")
        return value

    def joined(self, *values: Any) -> str:
        """`a ~ b`."""
        _refuse("`~`", sum(map(_size, values)))
        return "".join(map(str, values))

    def _watched(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)  # and with it what Jinja passes to the function
        def watched(*args: Any, **kwargs: Any) -> Any:
            self.tick()
            if name == "join":
                args = tuple(list(a) if isinstance(a, GeneratorType) else a for a in args)
            if name not in CHEAP:
                values = [v for v in (*args, *kwargs.values()) if not isinstance(v, _PASSED)]
                _refuse_arguments("%" if name == "format" else name, values)
            return _made(name, function(*args, **kwargs))

        return watched

    def call(self, context: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
        self.tick()
        name = getattr(function, "__name__", "")
        owner = getattr(getattr(function, "__wrapped__", function), "__self__", None)
        if isinstance(owner, (str, bytes)):
            _refuse_arguments(name, [owner, *args, *kwargs.values()])
        return _made(name, super().call(context, function, *args, **kwargs))

    def getattr(self, obj: Any, attribute: str) -> Any:
        self.tick()
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        self.tick()
        return super().getitem(obj, argument)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        self.tick()
        if operator == "%" and isinstance(left, str):
            _refuse_arguments("%", [left, *(right if isinstance(right, tuple) else (right,))])
        else:
            _refuse_operands(operator, left, right)
        return _made(operator, super().call_binop(context, operator, left, right))


class _Watch(NodeTransformer):
    """Puts a call into every turn of a loop, around everything that is written, and in the place of `~`."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        tick = _call(node, "tick")
        node.body.insert(0, nodes.ExprStmt(tick, lineno=node.lineno))
        if node.test is not None:
            node.test = nodes.And(nodes.Not(_call(node, "tick"), lineno=node.lineno), node.test, lineno=node.lineno)
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Output:
        self.generic_visit(node)
        node.nodes = [n if isinstance(n, nodes.TemplateData) else _call(n, "written", [n]) for n in node.nodes]
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Call:
        self.generic_visit(node)
        return _call(node, "joined", node.nodes)


def _call(node: nodes.Node, method: str, values: Iterable[nodes.Expr] = ()) -> nodes.Call:
    line = node.lineno
    return nodes.Call(nodes.EnvironmentAttribute(method, lineno=line), [*values], [], None, None, lineno=line)


def _size(value: Any) -> int:
    """How many items and characters a value holds; a list that holds another twice holds its items twice."""
    size, left = 0, [value]
    while left and size <= LONGEST:
        one = left.pop()
        if isinstance(one, (list, tuple, dict)):
            size += len(one)
            left.extend((*one, *one.values()) if isinstance(one, dict) else one)
        elif isinstance(one, (str, bytes, range)):
            size += len(one)
    return size


def _refuse(what: str, size: int) -> None:
    if size > LONGEST:
        raise SecurityError(f"{what} would make more than {LONGEST:,} characters or items")


def _made(what: str, value: Any) -> Any:
    if isinstance(value, (str, bytes, list, tuple)):
        _refuse(what, len(value))
    return value


def _refuse_operands(operator: str, left: Any, right: Any) -> None:
    whole = isinstance(left, int) and isinstance(right, int)
    if operator == "**":
        if not all(isinstance(v, (int, float)) for v in (left, right)) or abs(right) > 64 or abs(left) > 1 << 32:
            raise SecurityError("`**` of such values")
    elif operator == "*" and whole:
        if left.bit_length() + right.bit_length() > BITS:
            raise SecurityError("`*` of such values")
    elif operator == "*":
        sized, times = (left, right) if isinstance(right, int) else (right, left)
        if isinstance(times, int) and hasattr(sized, "__len__"):
            _refuse("`*`", len(sized) * times)
    elif operator == "+" and hasattr(left, "__len__") and hasattr(right, "__len__"):
        _refuse("`+`", len(left) + len(right))


def _refuse_arguments(name: str, values: Sequence[Any]) -> None:
    """Hold the arguments of a filter or of a text's method, its value first, to what they may make of each other."""
    sizes = [_size(value) for value in values]
    _refuse(name, max(sizes))
    if name == "replace":
        sizes[1:2] = []  # what is looked for
    most = sorted([1, 1, *sizes])
    if name in WIDE:
        width = max((abs(value) for value in values[1:] if isinstance(value, int)), default=0)
        if width > WIDEST or width * most[-1] > PRODUCT:
            raise SecurityError(f"{name} of such a width")
    if name in REPEATING and most[-1] * most[-2] > PRODUCT:
        raise SecurityError(f"{name} of such long values")
    text = values[0] if isinstance(values[0], str) else ""
    wide = name == "%" and _WIDE.search(text) is not None
    if name in ("format", "format_map"):
        wide = any(spec and re.search(r"\d{5}|\{", spec) for _, _, spec, _ in string.Formatter().parse(text))
    if wide:
        raise SecurityError(f"{name} of such a width")
