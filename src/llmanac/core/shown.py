"""Results that show themselves: as text where they are printed, as HTML in a notebook."""

import html
from collections.abc import Mapping, Sequence
from typing import Any


class Shown:
    """A result with tables. A dataclass that derives from it is declared with `repr=False`."""

    def title(self) -> str:
        """What stands above the tables."""
        return type(self).__name__

    def tables(self) -> Sequence[Mapping[str, Any]]:
        """Tables as `core/pages.py` makes them, the most important one first."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return "\n\n".join([self.title(), *map(text_table, self.tables())])

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self.title())}</p>{''.join(map(html_table, self.tables()))}"


def _cells(table: Mapping[str, Any]) -> list[list[str]]:
    return [[cell["text"] for cell in row["cells"]] for row in table["rows"]]


def text_table(table: Mapping[str, Any]) -> str:
    """A page's table as lines of text: the first column to the left, the others to the right."""
    rows = [list(table["head"]), *_cells(table)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            text.rjust(width) if column else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join(lines if any(table["head"]) else lines[1:])


def html_table(table: Mapping[str, Any]) -> str:
    """A page's table as HTML; every text is escaped."""

    def row(name: str, texts: Sequence[str]) -> str:
        return f"<tr>{''.join(f'<{name}>{html.escape(text)}</{name}>' for text in texts)}</tr>"

    return f"<table>{row('th', table['head'])}{''.join(row('td', texts) for texts in _cells(table))}</table>"
