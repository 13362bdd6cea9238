"""Command-line options that several commands have, and such as take several values after one flag."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperCommand

Column = Annotated[str, typer.Option(help="Column of a table that holds the text.")]
Include = Annotated[
    list[str] | None, typer.Option(metavar="PATTERN", help="Of folders only such files, e.g. '*.md'; repeatable.")
]


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
