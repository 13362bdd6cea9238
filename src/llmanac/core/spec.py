"""Specs: frozen data that builds one component, and the one grammar that patches a tree of them.

A Spec is a frozen, keyword-only dataclass. A tree of Specs goes to plain data with `dump`, comes back with `make`, and
changes with `patch`: the same `path=value` pairs serve TOML recipes, `-s` flags and the arms of a comparison.
Every error names the path of the field and the nearest right name.
"""

import dataclasses
import json
import math
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self, TypeVar

from llmanac.core import registry
from llmanac.core.errors import SpecError, nearest, shown
from llmanac.core.ranges import Range

MOST = (1 << 63) - 1  # the largest absolute value of an integer
S = TypeVar("S", bound="Spec")


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Plain, hashable data that describes one component; subclasses add at most 12 fields and a `build(**dims)`.

    `kind` is set by the base Spec of a kind; a concrete Spec's name is the name of its file. `renamed` maps the
    fields' former names to those of today: files and patches that use them are still read. `ranges` says which
    numbers a field may hold, and each item of a tuple; None is in every range. A subclass has its base's ranges too.
    """

    kind: ClassVar[str] = ""
    renamed: ClassVar[Mapping[str, str]] = {}
    ranges: ClassVar[Mapping[str, Range]] = {}

    def __init_subclass__(cls) -> None:
        cls.ranges = {**cls.__base__.ranges, **cls.ranges}  # type: ignore[union-attr]

    def __post_init__(self) -> None:
        """Raises SpecError for a number that is not in its range. A subclass that checks more calls this first."""
        for name, range in self.ranges.items():
            value = getattr(self, name)
            for one in value if isinstance(value, tuple) else (value,):
                if one is not None and one not in range:
                    raise SpecError(f"{name}: {one} must be {range}")

    @property
    def name(self) -> str:
        """The method's name: its file's, with hyphens."""
        return type(self).__module__.rpartition(".")[2].replace("_", "-")

    @classmethod
    def from_data(cls, data: Mapping[str, Any], path: str = "") -> Self:
        """The Spec with these fields as plain data. Raises SpecError that names the field, below `path`."""
        hints = _hints(cls)
        for old, new in cls.renamed.items():
            if old in data and new in data:
                raise SpecError(f"{_join(path, old)}: is the former name of {new}, which is set too")
        data = {cls.renamed.get(key, key): value for key, value in data.items()}
        for key in data:
            _check_field(key, hints, path)
        values = {k: make(hints[k], v, _join(path, k)) for k, v in data.items()}
        needed = [f.name for f in fields(cls) if f.init and f.default is f.default_factory is dataclasses.MISSING]
        if missing := [name for name in needed if name not in values]:
            example = "{" + ", ".join(f"{name} = ..." for name in needed) + "}"
            raise SpecError(f"{path or cls.__name__}: {' and '.join(missing)} must be set too, as in {example}")
        try:
            return cls(**values)
        except SpecError as error:
            raise _below(error, hints, path) from None

    def build(self, *args: Any, **dims: Any) -> Any:
        """Build the component. Dimensions come from the parent, so a child cannot disagree with it."""
        hint = "; llmanac.train_tokenizer trains one" if self.kind == "tokenizer" else ""
        raise SpecError(f"{self.kind}/{self.name}: describes data only; it has nothing to build{hint}")


_HINTS: dict[type, dict[str, Any]] = {}


def _hints(cls: type[Spec]) -> dict[str, Any]:
    """The resolved types of a Spec's fields (kept: resolving annotations is slow)."""
    if cls not in _HINTS:
        names = {f.name for f in fields(cls)}
        _HINTS[cls] = {k: v for k, v in typing.get_type_hints(cls).items() if k in names}
    return _HINTS[cls]


def kinds_of(cls: type[Spec], field: str) -> set[str]:
    """The kinds of method that a field may hold, also where it is unset by default."""
    hint = _hints(cls)[field]
    parts = typing.get_args(hint) or (hint,)
    return {part.kind for part in parts if isinstance(part, type) and issubclass(part, Spec) and part.kind}


def _find(kind: str, name: str, path: str) -> registry.Method:
    try:
        return registry.find(kind, name)
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from None


def make_method(kind: str, value: Mapping[str, Any] | str, path: str = "") -> Any:
    """`{"name": "rope", "theta": 5e5}` or `"rope"` -> the Spec of that method."""
    data = {"name": value} if isinstance(value, str) else dict(value)
    name = data.pop("name", None)
    if not isinstance(name, str):
        raise SpecError(f"{path or kind}: needs a `name` (known: {', '.join(registry.methods(kind))})")
    method = _find(kind, name, path or kind)
    return method.module().Spec.from_data({**method.defaults, **data}, path)


