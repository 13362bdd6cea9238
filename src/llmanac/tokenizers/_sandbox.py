"""Where a chat template runs: Jinja's immutable sandbox, with a clock and with bounds on what it may make.

Jinja's sandbox keeps a template from our objects; it does not keep it from running for ever or from filling the memory.
So the template's tree is changed before it is compiled: turns of loops, output, lists, slices, comparisons and `~` pass
by `Sandbox`, as calls, look-ups, filters, tests and operators do. Each looks at the clock; each adds the size of what
it made to one sum, which is bounded; and what could make much at once is refused by the sizes of what it is given. No
value nests into itself more than a value may hold in all, so that whatever compares, hashes or writes one ends.
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
LONGEST = 1 << 24  # characters and items that one value may hold, and characters that may be written
MADE = 1 << 27  # characters and items that all values together may hold that are made for one text
WIDEST = 1 << 12  # a width, an indent, a precision
DEEPEST = 200  # of lists in lists
BITS = 4096  # of a product of whole numbers
NEEDLESS = ("urlize", "pprint", "xmlattr", "wordwrap", "random")  # slow filters that no conversation needs
_WIDTHS = frozenset(
    "batch center expandtabs indent ljust rjust round slice tojson truncate zfill".split()  # noqa: SIM905
)
_WIDE = re.compile(r"%[^%a-zA-Z]*(?:\d{5}|\*)")
_PASSED = (jinja2.runtime.Context, jinja2.Environment, nodes.EvalContext)  # what Jinja hands to some filters itself


class Sandbox(ImmutableSandboxedEnvironment):
    """The sandbox with a clock and bounds. Each thread has its own clock and its own sums."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._running = threading.local()
        del self.globals["lipsum"]
        for name in NEEDLESS:
            del self.filters[name]

    def begin(self, messages: int = 0) -> None:
        """Start the clock for a conversation of so many messages."""
        self._running.until = time.monotonic() + SECONDS + A_MESSAGE * messages
        self.begin_text()

    def begin_text(self) -> None:
        """Start the sums of what is made and written."""
        self._running.made = self._running.written = 0

    def compiled(self, source: str) -> jinja2.Template:
        """The template of a source, with what it does watched."""
        self.begin()
        self.filters = {name: self._watched(name, function) for name, function in self.filters.items()}
        tests: Iterable[tuple[str, Any]] = self.tests.items()
        self.tests = {name: self._watched(name, function) for name, function in tests}
        tree = _Watch().visit(self.parse(source))
        return jinja2.Template.from_code(self, self.compile(tree), self.make_globals(None))

    def tick(self) -> None:
        """Look at the clock. Raises SecurityError when the time is over."""
        if time.monotonic() > getattr(self._running, "until", float("inf")):
            raise SecurityError(LATE)

    def refuse_late(self) -> None:
        """Raise TokenizerError when the time is over: what failed may have failed for that."""
        try:
            self.tick()
        except SecurityError as error:
            raise TokenizerError(f"chat template: {error}") from None

    def written(self, value: Any) -> Any:
        """What `{{ ... }}` writes."""
        self.written_text(max(8, _size(value)))
        return value

    def written_text(self, length: int) -> None:
        """So many characters are written."""
        self.tick()
        self._running.written = getattr(self._running, "written", 0) + length
        if self._running.written > LONGEST:
            raise SecurityError(f"it writes more than {LONGEST:,} characters")

    def made(self, value: Any) -> Any:
        """A value that was just made: counted, and refused where it holds too much."""
        self.tick()
        if isinstance(value, (str, bytes, list, tuple, dict)):
            if _size(value) > LONGEST:
                raise SecurityError(f"a value holds more than {LONGEST:,} characters and items, or lists too deep")
            self._running.made = getattr(self._running, "made", 0) + len(value)
            if self._running.made > MADE:
                raise SecurityError(f"it makes values of more than {MADE:,} characters and items")
        return value

    def joined(self, *values: Any) -> Any:
        """`a ~ b`."""
        _refuse("`~`", sum(map(_size, values)))
        return self.made("".join(map(str, values)))

    def _watched(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)  # and with it what Jinja passes to the function
        def watched(*args: Any, **kwargs: Any) -> Any:
            self.tick()
            args = self._joinable(name, args)
            values = [v for v in (*args, *kwargs.values()) if not isinstance(v, _PASSED)]
            _refuse_arguments("%" if name == "format" else name, values)
            return self.made(function(*args, **kwargs))

        return watched

    def _joinable(self, name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments of `join` with its items counted: a generator tells no size."""
        if name != "join":
            return args
        return tuple(self.made(list(arg)) if isinstance(arg, GeneratorType) else arg for arg in args)

    def call(self, context: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
        self.tick()
        name = getattr(function, "__name__", "")
        owner = getattr(getattr(function, "__wrapped__", function), "__self__", None)
        if isinstance(owner, (int, float, bytes)):
            raise SecurityError(f"{name} of a number or of bytes")
        if isinstance(owner, str):
            args = self._joinable(name, args)
            _refuse_arguments(name, [owner, *args, *kwargs.values()])
        made = super().call(context, function, *args, **kwargs)
        if isinstance(owner, str) and isinstance(made, (list, tuple)):  # of a split
            for part in made:
                self.made(part)
        return self.made(made)

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
        return self.made(super().call_binop(context, operator, left, right))


class _Watch(NodeTransformer):
    """Puts the sandbox's methods into a tree: `tick` where time passes, `made` and `written` around values."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_call(node, "tick"), lineno=node.lineno))
        if node.test is not None:
            node.test = nodes.And(nodes.Not(_call(node, "tick"), lineno=node.lineno), node.test, lineno=node.lineno)
        return node

    def visit_Output(self, node: nodes.Output) -> list[nodes.Node]:
        self.generic_visit(node)
        length = sum(len(n.data) for n in node.nodes if isinstance(n, nodes.TemplateData))
        count = _call(node, "written_text", [nodes.Const(length, lineno=node.lineno)])
        node.nodes = [n if isinstance(n, nodes.TemplateData) else _call(n, "written", [n]) for n in node.nodes]
        return [nodes.ExprStmt(count, lineno=node.lineno), node] if length else [node]

    def visit_Concat(self, node: nodes.Concat) -> nodes.Call:
        self.generic_visit(node)
        return _call(node, "joined", node.nodes)

    def _made(self, node: nodes.Expr) -> nodes.Expr:
        self.generic_visit(node)
        return node if getattr(node, "ctx", "load") == "store" else _call(node, "made", [node])

    visit_List = visit_Tuple = visit_Dict = visit_Compare = _made

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:
        # a slice does not pass by the environment's getitem
        if isinstance(node.arg, nodes.Slice):
            return self._made(node)
        self.generic_visit(node)
        return node


def _call(node: nodes.Node, method: str, values: Iterable[nodes.Expr] = ()) -> nodes.Call:
    line = node.lineno
    return nodes.Call(nodes.EnvironmentAttribute(method, lineno=line), [*values], [], None, None, lineno=line)


def _size(value: Any) -> int:
    """How many items and characters a value holds; a list that holds another twice holds its items twice."""
    if not isinstance(value, (list, tuple, dict)):
        return len(value) if isinstance(value, (str, bytes, range)) else 0
    size, level = 0, [value]
    for _ in range(DEEPEST):
        below: list[Any] = []
        for one in level:
            size += len(one) if isinstance(one, (list, tuple, dict, str, bytes, range)) else 0
            if size > LONGEST:
                return size
            if isinstance(one, (list, tuple, dict)):
                below.extend((*one, *one.values()) if isinstance(one, dict) else one)
        if not below:
            return size
        level = below
    return LONGEST + 1


def _refuse(what: str, size: int) -> None:
    if size > LONGEST:
        raise SecurityError(f"{what} would make more than {LONGEST:,} characters and items")


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
        if isinstance(times, int):
            _refuse("`*`", _size(sized) * times)
    elif operator == "+":
        _refuse("`+`", _size(left) + _size(right))


def _refuse_arguments(name: str, values: Sequence[Any]) -> None:
    """Hold the arguments of a filter or of a text's method, its value first, to what they may make of each other."""
    value, given = values[0], values[1:]
    text = value if isinstance(value, str) else ""
    texts = [v for v in given if isinstance(v, str)]
    width = max((abs(v) for v in given if isinstance(v, int)), default=0)
    if name in _WIDTHS and width > WIDEST:
        raise SecurityError(f"{name} of such a width")
    if name in ("indent", "expandtabs"):
        _refuse(name, len(text) + (text.count("\n") + text.count("\t")) * max([width, *map(len, texts)]))
    elif name == "tojson":
        _refuse(name, _size(value) * (1 + max([width, *map(len, texts)])))
    elif name == "replace" and len(texts) > 1:
        most = min((v for v in given if isinstance(v, int) and v >= 0), default=len(text) + 1)
        _refuse(name, len(text) + max(min(most, text.count(a)) * len(b) for a, b in (texts[:2], texts[1::-1])))
    elif name == "join":
        items, between = (given[0], value) if text and given else (value, "".join(texts))
        _refuse(name, _size(items) + (len(items) if hasattr(items, "__len__") else 0) * len(str(between)))
    elif name == "translate":
        _refuse(name, len(text) * max(1, *map(_size, given)) if given else 0)
    elif name in ("%", "format", "format_map"):
        _refuse(name, len(text) + max(text.count("%"), text.count("{")) * max([8, *map(_size, given)]))
        if _is_wide(name, text):
            raise SecurityError(f"{name} of such a width")


def _is_wide(name: str, text: str) -> bool:
    """Whether a format asks for a width that is large, or that another value gives."""
    if name == "%":
        return _WIDE.search(text.replace("%%", "")) is not None
    fields = string.Formatter().parse(text)
    return any(spec and re.search(r"\d{5}|\{", spec) for _, _, spec, _ in fields)
