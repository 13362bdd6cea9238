"""All commands as the command line knows them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from llmanac import cli
from llmanac.cli import documented


def commands() -> Iterator[tuple[str, Any]]:
    def inside(app: typer.Typer, name: str) -> Iterator[tuple[str, Any]]:
        for one in app.registered_commands:
            yield f"{name} {one.name}", one.callback
        for group in app.registered_groups:
            assert group.typer_instance is not None
            yield from inside(group.typer_instance, f"{name} {group.name}")

    for name, place in cli.COMMANDS.items():
        yield name, documented.documented(cli._found(place))
    for name, place in cli.GROUPS.items():
        yield from inside(cli._found(place), name)