def _check_field(key: str, hints: Mapping[str, Any], path: str) -> None:
    if key not in hints:
        has = ", ".join(sorted(hints)) or "no fields"
        raise SpecError(f"{_join(path, key[:60])}: no such field{nearest(key, hints)} (has: {has})")


def _below(error: SpecError, fields: typing.Collection[str], path: str) -> SpecError:
    """The error of a Spec's own check, with the path of the Spec before the field that it names."""
    named = error.field is not None and error.field.partition(".")[0] in fields
    return SpecError(_join(path, error) if named else f"{path}: {error}" if path else error)


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def make(hint: Any, value: Any, path: str = "") -> Any:
    """Turn TOML, JSON or command-line data into the typed value that `hint` asks for.

    Raises:
        SpecError: the value does not fit; the message starts with `path`.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _make_union([a for a in args if a is not type(None)], value, path)
    if origin is tuple:
        if isinstance(value, str) and hasattr(args[0], "from_text"):
            value = args[0].from_text(value, path)
        if not isinstance(value, (list, tuple)):
            raise SpecError(f"{path}: expected a list, got {type(value).__name__} {shown(value)}")
        return tuple(make(args[0], v, _join(path, i)) for i, v in enumerate(value))
    if origin is typing.Literal:
        if value not in args:
            near = nearest(value, [str(a) for a in args]) if isinstance(value, str) else ""
            raise SpecError(f"{path}: {shown(value)} is not one of {', '.join(map(repr, args))}{near}")
        return value
    if isinstance(hint, type) and issubclass(hint, Spec):
        return _make_spec(hint, value, path)
    if hint is float and type(value) is int and abs(value) <= MOST:
        return float(value)
    if isinstance(hint, type) and type(value) is not hint:
        raise SpecError(f"{path}: expected {hint.__name__}, got {type(value).__name__} {shown(value)}")
    if hint is float and not math.isfinite(value):
        raise SpecError(f"{path}: {value} is not finite")
    if hint is int and abs(value) > MOST:
        raise SpecError(f"{path}: {shown(value)} is more than 64 bits hold")
    return value


def _make_union(options: list[Any], value: Any, path: str) -> Any:
    failures = []
    for option in options:
        try:
            return make(option, value, path)
        except SpecError as error:
            failures.append(str(error))
    raise SpecError(failures[0])


def _make_spec(hint: type[Spec], value: Any, path: str) -> Spec:
    if isinstance(value, hint):
        return value
    if hint.kind and isinstance(value, (str, Mapping)):
        return make_method(hint.kind, value, path)
    if not isinstance(value, Mapping):
        raise SpecError(f"{path or hint.__name__}: expected a table, got {type(value).__name__} {shown(value)}")
    return hint.from_data(value, path)


def dump(value: Any) -> Any:
    """The inverse of `make`: plain data, with the method's name where there is one and without fields that are None."""
    if isinstance(value, Spec):
        data = {"name": value.name} if value.kind else {}
        own = {f.name: dump(getattr(value, f.name)) for f in fields(value)}
        return data | {k: v for k, v in own.items() if v is not None}
    if isinstance(value, (tuple, list)):
        return [dump(v) for v in value]
    return value


def patch(spec: S, changes: Mapping[str, Any], path: str = "") -> S:
    """Apply `{"model.blocks.*.mixer": "multi-query", "train.steps": 200}` in order; returns a new Spec.

    Naming another method keeps the fields that both methods have under one name and type. `*` means every item
    of a list.

    Raises:
        SpecError: an unknown path, or a value that does not fit it.
    """
    for dotted, value in changes.items():
        spec = _patch_one(spec, dotted.split("."), value, path)
    return spec


def _patch_one(node: Any, steps: list[str], value: Any, path: str) -> Any:
    step, rest = steps[0], steps[1:]
    here = _join(path, step)
    if isinstance(node, tuple):
        return _patch_list(node, step, rest, value, path)
    if not isinstance(node, Spec):
        raise SpecError(f"{path}: {type(node).__name__} has no fields to set ({step!r} asked for)")
    hints = _hints(type(node))
    if step == "name" and node.kind and not rest:
        return _rename(node, type(node), value, path)
    step = node.renamed.get(step, step)
    here = _join(path, step)
    _check_field(step, hints, path)
    old = getattr(node, step)
    if rest:
        if old is None:
            old = _default_of(hints[step], here, {rest[0]: value} if len(rest) == 1 else {})
        new = _patch_one(old, rest, value, here)
    else:
        new = _rename(old, hints[step], value, here)
    try:
        return dataclasses.replace(node, **{step: new})
    except SpecError as error:
        names_field = error.field is not None and error.field.partition(".")[0] == step
        raise SpecError(_join(path, error) if names_field else f"{here}: {error}") from None


