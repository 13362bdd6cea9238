"""Real text in a hundred languages: the messages of Django's gettext catalogues, which its wheel carries."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path


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
