"""The documentation of a Python as a folder of documents: a file a module, a heading an entry.

    python -m llmanac.apps.docs_assistant.collect FOLDER

    # asyncio.tasks.gather(*coros_or_futures, return_exceptions=False) asyncio.gather

A heading has the entry's name with its signature, then names under which programs know it (re-exported, inherited).
A line of a docstring that would be taken for a heading, a fence or a ruler is indented.
"""

import argparse
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from llmanac.core import files
from llmanac.data.sources.python_docs import Entry, Name, Spec

OTHER_NAMES = 4  # of an entry, the shortest
TITLE = 400  # characters of a name with its signature
_MARKUP = re.compile(r"(?m)^(?=\s{0,3}(?:#{1,6}\s|`{3}|~{3}|[=\-~^]+\s*$))")


def public_names(names: Iterable[Name]) -> dict[str, list[str]]:
    """By the name of an entry, the others that programs write, the shortest first."""
    out: dict[str, list[str]] = defaultdict(list)
    for name in names:
        if name.entry and not any(part.startswith("_") for part in name.name.split(".")):
            out[name.entry].append(name.name)
    return {entry: sorted(others, key=lambda name: (len(name), name)) for entry, others in out.items()}


def title_of(entry: Entry, others: Sequence[str] = ()) -> str:
    """The heading of an entry."""
    if entry.kind == "topic":
        return f"topic {entry.name}"
    return " ".join([" ".join(f"{entry.name}{entry.signature}".split())[:TITLE], *others[:OTHER_NAMES]])


def name_of(heading: str) -> str:
    """The entry's name in its heading."""
    return re.split(r"[ (]", heading.removeprefix("topic "), maxsplit=1)[0]


def documents(entries: Iterable[Entry], names: Iterable[Name] = ()) -> dict[str, str]:
    """By file, the text of its entries; one with a private name is left out unless it has another one."""
    others, out = public_names(names), dict[str, list[str]]()
    for entry in entries:
        known = others.get(entry.name, [])
        if not entry.private or known:
            place = "topics" if entry.kind == "topic" else "library"
            text = _MARKUP.sub("    ", entry.doc)
            out.setdefault(f"{place}/{entry.module.removeprefix('topic ') or 'builtins'}.md", []).append(
                f"# {title_of(entry, known)}\n\n{text}\n"
            )
    return {file: "\n".join(parts) for file, parts in out.items()}


def collect(source: Any, folder: str | Path, without: Collection[str] = ()) -> Path:
    """Write the documentation of a `python-docs` source (`entries()` and `names()`) as files below a folder.

    Args:
        without: modules that are left out.
    """
    entries = [entry for entry in source.entries() if entry.module not in without]
    for name, text in documents(entries, source.names()).items():
        (place := Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
        files.write_text(place, text)
    return Path(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    print(collect(Spec(), parser.parse_args().folder))
