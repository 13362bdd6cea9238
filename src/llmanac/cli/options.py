"""Options that several commands have, such as take several values after one flag, and how sizes are written."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from llmanac.core.errors import SpecError

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Column = Annotated[str, typer.Option(help="Column of a table that holds the text.")]
Include = Annotated[
    list[str] | None, typer.Option(metavar="PATTERN", help="Of folders only such files, e.g. '*.md'; repeatable.")
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite what is there already.")]
OnError = Annotated[
    str, typer.Option("--on-error", metavar="[fatal|skip]", help="A row that cannot be used: stop, or set it aside.")
]
MaxBytes = Annotated[str, typer.Option("--max-bytes", help="What one document may have, e.g. 50MB.")]
Patches = Annotated[
    list[str] | None, typer.Option("--set", "-s", metavar="PATH=VALUE", help="Patch, e.g. -s train.steps=200.")
]
SomeModel = Annotated[str, typer.Argument(help="A run's folder, a model's folder, or a hub model's name.")]
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def read_size(text: str, flag: str = "--memory") -> int:
    """`"2GB"`, `"500M"` or `"1000000"` as bytes. Raises SpecError for anything else."""
    bare = text.strip().lower().removesuffix("b")
    unit = bare[-1:] if bare[-1:] in _UNITS else ""
    try:
        size = float(bare.removesuffix(unit)) * _UNITS[unit]
        if 1 <= size < 1 << 60:
            return int(size)
    except ValueError:
        pass
    raise SpecError(f"{flag}: {text!r} is not a size; write for example 500MB or 2GB")


class SeveralValues(TyperCommand):
    """A command whose repeatable options go on to the next flag: `--train a b` is read as `--train a --train b`.

    Such a command takes no positional arguments. Give it as `cls` of a typer command.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        several = {name for option in self.params if getattr(option, "multiple", False) for name in option.opts}
        spread: list[str] = []
        flag, values = None, 0
        for argument in args:
            if argument.startswith("-") and argument != "-":
                flag, values = (argument if argument in several else None), 0
            elif flag is not None:
                values += 1
                if values > 1:
                    spread.append(flag)
            spread.append(argument)
        return super().parse_args(ctx, spread)
