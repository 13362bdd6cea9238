"""The names that a program may write for what is documented elsewhere, or not at all.

`asyncio.gather` is documented as `asyncio.tasks.gather`; `configparser.ConfigParser.read` is its base's;
`csv.DictReader` has no docstring. The standard library's own namespace says so (`_namespace.py`, in a process of its
own); of an installed package, which is never executed, the imports in its source files do.
"""

import ast
import functools
import json
import subprocess
import sys
import warnings
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from llmanac.core.errors import DataError
from llmanac.data.sources._docstrings import Entry, public_module, split_signature, tidy

SECONDS = 120  # for importing the standard library; it takes 2


@dataclass(frozen=True)
class Name:
    """A name that programs write and that is no entry's own.

    Attributes:
        entry: the documented name that it means; nothing where it has no docstring.
        signature: its own, for a name without docstring.
        relative: the nearest documented name of one without (a base's method, the class it belongs to), if any.
    """

    name: str
    entry: str = ""
    signature: str = ""
    relative: str = ""


@functools.cache
def _offered(modules: tuple[str, ...]) -> tuple[dict[str, str], ...]:
    program = Path(__file__).with_name("_namespace.py")
    done = subprocess.run(
        [sys.executable, "-I", str(program)], input=json.dumps(modules), capture_output=True, text=True, timeout=SECONDS
    )
    if done.returncode:
        raise DataError(f"{program}: {sys.executable} could not list its own modules' names: {done.stderr[-300:]}")
    return tuple(json.loads(done.stdout))


def library_names(modules: Iterable[str], entries: Iterable[Entry]) -> Iterator[Name]:
    """Names of the standard library's modules; one whose docstring was set as it was imported leads to where that
    docstring is (`os.path.splitext` has that of a helper)."""
    known = [entry for entry in entries if entry.kind != "topic"]
    documented = {entry.name for entry in known}
    same = {entry.doc: entry.name for entry in reversed(known)}
    for row in _offered(tuple(modules)):
        home = ".".join(filter(None, (public_module(row["module"]), row["qualname"])))
        if row["name"] in documented:
            continue
        if home not in documented and row["doc"]:
            home = same.get(split_signature(row["name"], "", tidy(row["doc"]))[1], "")
        if home in documented:
            yield Name(row["name"], home)
        elif row["signature"] or row["kind"] == "class":
            module, _, rest = row["relative"].partition(".")
            relative = next((n for n in (row["relative"], f"{public_module(module)}.{rest}") if n in documented), "")
            yield Name(row["name"], "", row["signature"], relative)


def package_names(files: Iterable[tuple[Path, str]], documented: Collection[str]) -> Iterator[Name]:
    """Names that a package's modules import from each other, one step after another, read without executing them."""
    imported = {name: home for path, module in files for name, home in _imports(path, module, documented)}
    for name in sorted(imported):
        home, seen = imported[name], {name}
        while home not in documented and home in imported and home not in seen:
            seen.add(home)
            home = imported[home]
        if name in documented or home not in documented:
            continue
        yield Name(name, home)
        inside = f"{home}."
        yield from (Name(name + n[len(home) :], n) for n in documented if n.startswith(inside))


def _imports(path: Path, module: str, documented: Collection[str]) -> Iterator[tuple[str, str]]:
    """`(name, home)` of every public name that a module's source imports from its own package."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_text("utf-8", "replace"))
    except (SyntaxError, ValueError, RecursionError):
        return
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in tree.body:
        if not isinstance(node, ast.ImportFrom):
            continue
        up = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        source = ".".join([*up, *filter(None, [node.module])])
        if source.partition(".")[0] != module.partition(".")[0]:
            continue
        for alias in node.names:
            names = [alias.name]
            if alias.name == "*":
                names = [n[len(source) + 1 :] for n in documented if n.startswith(f"{source}.")]
            for name in names:
                shown = alias.asname or name
                if "." not in name and not shown.startswith("_"):
                    yield f"{module}.{shown}", f"{source}.{name}"
