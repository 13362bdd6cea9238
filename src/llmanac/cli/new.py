"""`llmanac new method`: the project of a method of one's own."""

import shlex
from pathlib import Path

from llmanac.cli.options import group

app = group("A project of one's own: method.")


@app.callback()
def _new() -> None:
    """A group also with one command."""


@app.command("method")
def method_command(name: str, kind: str, like: str | None = None, output: Path | None = None) -> None:
    """Write the project of a package that adds a method; it works from the start, as a copy of one that is there.

    Args:
        name: The method's name, such as my-norm.
        kind (--kind): What it is, such as norm; `llmanac list` has the kinds.
        like: The method of the kind that it begins as [the first].
        output (-o): The new folder [llmanac-NAME].
    """
    from llmanac.core.new_method import write_project

    folder = output or Path(f"llmanac-{name}")
    for path in write_project(name, kind, folder, like):
        print(folder / path)
    print(f"Next: pip install -e {shlex.quote(str(folder))}, then llmanac show {kind}/{name}")
