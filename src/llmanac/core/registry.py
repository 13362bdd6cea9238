"""A kind is a folder, a method is one file in it, and the file's name is the method's name.

Nothing is imported to list: the `CARD` literal is cut out of each file as text and read with `ast.literal_eval`, so
`llmanac list` starts without torch. `_` in a file name is `-` in the method's name (`pre_norm.py` is `pre-norm`);
files that start with `_` or `plain_`, and `load.py`, are not methods.

Other distributions add methods by an entry point of the group `llmanac.methods` whose value is a package: it has a
folder for each kind that it adds to, named as the kind is (`my_package/decoding/mirostat.py`).
"""

import ast
import functools
import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any

from llmanac.core.errors import SpecError, nearest, shown

PACKAGE = Path(__file__).resolve().parent.parent
GROUP = "llmanac.methods"

# kind -> folder below the package. A new kind is one line here; a new method is one file and nothing here.
KINDS: dict[str, str] = {
    "metric": "metrics",
    "tokenizer": "tokenizers",
    "source": "data/sources",
    "extractor": "data/extractors",
    "stage": "data/stages",
    "mixture": "data/mixtures",
    "position": "models/positions",
    "norm": "models/norms",
    "score": "models/scores",
    "mixer": "models/mixers",
    "ffn": "models/ffn",
    "block": "models/blocks",
    "head": "models/heads",
    "lm": "models/lm",
    "smoothing": "models/smoothing",
    "classifier": "models/classifiers",
    "adapter": "adapters",
    "quantizer": "quant",
    "decoding": "generate/decoding",
    "drafter": "generate/drafters",
    "objective": "objectives",
    "loss": "objectives/losses",
    "reward": "rewards",
    "reason": "reason",
    "environment": "act/environments",
    "optimizer": "train/optimizers",
    "schedule": "train/schedules",
    "tracker": "train/trackers",
    "retriever": "retrieve",
    "multimodal": "models/images",
    "sampler": "models/images/samplers",
}


@dataclass(frozen=True)
class Method:
    """One method file, or one alias of it.

    `name` is what the user types; `stem` is the file; `defaults` are the fields that an alias presets.
    """

    kind: str
    name: str
    path: Path
    card: dict[str, Any]
    defaults: dict[str, Any]

    @property
    def module_name(self) -> str:
        name, root = package_of(self.path)
        return ".".join([name, *self.path.relative_to(root).with_suffix("").parts])

    @property
    def id(self) -> str:
        return f"{self.kind}/{self.name}"

    def module(self) -> ModuleType:
        """Import the file that implements the method (this may import torch).

        Raises:
            SpecError: it is of another distribution and cannot be imported.
        """
        try:
            return importlib.import_module(self.module_name)
        except (Exception, SystemExit) as error:
            if package_of(self.path)[1] == PACKAGE:
                raise
            raise SpecError(f"{self.id}: {self.path} cannot be imported: {type(error).__name__}: {error}") from error


@functools.cache
def packages() -> dict[str, Path]:
    """The packages of other distributions that add methods, and their folders; one that is not there is named."""
    found = {}
    for point in importlib.metadata.entry_points(group=GROUP):
        try:
            spec = importlib.util.find_spec(point.value)
        except Exception as error:  # a parent package that cannot be imported
            warnings.warn(f"{GROUP}: {point.name}: {point.value} cannot be imported ({error})", stacklevel=2)
            continue
        if spec is None or not spec.submodule_search_locations:
            warnings.warn(f"{GROUP}: {point.name}: there is no package {point.value}", stacklevel=2)
        else:
            found[point.value] = Path(spec.submodule_search_locations[0]).resolve()
    return found


def package_of(path: Path) -> tuple[str, Path]:
    """Name and folder of the package that a method's file is in."""
    return next(((name, root) for name, root in packages().items() if path.is_relative_to(root)), ("llmanac", PACKAGE))


def read_card(path: Path) -> dict[str, Any]:
    """The `CARD = {...}` literal of a method file, read without importing the file.

    Raises:
        SpecError: the file has no CARD, or its CARD is not a literal.
    """
    lines = path.read_text("utf-8").splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith("CARD = {")), None)
    if start is None:
        raise SpecError(f"{path}: a method file needs a literal `CARD = {{...}}`")
    stop = next((i for i in range(start, len(lines)) if lines[i].rstrip().endswith("}") and lines[i][0] in "C}"), None)
    try:
        card = ast.literal_eval("\n".join(lines[start : (stop or start) + 1]).removeprefix("CARD = "))
    except (ValueError, SyntaxError) as error:
        raise SpecError(f"{path}:{start + 1}: CARD is not a plain literal ({error})") from error
    if "title" not in card:
        raise SpecError(f"{path}:{start + 1}: CARD has no title")
    return card


