"""The documentation that every Python carries: language topics, docstrings, and on request sources and packages.

Nothing is fetched. Topics come from `pydoc_data`; docstrings are read out of the standard library's files with `ast`,
without importing them, and from the live objects of compiled modules; an installed package is read the same way. One
module is one group of the split, and the private module that implements a public one belongs to it (`posix` to `os`).
"""

import functools
import importlib.metadata
import importlib.util
import platform
import re
import sysconfig
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Literal, cast

from llmanac.core.errors import DataError, SpecError, nearest
from llmanac.data.dedup import text_key
from llmanac.data.documents import Document
from llmanac.data.quarantine import Problems
from llmanac.data.sources import SourceSpec
from llmanac.data.sources._public import (
    Entry,
    Found,
    Name,
    compiled_modules,
    from_object,
    from_source,
    library_names,
    package_names,
    public_module,
    source_files,
    split_signature,
    tidy,
)

CARD = {
    "title": "The documentation of the Python on this machine",
    "aliases": {},
    "test": "tests/contracts/test_sources.py::test_python_docs_entries_match_the_live_objects",
}
LICENSE = "PSF-2.0"
_NOISE = re.compile(
    r"(See help\(type\(self\)\)|Initialize self|Return (self|repr\(self\)|str\(self\)|hash\(self\)|len\(self\)))"
)
_CALL = re.compile(r"(?<![\w.])([A-Za-z_][\w.]*)\(|\.([A-Za-z]\w*)\(")
_IMPORT = re.compile(r"^[ \t]*(?:from ([\w.]+) import ([^\n#]+)|import ([^\n#]+))", re.M)
Part = Literal["topics", "docstrings", "sources"]


@dataclass(frozen=True, kw_only=True)
class Spec(SourceSpec):
    """What to take.

    Attributes:
        parts: `topics` (the language reference), `docstrings`, `sources` (the library's source code).
        packages: installed packages whose docstrings (and sources, if asked for) are read too.
    """

    parts: tuple[Part, ...] = ("topics", "docstrings")
    packages: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.parts:
            raise SpecError("parts: nothing to read; name topics, docstrings or sources")

    def entries(self) -> tuple[Entry, ...]:
        """Every documented name and language topic, each name once. Raises DataError for an unknown package."""
        found: list[Entry] = list(_topics()) if "topics" in self.parts else []
        if "docstrings" in self.parts:
            found += _library()
        for package in self.packages:
            found += _package(package)
        once: dict[tuple[str, bool], Entry] = {}
        for entry in found:
            once.setdefault((entry.name, entry.kind == "topic"), entry)
        return tuple(once.values())

    def names(self) -> tuple[Name, ...]:
        """Further names under which programs know entries (`asyncio.gather`), and names that have no docstring."""
        entries = self.entries()
        documented = {entry.name for entry in entries if entry.kind != "topic"}
        found = list(library_names(_public_modules(), entries)) if "docstrings" in self.parts else []
        for package in self.packages:
            found += package_names(_package_files(package), documented)
        return tuple({name.name: name for name in reversed(found)}.values())[::-1]

    def calls(self) -> Counter[str]:
        """How often each name is called in the source files that were read: what programs use, and how much.

        A name is written in full where its first part is imported (`os.path.join`); where that part is a variable, the
        last part is counted alone too, with a dot before it (`.append`).
        """
        files = [path for path, _ in source_files(_library_folder())] if "docstrings" in self.parts else []
        files += [path for package in self.packages for path, _ in _package_files(package)]
        found: Counter[str] = Counter()
        for path in files:
            text = path.read_text("utf-8", "replace")
            imported = dict(_imported(text))
            for name, method in _CALL.findall(text):
                first, dot, rest = name.partition(".")
                found[f"{imported.get(first, first)}{dot}{rest}" if name else f".{method}"] += 1
                if dot and first not in imported:
                    found[f".{name.rpartition('.')[2]}"] += 1
        return found

    def version(self) -> str:
        """The Python's release and the packages'."""
        return ", ".join([_version(), *(_package_license(package)[0] for package in self.packages)])

    def documents(self, problems: Problems | None = None) -> Iterator[Document]:
        """One document a topic and one a module; a docstring of several names is in the first only."""
        by_module: dict[tuple[str, str], list[Entry]] = {}
        seen: set[bytes] = set()
        for entry in self.entries():
            key = text_key(entry.doc)
            if key in seen:
                continue
            seen.add(key)
            if entry.kind == "topic":
                yield Document(f"topics/{entry.module}", entry.doc, entry.module, _meta(entry))
            else:
                by_module.setdefault((entry.module, entry.origin), []).append(entry)
        for (module, _), entries in by_module.items():
            text = "\n\n".join(f"## {entry.name}{entry.signature}\n{entry.doc}" for entry in entries)
            yield Document(f"docstrings/{module}", text, module, _meta(entries[0]))
        if "sources" in self.parts:
            yield from _sources(self.packages)


