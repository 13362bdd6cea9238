"""Tables on the terminal. Commands import this module when they draw one: rich takes a while to load."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llmanac.core.errors import for_terminal


def make_table(
    title: str, heads: Sequence[str], rows: Iterable[Sequence[str]] = (), *, left: Collection[int] = (0,)
) -> Table:
    """A table of plain text; markup and what would control the terminal is escaped.

    Args:
        title: above the table; none if empty.
        left: the columns that are aligned left.
    """
    table = Table(title=_plain(title) or None, title_justify="left")
    for number, head in enumerate(heads):
        table.add_column(_plain(head), justify="left" if number in left else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(_plain, row))
    return table


def _plain(text: str) -> str:
    return escape(for_terminal(text))


def print_table(
    title: str, heads: Sequence[str], rows: Iterable[Sequence[str]], *, left: Collection[int] = (0,), least: int = 0
) -> None:
    """Draw `make_table` on standard output, at least `least` columns wide where that is no terminal."""
    console(least).print(make_table(title, heads, rows, left=left))


def console(least: int = 0) -> Console:
    """Standard output, at least `least` columns wide where it is no terminal."""
    found = Console()
    return found if found.is_terminal else Console(width=max(least, found.width))
