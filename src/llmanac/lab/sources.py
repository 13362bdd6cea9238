"""Which source files a run used: they are part of its key in the cache, so that other code runs again.

A run's code is the files of the Specs in its tree, the trainer's, and every llmanac file that these import; so too of a
package of another distribution that adds methods. Comments, blank lines and docstrings do not count: code that is
explained better does not run again.
"""

import ast
import functools
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from llmanac.core.named import named_files
from llmanac.core.registry import PACKAGE, package_of, packages
from llmanac.core.spec import Spec
from llmanac.lab.cache import threads, versions

# Files that carry data, names and messages about, and never a number into a result.
PLUMBING = {"called", "catalogue", "describe", "errors", "files", "named", "pages", "progress", "registry", "spec"}


def spec_modules(value: Any) -> set[str]:
    """The modules of every Spec in a tree."""
    if isinstance(value, Spec):
        own = {type(value).__module__} if _package(type(value).__module__) else set()
        return own.union(*(spec_modules(getattr(value, f.name)) for f in fields(value)))
    if isinstance(value, (tuple, list)):
        return set().union(*map(spec_modules, value))
    return set()


def _package(module: str) -> tuple[str, Path] | None:
    """Name and folder of the package that a module is in; None where neither ours nor one that adds methods."""
    if module.startswith("llmanac."):
        return "llmanac", PACKAGE
    return next(((name, root) for name, root in packages().items() if f"{module}.".startswith(f"{name}.")), None)


def _path_of(module: str) -> Path | None:
    if (package := _package(module)) is None:
        return None
    return _file_of(module.removeprefix(package[0]), package[1])


@functools.cache
def _file_of(module: str, root: Path) -> Path | None:
    base = root.joinpath(*module.split(".")[1:])
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def _imported(module: str, nodes: Iterable[ast.Import | ast.ImportFrom], is_package: bool) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        else:
            if node.level:
                parts = module.split(".")
                keep = len(parts) - node.level + (1 if is_package else 0)
                prefix = ".".join([*parts[:keep], *([node.module] if node.module else [])])
            else:
                prefix = node.module or ""
            yield prefix
            yield from (f"{prefix}.{alias.name}" for alias in node.names)


def _is_plumbing(module: str) -> bool:
    parts = module.split(".")
    return parts[:2] == ["llmanac", "core"] and (len(parts) == 2 or parts[2] in PLUMBING)


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size


@functools.lru_cache(maxsize=4096)
def _imports(module: str, path: Path, stamp: tuple[int, int]) -> tuple[str, ...]:
    return tuple(_imported(module, _read(path, stamp)[0], path.name == "__init__.py"))


def closure(modules: Iterable[str]) -> dict[str, Path]:
    """The modules of llmanac, and of packages that add methods, that these import, themselves included, by name."""
    waiting, found = list(modules), dict[str, Path]()
    while waiting:
        module = waiting.pop()
        if module in found or module == "llmanac" or _is_plumbing(module) or (path := _path_of(module)) is None:
            continue
        found[module] = path
        waiting.extend(_imports(module, path, _stamp(path)))
        waiting.append(module.rpartition(".")[0])  # importing a module runs its package's __init__ too
    return dict(sorted(found.items()))


def code_hash(path: Path) -> str:
    """sha256 of a source file without its docstrings, comment lines and blank lines (16 hex digits)."""
    return _read(path, _stamp(path))[1]


@functools.lru_cache(maxsize=4096)
def _read(path: Path, _stamp: tuple[int, int]) -> tuple[list[ast.Import | ast.ImportFrom], str]:
    """A file's imports, and its hash."""
    text = path.read_text("utf-8")
    imports, skipped = list[ast.Import | ast.ImportFrom](), set[int]()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            imports.append(node)
        elif isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.body:
            first = node.body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                skipped.update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    kept = [
        line.rstrip()
        for number, line in enumerate(text.splitlines(), 1)
        if number not in skipped and line.strip() and not line.lstrip().startswith("#")
    ]
    return imports, hashlib.sha256("\n".join(kept).encode()).hexdigest()[:16]


def fingerprint(specs: Iterable[Spec], modules: Iterable[str] = ()) -> dict[str, str]:
    """`{path below the package: code hash}` of every file that the Specs and the named modules use.

    Files of other packages begin with the package's name.
    """
    roots = set(modules).union(*map(spec_modules, specs))
    return {_shown(path): code_hash(path) for path in closure(roots).values()}


def _shown(path: Path) -> str:
    name, root = package_of(path)
    own = path.relative_to(root).as_posix()
    return own if root == PACKAGE else f"{name}/{own}"


def run_key(trial: str, specs: Iterable[Spec], modules: Iterable[str] = (), **decides: Any) -> dict[str, Any]:
    """The key of a run in the cache: all that decides its numbers, and the code, the libraries and the threads.

    Of files and folders that the Specs name, such as a rulebook or an encoder, it has the hashes.
    """
    every = list(specs)
    named = sorted(set(named_files(*every).values()))
    found = {"sources": fingerprint(every, modules), "versions": versions(), "threads": threads()}
    return {"trial": trial, **decides, **({"named": named} if named else {}), **found}
