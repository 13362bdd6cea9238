"""Real text that is at hand: Django's messages in a hundred languages, the standard library's documentation."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from llmanac.core.spec import make_method
from llmanac.data.collect import collect


@cache
def messages(language: str) -> dict[str, str]:
    """English -> the language's text, of every catalogue.

    Raises:
        ImportError: Django is not installed.
    """
    import django

    root = Path(django.__file__).parent
    found: dict[str, str] = {}
    for path in sorted(root.rglob(f"locale/{language}/LC_MESSAGES/*.po")):
        for english, text in entries(path.read_text("utf-8")):
            found.setdefault(english, text)
    return found


def documentation() -> list[str]:
    """English: the help topics and docstrings of the standard library."""
    source = make_method("source", {"name": "python-docs"})
    return [document.text for document in collect(source, held_out=0.05).train]


def entries(text: str) -> Iterator[tuple[str, str]]:
    """`(msgid, msgstr)` of a .po file, both not empty; of plurals the first form; none that is marked fuzzy."""
    for block in text.split("\n\n"):
        parts: dict[str, str] = {}
        key = ""
        for line in block.splitlines():
            word, _, rest = line.partition(" ")
            if word in ("msgid", "msgstr", "msgstr[0]"):
                key = word.removesuffix("[0]")
                parts[key] = ast.literal_eval(rest)
            elif line.startswith('"') and key:
                parts[key] += ast.literal_eval(line)
            else:
                key = ""
        if parts.get("msgid") and parts.get("msgstr") and "#, fuzzy" not in block:
            yield parts["msgid"], parts["msgstr"]
