"""The recipe of a build: inputs, stages, output, limits, mixture; and what identifies it."""

import functools
import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_type_hints

from llmanac import __version__
from llmanac.core import files, spec
from llmanac.core.errors import SpecError, nearest
from llmanac.core.named import named_files, run_file
from llmanac.core.ranges import COUNT, POSITIVE, within
from llmanac.core.spec import Spec
from llmanac.data.mixtures import MixtureSpec
from llmanac.data.quarantine import Bounds, OnError
from llmanac.data.sources import SourceSpec
from llmanac.data.stages import StageSpec

FORMAT_VERSION = 2  # another one reads input in another way: a build that is begun does not go on with it


@dataclass(frozen=True, kw_only=True)
class InputSpec(Spec):
    """One input.

    Attributes:
        source: where its documents come from.
        domain: the part of the mixture that it belongs to; inputs may share one.
        weight: its domain's proportion, on any positive scale, for mixtures that go by stated weights.
    """

    source: SourceSpec
    domain: str = ""
    weight: float = 1.0

    ranges = within(POSITIVE, "weight")


@dataclass(frozen=True, kw_only=True)
class OutputSpec(Spec):
    """What is written.

    Attributes:
        format: `jsonl`, `jsonl.gz` or `parquet`.
        shard_bytes: bytes of text after which a new file begins.
        dropped: whether the lists of dropped documents hold their texts too.
    """

    format: Literal["jsonl", "jsonl.gz", "parquet"] = "jsonl"
    shard_bytes: int = 256 << 20
    dropped: Literal["reasons", "texts"] = "reasons"

    ranges = within(COUNT, "shard_bytes")


@dataclass(frozen=True, kw_only=True)
class LimitSpec(Spec):
    """What one document or file may cost.

    Attributes:
        max_bytes: a document with more bytes of text is set aside, and so is one line of a text file; from a gigabyte
            on, lines of any length are taken, in pieces.
        timeout: CPU seconds that one document may take in one stage, or to be read.
        ratio: bytes that one byte of a compressed file may become.
        expanded: bytes that may come out of one compressed file.
        memory: bytes that a stage over the corpus may hold at once.
    """

    max_bytes: int = 10_000_000
    timeout: float = 30.0
    ratio: float = Bounds.ratio
    expanded: int = int(Bounds.expanded)
    memory: int = 512 << 20

    ranges = within(COUNT, "max_bytes expanded memory") | within(POSITIVE, "timeout ratio")

    def bounds(self) -> Bounds:
        """What the readers hold input to."""
        line = self.max_bytes if self.max_bytes < 1 << 30 else None
        return Bounds(document=self.max_bytes, ratio=self.ratio, expanded=self.expanded, text_line=line)


@dataclass(frozen=True, kw_only=True)
class BuildSpec(Spec):
    """A build.

    Attributes:
        inputs: where documents come from, in the order of the output.
        stages: what is done to them, in order.
        output, limits: see there.
        mixture: how the domains are mixed; without one the output has every document once, in the order of the inputs.
        on_error: "skip" drops a document that cannot be read or that a stage fails on, "fatal" stops there.
        shard_bytes: bytes of input that one unit of work has; a worker holds far less than that.
    """

    inputs: tuple[InputSpec, ...] = ()
    stages: tuple[StageSpec, ...] = ()
    output: OutputSpec = OutputSpec()
    limits: LimitSpec = LimitSpec()
    mixture: MixtureSpec | None = None
    on_error: OnError = "skip"
    shard_bytes: int = 32 << 20

    ranges = within(COUNT, "shard_bytes")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.inputs:
            raise SpecError("inputs: nothing to read; name files or folders, or give an [[inputs]] table with a source")
        domains: dict[str, float] = {}
        for number, item in enumerate(self.inputs):
            if domains.setdefault(item.domain, item.weight) != item.weight:
                raise SpecError(f"inputs.{number}.weight: another input of the domain {item.domain!r} has another one")


def read_recipe(path: str | Path) -> BuildSpec:
    """A recipe file. Raises DataError or SpecError that names the file and the field."""
    data = files.read_toml(path)
    try:
        return make_recipe(data, Path(path).parent)
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from None


