"""The options of a command, from its parameters and from what its docstring says of them below `Args:`.

    name (-o, --output, FILE, 0 to 1): What it is [the default in words].
    name (float sets rows.epochs): The same, for an option that is no parameter.

In parentheses: a short flag besides `--name`, or the flags in its place; a name for the value, in capitals or brackets;
a range (`0 to 1`, `from 1`); `env NAME`; and `argument` for an argument that may be left out. What has no default and
no flag is an argument. A bool is a flag that is set or not. Parameters that the docstring does not name have typer's
own description (`Annotated`).

A command that returns data also has `--json`: then the data is printed, as one JSON document, and all that it prints
for people goes to standard error.

An option that `sets` a path is not a parameter: where it is given, its value is in the mapping `changes`, which the
command takes, under that path. So a command whose options are fields of a Spec has them once, in its docstring.
"""

import contextlib
import functools
import inspect
import json
import math
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

Command = Callable[..., Any]
TYPES: dict[str, Any] = {
    "int": int | None, "float": float | None, "text": str | None, "file": Path | None, "texts": list[str] | None,
}  # fmt: skip
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
_ENTRY = re.compile(r"(?m)^(\w+)(?: \(([^)]*)\))?:[ ]?((?:.*)(?:\n +.*)*)")
_RANGE = re.compile(r"(?:from )?(-?[\d.e-]+)?(?: ?to (-?[\d.e-]+))?")
_SETS = re.compile(r"(\w+) sets ([^\s,]+)(?:, )?")


class Failed(SystemExit):
    """A command that ends with status 1, and has data all the same."""

    def __init__(self, data: Any) -> None:
        super().__init__(1)
        self.data = data


def plain(data: Any) -> Any:
    """Data as JSON has it: dataclasses and arrays too; a number that is not finite is null."""
    if is_dataclass(data) and not isinstance(data, type):
        return {field.name: plain(getattr(data, field.name)) for field in fields(data)}
    if isinstance(data, Mapping):
        return {str(key): plain(value) for key, value in data.items()}
    if isinstance(data, (list, tuple, set, frozenset)):
        return [plain(value) for value in data]
    if type(data).__module__ in ("numpy", "torch"):
        return plain(data.tolist())
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    return data if data is None or isinstance(data, (str, int)) else str(data)


def documented(command: Command) -> Command:
    """A command as typer takes it; see the module."""
    summary, _, rest = inspect.cleandoc(command.__doc__ or "").partition("\n\nArgs:\n")
    signature = inspect.signature(command, eval_str=True)
    parameters, more, paths = dict(signature.parameters), dict[str, inspect.Parameter](), dict[str, str]()
    changes = parameters.pop("changes", None)
    returns = signature.return_annotation is not None
    for name, marks, help in _ENTRY.findall(inspect.cleandoc(rest)):
        if found := _SETS.match(marks):
            paths[name], marks = found[2], marks[found.end() :]
            own, into = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None), more
            own = own.replace(annotation=TYPES[found[1]])
        else:
            own, into = parameters[name], parameters
        kind: Any = own.annotation
        into[name] = own.replace(annotation=Annotated[kind, _described(own, marks, " ".join(help.split()))])

    @functools.wraps(command)
    def run(**given: Any) -> None:
        taken = {name: given.pop(name) for name in paths}
        if changes is not None:
            given["changes"] = {paths[name]: value for name, value in taken.items() if value not in (None, [])}
        if not (returns and given.pop("as_json")):
            command(**given)
            return
        found, status = None, 0
        with contextlib.redirect_stdout(sys.stderr):
            try:
                found = command(**given)
            except Failed as failed:
                found, status = failed.data, 1
        print(json.dumps(plain(found), ensure_ascii=False, indent=1))
        if status:
            raise SystemExit(status)

    if returns:
        more["as_json"] = inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=AsJson)
    every = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (*parameters.values(), *more.values())]
    run.__signature__ = signature.replace(parameters=every)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in every}
    run.__doc__ = summary
    return run


def _described(one: inspect.Parameter, marks: str, help: str) -> Any:
    """Typer's description of a parameter."""
    more: dict[str, Any] = {"help": help or None}
    flags, is_argument = [], False
    for mark in filter(None, marks.split(", ")):
        if found := _RANGE.fullmatch(mark):
            ends = zip(("min", "max"), found.groups(), strict=True)
            more |= {end: float(n) if "." in n or "e" in n else int(n) for end, n in ends if n is not None}
        elif mark.startswith("-"):
            flags.append(mark)
        elif mark == "argument":
            is_argument = True
        elif mark.startswith("env "):
            more["envvar"] = mark.removeprefix("env ")
        else:
            more["metavar"] = mark
    if is_argument or (not flags and one.default is inspect.Parameter.empty):
        return typer.Argument(**more)
    if not any(flag.startswith("--") for flag in flags) and not (flags and len(one.name) == 1):
        flags.append(f"--{one.name.rstrip('_').replace('_', '-')}")
    return typer.Option(*flags, **more)


def sharing(other: Callable[[], None]) -> Callable[[Command], Command]:
    """A command with the options that another docstring describes, besides its own."""

    def keep(command: Command) -> Command:
        own = inspect.cleandoc(command.__doc__ or "")
        shared = inspect.cleandoc(other.__doc__ or "").partition("\n\nArgs:\n")[2]
        command.__doc__ = own + ("\n" if "\n\nArgs:\n" in own else "\n\nArgs:\n") + shared
        return command

    return keep


class CommandGroup(typer.Typer):
    """A group whose commands are `documented`."""

    def command(self, name: str | None = None, **options: Any) -> Callable[..., Any]:
        add = super().command(name, **options)

        def keep(command: Command) -> Command:
            add(documented(command))
            return command

        return keep
