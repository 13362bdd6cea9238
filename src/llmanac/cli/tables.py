"""Tables on the terminal. Commands import this module when they draw one: rich takes a while to load."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llmanac.core.errors import for_terminal
from llmanac.core.pages import Section

STYLES = {  # of the classes of cells on pages
    "better": "green", "worse": "red", "equivalent": "cyan", "inconclusive": "yellow", "none": "yellow",
    "too few": "yellow", "loses text": "red", "failed": "red",
}  # fmt: skip


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


def print_page_table(table: Mapping[str, Any], title: str = "", to: Console | None = None) -> None:
    """Draw a page's table (`core/pages.py`): one that is too wide as several, all with the first column."""
    to, shown = to or console(), [0]
    for column in range(1, len(table["head"])):
        if (
            len(shown) > 1
            and to.measure(_drawn(table, [*shown, column]), options=to.options.update(width=10_000)).maximum > to.width
        ):
            to.print(_drawn(table, shown, title))
            title, shown = "", [0]
        shown.append(column)
    to.print(_drawn(table, shown, title))


def print_section(section: Section, title: str = "", to: Console | None = None) -> None:
    """Print a section of a page: its tables under its title, and what it says below them."""
    for table in section.tables:
        print_page_table(table, title or section.title, to)
    for said in section.paragraphs:
        print(for_terminal(said))


def _drawn(table: Mapping[str, Any], columns: Sequence[int], title: str = "") -> Table:
    """Some columns of a page's table; a row has the style of its first cell with a class."""
    drawn = make_table(title, [table["head"][column] for column in columns])
    for row in table["rows"]:
        words = [STYLES.get(cell["word"], "") for cell in row["cells"] if cell["word"]]
        texts = (_plain(row["cells"][column]["text"]) for column in columns)
        drawn.add_row(*texts, style=words[0] if words else "bold" if row["base"] else "")
    return drawn


def console(least: int = 0) -> Console:
    """Standard output, at least `least` columns wide where it is no terminal."""
    found = Console(emoji=False)  # `:b:` in a user's text is no picture
    return found if found.is_terminal else Console(width=max(least, found.width), emoji=False)