def _imported(text: str) -> Iterator[tuple[str, str]]:
    """`(name, what it is in full)` of everything that a source text imports."""
    for module, names, modules in _IMPORT.findall(text):
        for clause in (names or modules).split(","):
            words = clause.strip("()\\ \t").split()
            if words and module:
                yield words[-1], f"{module}.{words[0]}"
            elif words:
                yield (words[-1], words[0]) if len(words) > 1 else (words[0].partition(".")[0],) * 2


def _meta(entry: Entry) -> dict[str, str]:
    return {"input": entry.origin, "license": entry.license}


def _version() -> str:
    return f"Python {platform.python_version()}"


@functools.cache
def _topics() -> tuple[Entry, ...]:
    try:
        from pydoc_data.topics import topics
    except ImportError:  # some distributions leave it out
        return ()
    origin = f"{_version()} language reference"
    return tuple(
        Entry(name, "", tidy(text), f"topic {name}", "topic", origin, LICENSE) for name, text in sorted(topics.items())
    )


def _library_folder() -> Path:
    folder = Path(sysconfig.get_paths()["stdlib"])
    if not (folder / "shutil.py").is_file():
        raise DataError(f"{folder}: this Python carries no standard library source to read; use another interpreter")
    return folder


def _entries(found: Found, module: str, origin: str, license: str) -> Iterator[Entry]:
    for name, signature, doc, kind in found:
        signature, doc = (
            split_signature(name, signature, tidy(doc)) if kind in ("function", "class") else (signature, tidy(doc))
        )
        if len(doc) >= 12 and not _NOISE.match(doc):
            yield Entry(name, signature, doc, module, kind, origin, license)


@functools.cache
def _library() -> tuple[Entry, ...]:
    found: list[Entry] = []
    modules: set[str] = set()
    origin = f"{_version()} standard library"
    for path, module in source_files(_library_folder()):
        modules.add(module)
        shown = public_module(module)
        found += _entries(from_source(path.read_text("utf-8", "replace"), module, shown), shown, origin, LICENSE)
    for module in compiled_modules(modules):
        shown = public_module(module)
        found += _entries(from_object(module, shown), shown or "builtins", origin, LICENSE)
    return tuple(found)


@functools.cache
def _public_modules() -> tuple[str, ...]:
    """Modules of the standard library that have no private part in their name."""
    files = {module for _, module in source_files(_library_folder())}
    modules = {*files, *compiled_modules(files), "os.path"}
    return tuple(sorted(m for m in modules if m and not any(part.startswith("_") for part in m.split("."))))


def _package_folder(package: str) -> Path:
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not (spec.submodule_search_locations or spec.origin):
        names = {name for names in importlib.metadata.packages_distributions() for name in [names]}
        raise DataError(f"packages: {package!r} is not installed{nearest(package, names)}")
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(str(spec.origin))


def _package_license(package: str) -> tuple[str, str]:
    """`(name with version, licence)` as the package's own metadata state them."""
    for distribution in importlib.metadata.packages_distributions().get(package.partition(".")[0], []):
        data = cast(Message, importlib.metadata.metadata(distribution))
        license = data.get("License-Expression") or (data.get("License") or "").split("\n")[0][:80]
        if not license:
            classifiers = [c for c in data.get_all("Classifier") or [] if c.startswith("License ::")]
            license = classifiers[0].rpartition(":: ")[2] if classifiers else ""
        return f"{distribution} {data.get('Version', '')}".strip(), license
    return package, ""


def _package_files(package: str) -> Iterator[tuple[Path, str]]:
    folder = _package_folder(package)
    if folder.is_file():
        yield folder, package
        return
    for path, module in source_files(folder):
        yield path, ".".join(filter(None, [package, module]))


@functools.cache
def _package(package: str) -> tuple[Entry, ...]:
    origin, license = _package_license(package)
    found: list[Entry] = []
    for path, module in _package_files(package):
        read = from_source(path.read_text("utf-8", "replace"), module, module)
        found += _entries(read, module, origin, license)
    if not found:
        raise DataError(f"packages: {package!r} has no docstrings in Python source")
    return tuple(found)


def _sources(packages: tuple[str, ...]) -> Iterator[Document]:
    for path, module in source_files(_library_folder()):
        yield _source_document(path, module, f"{_version()} standard library source", LICENSE)
    for package in packages:
        origin, license = _package_license(package)
        for path, module in _package_files(package):
            yield _source_document(path, module, f"{origin} source", license)


def _source_document(path: Path, module: str, origin: str, license: str) -> Document:
    meta = {"input": origin, "license": license}
    return Document(f"sources/{module}", path.read_text("utf-8", "replace"), public_module(module) or module, meta)