def folder(kind: str) -> Path:
    """The folder that holds the methods of a kind. Raises SpecError for an unknown kind."""
    if kind not in KINDS:
        raise SpecError(f"no kind named {kind!r}{nearest(kind, KINDS)} (known: {', '.join(KINDS)})")
    return PACKAGE / KINDS[kind]


def folders(kind: str) -> list[Path]:
    """The folders of a kind: the package's own, then those of other distributions."""
    own = folder(kind)
    return [own, *(path for root in packages().values() if (path := root / kind.replace("-", "_")).is_dir())]


def method_files(kind: str) -> Iterator[Path]:
    """The method files of a kind, by name; those of other distributions last."""
    for path in (path for place in folders(kind) for path in sorted(place.glob("*.py"))):
        if not path.name.startswith(("_", "plain_")) and path.name != "load.py":
            yield path


@functools.cache
def _methods(kind: str, _stamp: tuple[tuple[str, int], ...]) -> dict[str, Method]:
    found: dict[str, Method] = {}
    for path in method_files(kind):
        try:
            card = read_card(path)
            named = {path.stem.replace("_", "-"): {}, **card.get("aliases", {})}
            if package_of(path)[1] != PACKAGE:
                _check_foreign(path, card)
            for name in named:
                if name in found:
                    raise SpecError(f"{path}: {kind} {name!r} is already the name of {found[name].path}")
        except (SpecError, SyntaxError, UnicodeDecodeError, TypeError) as error:
            if package_of(path)[1] == PACKAGE:
                raise
            said = str(error) if isinstance(error, SpecError) else f"{path}: cannot be read ({error})"
            warnings.warn(f"{said}; it is left out", stacklevel=2)
            continue
        found |= {name: Method(kind, name, path, card, dict(defaults)) for name, defaults in named.items()}
    return found


def _check_foreign(path: Path, card: dict[str, Any]) -> None:
    """Raises SpecError or SyntaxError for a file of another distribution that later readers could not use."""
    ast.parse(path.read_text("utf-8"))
    aliases = card.get("aliases", {})
    if not isinstance(card["title"], str) or not all(isinstance(a, dict) for a in (aliases, *aliases.values())):
        raise SpecError(f"{path}: CARD: title must be a text, aliases a table of fields by name")


def methods(kind: str) -> dict[str, Method]:
    """Every method of a kind by name, aliases included. Reads the folder each time it has changed."""
    stamp: list[tuple[str, int]] = []
    for place in folders(kind):
        with os.scandir(place) as inside:
            stamp += sorted((e.path, e.stat().st_mtime_ns) for e in inside if e.name.endswith(".py"))
    return _methods(kind, tuple(stamp))


def find(kind: str, name: str) -> Method:
    """The method called `name`. Raises SpecError that names the nearest known one."""
    known = methods(kind)
    if name not in known:
        raise SpecError(f"no {kind} named {shown(name)}{nearest(name, known)} (known: {', '.join(known)})")
    return known[name]


def build(kind: str, name: str, /, **choices: Any) -> Any:
    """Build one component by name: `build("norm", "rmsnorm", dim=64, eps=1e-6)`.

    Choices that are fields of the method's Spec set them; all others are dimensions, passed to `Spec.build`.
    """
    method = find(kind, name)
    spec = method.module().Spec
    own = {f.name for f in fields(spec)} | spec.renamed.keys()
    chosen = {k: v for k, v in choices.items() if k in own}
    dims = {k: v for k, v in choices.items() if k not in own}
    made = spec.from_data({**method.defaults, **chosen}, f"{kind}/{name}")
    try:
        inspect.signature(made.build).bind(**dims)
    except TypeError as error:
        raise SpecError(f"{kind}/{name}: {error} (choices: {', '.join(sorted(own)) or 'none'})") from error
    return made.build(**dims)


@functools.cache
def applications() -> dict[str, str]:
    """Every application (`apps/NAME/`) by name and by the aliases of the CARD in its `__init__.py`: its package."""
    found: dict[str, str] = {}
    for path in sorted((PACKAGE / "apps").glob("*/__init__.py")):
        package = path.parent.name
        for name in (package.replace("_", "-"), *read_card(path).get("aliases", ())):
            found[name] = package
    return found


def application(name: str) -> Any:
    """The object `APPLICATION` of the module `apps/NAME/app.py`, imported only now.

    Raises:
        SpecError: there is no such application; the message names the nearest known one.
    """
    known = applications()
    if name not in known:
        raise SpecError(f"no application named {shown(name)}{nearest(name, known)} (known: {', '.join(known)})")
    return importlib.import_module(".".join(["llmanac", "apps", known[name], "app"])).APPLICATION
