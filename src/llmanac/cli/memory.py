"""`llmanac memory`: the facts of a memory file, listed, edited and deleted by the user."""

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
        print(json.dumps([{"id": fact.id, "text": fact.text} for fact in facts]))
        return
    print_table("", ("id", "fact"), [(str(fact.id), fact.text) for fact in facts], left=(1,))
    print(f"Next: llmanac memory delete {file} ID")


@app.command("add")
def add_command(file: File, text: str) -> None:
    """Keep a fact; one of the form "KEY: VALUE" replaces that of the same key.

    Args:
        text: In your words.
    """
    from llmanac.retrieve.memory import Memory

    with Memory(file) as memory:
        [fact] = memory.remember(text).kept
    print(f"{for_terminal(f'{fact.id} {fact.text}')}\nNext: llmanac memory list {file}")


@app.command("edit")
def edit_command(file: File, id: int, text: str) -> None:
    """Give a fact another text.

    Args:
        id: Of `llmanac memory list`.
        text: The new text.
    """
    from llmanac.retrieve.memory import Memory

    with Memory(_there(file)) as memory:
        fact = memory.edit(id, text)
    print(f"{for_terminal(fact.text)}\nNext: llmanac memory list {file}")


@app.command("delete")
def delete_command(file: File, ids: list[int] | None = None, everything: bool = False) -> None:
    """Delete facts; they are overwritten in the file.

    Args:
        ids (argument, ID...): Of `llmanac memory list`.
        everything (--all): Delete every fact.
    """
    from llmanac.retrieve.memory import Memory

    if bool(ids) == everything:
        raise SpecError("ID: name the facts to delete, or give --all")
    with Memory(_there(file)) as memory:
        gone = memory.delete(memory.facts() if everything else [memory.fact(id) for id in ids or ()])
    names = for_terminal(", ".join(fact.text for fact in gone)) or "nothing"
    print(f"deleted: {names}\nNext: llmanac memory list {file}")
