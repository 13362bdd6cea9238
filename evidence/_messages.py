"""Real text that is at hand: Django's messages in a hundred languages, the standard library's documentation."""

from __future__ import annotations

import ast
import gettext
from collections import defaultdict
from collections.abc import Iterable, Iterator
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


CODES = "ar bg ca cs da de el en es et fa fi fr he hi hu id it ja ko lt lv nl pl pt ro ru sk sv th tr uk vi zh"
FOLDERS = {"zh_Hans": "zh", "pt_BR": "pt"}


def compiled(pattern: str) -> Iterator[tuple[Path, dict[str, str]]]:
    """The compiled catalogues whose path matches: English -> translation.

    Raises:
        ImportError: Django is not installed.
    """
    import django

    for path in sorted(Path(django.__file__).parent.rglob(pattern)):
        with open(path, "rb") as handle:
            yield path, gettext.GNUTranslations(handle)._catalog  # type: ignore[attr-defined]


def passages(size: int = 300) -> dict[str, list[str]]:
    """Pieces of about `size` characters of Django's messages, by language."""
    out: dict[str, list[str]] = defaultdict(list)
    english: set[str] = set()
    for path, catalogue in compiled("LC_MESSAGES/django.mo"):
        code = FOLDERS.get(path.parts[-3], path.parts[-3])
        pairs = [(k, v) for k, v in catalogue.items() if isinstance(k, str) and k and isinstance(v, str) and k != v]
        english |= {k for k, _ in pairs}
        if code in CODES.split():
            out[code] += pieces((v for _, v in pairs), size)
    out["en"] = pieces(sorted(english), size)
    return out


def pieces(lines: Iterable[str], size: int) -> list[str]:
    made, run = [], ""
    for line in lines:
        run += line + "\n"
        if len(run) >= size:
            made.append(run)
            run = ""
    return made


def bytes_of(texts: Iterable[str]) -> int:
    """UTF-8 bytes of texts."""
    return sum(len(text.encode("utf-8")) for text in texts)


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