def make_recipe(data: Mapping[str, Any], folder: Path | None = None) -> BuildSpec:
    """Plain data -> a build. Three short forms are filled out:

    - an input that is a text is the path of files or a folder;
    - an input with a `name` is its source, without `domain` and `weight`;
    - a stage whose name ends in `.py` is that file (below `folder`), written by the user.
    """
    data = dict(data)
    for key in ("inputs", "stages"):
        if not isinstance(data.get(key, []), list):
            raise SpecError(f"{key}: expected a list, got {type(data[key]).__name__}")
    data["inputs"] = [_input(item) for item in data.get("inputs", [])]
    data["stages"] = [_stage(item, f"stages.{n}", folder) for n, item in enumerate(data.get("stages", []))]
    made = spec.make(BuildSpec, data)
    assert isinstance(made, BuildSpec)
    return made


def _input(item: Any) -> Any:
    if isinstance(item, str):
        return {"source": {"name": "files", "paths": [item]}}
    if isinstance(item, Mapping) and "name" in item and "source" not in item:
        own = {k: v for k, v in item.items() if k in ("domain", "weight")}
        return {"source": {k: v for k, v in item.items() if k not in own}, **own}
    return item


def _stage(item: Any, path: str, folder: Path | None) -> Any:
    table = {"name": item} if isinstance(item, str) else item
    name = table.get("name") if isinstance(table, Mapping) else None
    if not isinstance(name, str) or not name.endswith(".py"):
        return item
    file = Path(name) if Path(name).is_absolute() or folder is None else folder / name
    made = _load(file.resolve(), path)
    values = {k: v for k, v in table.items() if k != "name"}
    hints = {k: v for k, v in get_type_hints(made).items() if k in {f.name for f in fields(made)}}
    for key in values:
        if key not in hints:
            has = ", ".join(sorted(hints)) or "no fields"
            raise SpecError(f"{path}.{key}: no such field{nearest(key, hints)} (has: {has})")
    typed = {key: spec.make(hints[key], value, f"{path}.{key}") for key, value in values.items()}
    try:
        return made(**typed)
    except (SpecError, TypeError) as error:
        raise SpecError(f"{path}: {error}") from None


@functools.cache
def _load(file: Path, path: str) -> type[StageSpec]:
    """The Spec of a stage in a user's file."""
    if not file.is_file():
        raise SpecError(f"{path}.name: {file} is no file")
    name = f"llmanac_stage_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}.{file.stem}"
    try:
        module = run_file(file, name)
    except Exception as error:
        raise SpecError(f"{path}.name: {file} cannot be loaded ({type(error).__name__}: {error})") from error
    made = getattr(module, "Spec", None)
    if not isinstance(made, type) or not issubclass(made, StageSpec):
        raise SpecError(f"{path}.name: {file} has no class `Spec` that is a StageSpec (llmanac.data.stages)")
    return made


def stage_file(stage: StageSpec) -> Path:
    """The file that a stage is written in."""
    return Path(str(sys.modules[type(stage).__module__].__file__))


def stage_keys(recipe: BuildSpec) -> list[str]:
    """What the stages are called in counts and lists: `00-read`, then `01-gopher-quality`, ..."""
    return ["00-read", *(f"{n:02d}-{stage.name}" for n, stage in enumerate(recipe.stages, 1))]


def as_data(recipe: BuildSpec) -> dict[str, Any]:
    """The resolved recipe as plain data; `make_recipe` makes it again."""
    data = spec.dump(recipe)
    for stage, item in zip(recipe.stages, data["stages"], strict=True):
        if type(stage).__module__.startswith("llmanac_stage_"):
            item["name"] = str(stage_file(stage))
    return dict(data)


def identity(recipe: BuildSpec) -> dict[str, Any]:
    """All that decides the output besides the input: the recipe, the code of its stages, the files its fields name."""
    named = named_files(*recipe.stages, *([recipe.mixture] if recipe.mixture else []))
    return {
        "format_version": FORMAT_VERSION,
        "llmanac": __version__,
        "recipe": as_data(recipe),
        "stages": [files.file_sha256(stage_file(stage)) for stage in recipe.stages],
        "files": named,
    }
