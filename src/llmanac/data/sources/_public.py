"""The names that a program may write for what is documented elsewhere, or not at all.

`asyncio.gather` is documented as `asyncio.tasks.gather`; `configparser.ConfigParser.read` is its base's;
`csv.DictReader` has no docstring. The standard library's own namespace says so (`_namespace.py`, in a process of its
own); of an installed package, which is never executed, the imports in its source files do.

Docstrings with their names and signatures: from source files without importing them, from live objects where a
module is compiled and has no source.
"""

import ast
import functools
import importlib
import inspect
import json
import re
import subprocess
import sys
import warnings
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llmanac.core.errors import DataError

Kind = Literal["module", "class", "function", "attribute", "topic"]
# importing these does something, or takes a screen
_BY_ITSELF = {"antigravity", "this", "idlelib", "turtledemo", "lib2to3", "test"}
_SKIPPED = {"test", "tests", "site-packages", "dist-packages", "__pycache__"}
_SKIPPED |= {"_vendor", "pydoc_data", "encodings", "__phello__"}
_ROLE = re.compile(r":(?:[a-z]+:)?[a-z]+:`~?([^`<]*?)(?: ?<[^`>]*>)?`")
_RULER = re.compile(r"([-=*~#_^])\1{5,}")
_FIRST_ARGUMENT = re.compile(r"^\(\$?(?:self|cls|type|module)(?:, /)?(?:, )?")
Found = list[tuple[str, str, str, Kind]]  # name, signature, docstring, kind
PUBLIC = {  # where a private module's names are documented to live
    "posix": "os",
    "nt": "os",
    "posixpath": "os.path",
    "genericpath": "os.path",
    "_collections_abc": "collections.abc",
    "builtins": "",
}


@dataclass(frozen=True)
class Entry:
    """One documented name.

    Attributes:
        name: as a program writes it (`shutil.copytree`; a built-in has no module: `len`).
        signature: `(src, dst, *, symlinks=False)`, or nothing where none is known.
        doc: the docstring, unindented, with reST roles taken off.
        module: the module it is documented under; the unit of the train/held-out split.
        origin, license: what it was taken from, and under which terms.
    """

    name: str
    signature: str
    doc: str
    module: str
    kind: Kind
    origin: str = "Python standard library"
    license: str = "PSF-2.0"

    @property
    def private(self) -> bool:
        """Whether any part of the name starts with an underscore."""
        return any(part.startswith("_") for part in self.name.split("."))


def tidy(doc: str) -> str:
    """A docstring as plain text: unindented, ``x`` as `x`, reST roles as the name they mark, short rulers."""
    doc = inspect.cleandoc(doc).replace("``", "`").replace("\t", "    ")
    doc = _RULER.sub(r"\1\1\1", _ROLE.sub(r"`\1`", doc))
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \r]+\n", "\n", doc)).strip()


def public_module(module: str) -> str:
    """The module that documents what `module` implements: `posix` -> `os`, `_io` -> `io`, else itself."""
    if module in PUBLIC:
        return PUBLIC[module]
    for prefix in ("_py", "_"):
        bare = module.removeprefix(prefix)
        if bare != module and bare in sys.stdlib_module_names:
            return bare
    return module


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def _arguments(node: ast.FunctionDef | ast.AsyncFunctionDef, *, method: bool) -> str:
    text = ast.unparse(node.args)
    bound = method and not any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in node.decorator_list)
    if bound:
        text = re.sub(r"^\w+(, /)?(, |$)", "", text)
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"({text}){returns}"