def _default_of(hint: Any, path: str, given: Mapping[str, Any]) -> Any:
    options = [a for a in typing.get_args(hint) or (hint,) if isinstance(a, type) and issubclass(a, Spec)]
    if not options or options[0].kind:
        raise SpecError(f"{path}: is not set; set it to a method by name first")
    return options[0].from_data(given, path)


def _patch_list(node: tuple[Any, ...], step: str, rest: list[str], value: Any, path: str) -> tuple[Any, ...]:
    if step == "*":
        where = range(len(node))
    elif step.isdigit() and int(step) < len(node):
        where = range(int(step), int(step) + 1)
    else:
        raise SpecError(f"{_join(path, step)}: expected * or a number below {len(node)}")
    out = list(node)
    for i in where:
        here = _join(path, i)
        out[i] = _patch_one(node[i], rest, value, here) if rest else _rename(node[i], type(node[i]), value, here)
    return tuple(out)


def _rename(old: Any, hint: Any, value: Any, path: str) -> Any:
    """Set a field; when the value names another method of the old one's kind, keep the fields that both have."""
    if isinstance(old, Spec) and old.kind and isinstance(value, (str, Mapping)):
        data = {"name": value} if isinstance(value, str) else dict(value)
        data.setdefault("name", old.name)
        method = _find(old.kind, data["name"], path)
        cls = method.module().Spec
        data = {cls.renamed.get(key, key): value for key, value in data.items()}
        new_hints, old_hints = _hints(cls), _hints(type(old))
        kept = {k: getattr(old, k) for k, h in new_hints.items() if old_hints.get(k) == h}
        return make_method(old.kind, {**kept, **method.defaults, **data}, path)
    return make(hint, value, path)


def parse_patches(items: typing.Iterable[str]) -> dict[str, Any]:
    """`["train.lr=3e-4", "model.position=rope"]` -> a dict for `patch`; values are read as TOML, else as text.

    Raises:
        SpecError: an item without `=`.
    """
    out: dict[str, Any] = {}
    for item in items:
        key, equals, text = item.partition("=")
        if not equals or not key.strip():
            raise SpecError(f"-s {item!r}: expected path=value, for example -s train.steps=200")
        try:
            out[key.strip()] = tomllib.loads(f"v = {text}")["v"]
        except tomllib.TOMLDecodeError:
            out[key.strip()] = text
    return out


def diff(base: Spec, other: Spec) -> dict[str, tuple[Any, Any]]:
    """The leaves in which two Specs differ: `{path: (base value, other value)}`."""
    a, b = flatten(dump(base)), flatten(dump(other))
    return {k: (a.get(k), b.get(k)) for k in sorted(a.keys() | b.keys()) if a.get(k) != b.get(k)}


def flatten(data: Any, path: str = "") -> dict[str, Any]:
    """Nested plain data -> `{dotted path: leaf}`."""
    if isinstance(data, Mapping):
        items: typing.Iterable[tuple[Any, Any]] = data.items()
    elif isinstance(data, list) and any(isinstance(v, (Mapping, list)) for v in data):
        items = enumerate(data)
    else:
        return {path: data}
    out: dict[str, Any] = {}
    for key, value in items:
        out |= flatten(value, _join(path, key))
    return out


def to_toml(data: Mapping[str, Any], prefix: str = "") -> str:
    """Plain Spec data as TOML text: scalars first, then tables. Reads back with `tomllib` to the same data."""
    scalars, tables = [], []
    for key, value in data.items():
        name = f"{prefix}.{key}" if prefix else key
        if isinstance(value, Mapping):
            tables.append(f"\n[{name}]\n{to_toml(value, name)}")
        elif isinstance(value, list) and value and all(isinstance(v, Mapping) for v in value):
            tables += [f"\n[[{name}]]\n{to_toml(v, name)}" for v in value]
        else:
            scalars.append(f"{key} = {_toml_value(value)}\n")
    return "".join(scalars + tables)


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return "[" + ", ".join(_toml_value(v) for v in value) + "]"
    return repr(value)
