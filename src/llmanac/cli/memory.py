"""`llmanac memory`: the facts of a memory file, listed, edited and deleted by the user."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from llmanac.cli.options import AsJson, group
from llmanac.core.errors import RequestError, SpecError, for_terminal

app = group("Facts that `llmanac chat --memory FILE` keeps.")
File = Annotated[Path, typer.Argument(metavar="FILE", help="The memory's file.")]


def _there(path: Path) -> Path:
    if not path.is_file():
        raise RequestError(f"{path}: no such file; `llmanac chat MODEL --memory {path}` makes it")
    return path


@app.command("list")
def list_command(file: File, as_json: AsJson = False) -> None:
    """Every fact, the newest last."""
    from llmanac.cli.tables import print_table
    from llmanac.retrieve.memory import Memory

    with Memory(_there(file)) as memory:
        facts = memory.facts()
    if as_json:
        print(json.dumps([{"id": f.id, "subject": f.subject, "value": f.value, "text": f.text} for f in facts]))
        return
    print_table("", ("id", "subject", "value"), [(str(f.id), f.subject, f.value) for f in facts], left=(1, 2))
    print(f"Next: llmanac memory delete {file} ID")


@app.command("edit")
def edit_command(file: File, id: int, value: str) -> None:
    """Give a fact another value.

    Args:
        id: Of `llmanac memory list`.
        value: The new value.
    """
    from llmanac.retrieve.memory import Memory

    with Memory(_there(file)) as memory:
        fact = memory.edit(id, value)
    print(f"{for_terminal(f'{fact.subject}: {fact.value}')}\nNext: llmanac memory list {file}")


@app.command("delete")
def delete_command(file: File, ids: list[int] | None = None, everything: bool = False) -> None:
    """Delete facts; they are overwritten in the file.

    Args:
        ids (argument, ID...): Of `llmanac memory list`.
        everything (--all): Delete every fact.
    """
    from llmanac.retrieve.memory import Change, Memory

    if bool(ids) == everything:
        raise SpecError("ID: name the facts to delete, or give --all")
    with Memory(_there(file)) as memory:
        gone = memory.facts() if everything else [memory.delete(id) for id in ids or ()]
        if everything:
            memory.apply(Change("clear"))
    names = for_terminal(", ".join(fact.subject for fact in gone)) or "nothing"
    print(f"deleted: {names}\nNext: llmanac memory list {file}")