def _is_property(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(ast.unparse(d).endswith(("property", ".setter", ".getter", ".deleter")) for d in node.decorator_list)


def _definitions(body: list[ast.stmt]) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Classes and functions, also those under an `if` or `try`."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node
        elif isinstance(node, (ast.If, ast.Try, ast.With)):
            yield from _definitions(node.body)
            yield from _definitions([] if isinstance(node, ast.With) else node.orelse)
            for handler in node.handlers if isinstance(node, ast.Try) else ():
                yield from _definitions(handler.body)


def from_source(source: str, module: str, shown: str) -> Found:
    """`(name, signature, docstring, kind)` of a module and everything in it; nothing where the syntax is wrong."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's files
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return []
    found: Found = [(shown or module, "", ast.get_docstring(tree) or "", "module")]

    def walk(body: list[ast.stmt], prefix: str, inside_class: bool) -> None:
        for node in _definitions(body):
            name, doc = _join(prefix, node.name), ast.get_docstring(node) or ""
            if isinstance(node, ast.ClassDef):
                start = [n for n in _definitions(node.body) if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
                found.append((name, _arguments(start[0], method=True) if start else "", doc, "class"))
                walk(node.body, name, True)
            elif inside_class and _is_property(node):
                found.append((name, "", doc, "attribute"))
            else:
                found.append((name, _arguments(node, method=inside_class), doc, "function"))

    walk(tree.body, shown, False)
    return found


def from_object(module: str, shown: str) -> Found:
    """The same for a compiled module, from its live objects. A module that does not import gives nothing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            live = importlib.import_module(module)
    except Exception:  # a missing shared library, another platform, ...
        return []
    homes = {module, module.lstrip("_"), shown, "builtins"}
    found: Found = [(shown or module, "", live.__doc__ or "", "module")]
    todo: list[tuple[str, Any]] = [(_join(shown, k), v) for k, v in sorted(vars(live).items())]
    for name, value in todo:
        value = value.__func__ if isinstance(value, staticmethod) else value  # else its doc is staticmethod's own
        if name.rpartition(".")[2].startswith("_"):
            continue
        is_class = inspect.isclass(value)
        if not (callable(value) or inspect.isgetsetdescriptor(value) or inspect.ismemberdescriptor(value)):
            continue
        if is_class and value.__module__ in homes and name.count(".") <= shown.count(".") + 1:
            todo += [(f"{name}.{k}", v) for k, v in sorted(vars(value).items()) if not k.startswith("_")]
        doc = value.__doc__
        signature = (getattr(value, "__text_signature__", None) or "").replace("\n", " ")
        kind: Kind = "class" if is_class else "function" if callable(value) else "attribute"
        if isinstance(doc, str):
            found.append((name, _FIRST_ARGUMENT.sub("(", signature).replace("$", ""), doc, kind))
    return found


def split_signature(name: str, signature: str, doc: str) -> tuple[str, str]:
    """Compiled functions often state their signature in the docstring's first line: take it from there."""
    first, _, rest = doc.partition("\n")
    bare = name.rpartition(".")[2]
    if f"{bare}(" not in first:
        return signature, doc
    match = re.match(rf"(?:[\w.]+\.)?{re.escape(bare)}(\([^\n]*\))(?:\s*(?:->|--|-)\s*([^\n]*))?$", first.strip())
    if not match:
        return signature, doc
    if re.match(rf"\s*{re.escape(bare)}\(", rest):  # several signatures, a line each: leave them
        return signature, doc
    arrow, said = "->" in first, (match.group(2) or "").strip()
    rest = rest.lstrip("\n- ")
    if said and not arrow:
        rest = f"{said[:1].upper()}{said[1:]}\n{rest}" if rest else said
    elif said:
        result = said if re.fullmatch(r"[\w\[\]., |]+", said) and len(said.split()) <= 2 else ""
        if result:
            return signature or f"{match.group(1)} -> {result}", rest
        rest = f"Returns {said.rstrip('.')}.\n\n{rest}".strip()
    return signature or match.group(1), rest


def compiled_modules(known: set[str]) -> list[str]:
    """The standard library's modules that have no source file, safe to import."""
    names = (set(sys.stdlib_module_names) | {"builtins"}) - known - _BY_ITSELF
    return sorted(
        n for n in names if not n.startswith(("_test", "_xx", "_tkinter", "_curses", "_frozen", "_sysconfigdata"))
    )


def source_files(root: Path) -> Iterator[tuple[Path, str]]:
    """`(file, dotted module name)` of every module below a package's or the library's folder, in a fixed order."""
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if (_SKIPPED | _BY_ITSELF) & set(parts) or any(p.startswith(("config-", ".")) for p in parts):
            continue
        if path.name.startswith("_sysconfigdata") or not all(p.removesuffix(".py").isidentifier() for p in parts):
            continue
        yield path, ".".join(parts).removesuffix(".py").removesuffix(".__init__").removesuffix("__init__")


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
