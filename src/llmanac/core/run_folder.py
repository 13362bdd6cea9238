"""The folder of a run: what may be in it, who may write there, and what a later process finds.

    .lock            held by the process that works here; the system releases it when that process dies
    run.json         which fields were stated and patched; what is planned; seconds of stages; whether it is finished
    recipe.toml      the recipe as asked for; written after run.json, and the mark that the folder holds a run
    resolved.toml    what the recipe became, where a run plans what was left open
    results.json     what was measured

**Who.** One process at a time, the holder of `.lock`. A folder is free where nothing is in it but a lock, temporary
files, a `run.json` without a recipe, and what the kind of run writes ahead of itself (`RunSpec.ahead`). Everything else
is somebody's: it is neither written nor deleted.

**A crash.** Every file is written under a temporary name and renamed. Before `recipe.toml` has its name the folder is
free; from then on it holds a run that can be resumed, with what its stages have finished. The next holder of the lock
deletes temporary files.

**Refused or stopped.** A run that is refused before a training was planned leaves the folder as it was. So does Ctrl-C
while nothing but the recipe was written (`NothingKept`).

**Resumed.** The recipe must be the kept one. Compared is what was stated, then or now: a default that another version
has is no change, nor are the fields that say how a run is computed (`RunSpec.free`). Patches of the first start hold
without being repeated. Until a training is planned, fields that nothing written depends on (those not in
`RunSpec.first`) may change.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

from llmanac import __version__
from llmanac.core import files, spec
from llmanac.core.errors import DataError, LlmanacError, SpecError
from llmanac.core.lock import locked
from llmanac.core.progress import time_without_once
from llmanac.core.spec import Spec

STATE, RECIPE, RESOLVED, RESULTS, LOCK = "run.json", "recipe.toml", "resolved.toml", "results.json", ".lock"
CHANGES = "changes.json"  # of earlier versions: what `patches` of run.json is
FORMAT_VERSION = 2
RUNS = Path("runs")


class NothingKept(KeyboardInterrupt):
    """Stopped before anything was written that is worth keeping."""


@dataclass(frozen=True, kw_only=True)
class RunSpec(Spec):
    """A recipe: what is made in a run's folder.

    Attributes:
        free: paths of how it is computed, not what; may differ when it is resumed.
        first: beginnings of the paths that the first files depend on; the others may change until a step is planned.
        ahead: what names of files begin with that may be there before the run, and outlive its refusal.
    """

    free: ClassVar[tuple[str, ...]] = ()
    first: ClassVar[tuple[str, ...]] = ("",)
    ahead: ClassVar[tuple[str, ...]] = ()

    def forget(self, place: Path) -> None:
        """Delete what a run wrote by the recipe that it had before this one, as far as this one would not write it."""

    def planned(self, recipe: Recipe[Any]) -> Iterable[str]:
        """Paths of the fields that are planned later, since the recipe leaves them open."""
        return ()


R = TypeVar("R", bound=RunSpec)


@dataclass(frozen=True)
class Recipe(Generic[R]):
    """A recipe, the dotted paths that its file and its patches stated, and those patches as plain data."""

    spec: R
    stated: frozenset[str]
    patches: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def made(cls, kind: type[R], data: Mapping[str, Any], patches: Mapping[str, Any] | None = None) -> Self:
        """The recipe that data and patches state. Raises SpecError that names the field."""
        plain = {path: spec.dump(value) for path, value in (patches or {}).items()}
        made = spec.patch(spec.make(kind, data), dict(patches or {}))
        return cls(made, frozenset([*spec.flatten(data), *spec.flatten(plain)]), plain)

    @classmethod
    def whole(cls, asked: R) -> Self:
        """The recipe in which every field is stated."""
        return cls(asked, frozenset(spec.flatten(spec.dump(asked))))

    def states(self, *paths: str) -> bool:
        """Whether one of the paths, or something below it, was stated."""
        return any(s == p or s.startswith(f"{p}.") for s in self.stated for p in paths)

    def concerns(self, path: str) -> bool:
        """Whether what was stated decides the field at `path`: itself, or a method by name, which presets fields."""
        return any(_below(path.split("."), s.split(".")) for s in self.stated)

    def text(self) -> str:
        """TOML that reads back to the same recipe; what is planned later is left out and named."""
        data, left_out = spec.dump(self.spec), list(self.spec.planned(self))
        for path in left_out:
            *above, last = path.split(".")
            table = functools.reduce(lambda at, step: at[int(step) if step.isdigit() else step], above, data)
            table.pop(last, None)
        note = f"# Planned from the budget before the first step: {', '.join(left_out)}.\n" if left_out else ""
        return note + spec.to_toml(data)


def _below(path: list[str], stated: list[str]) -> bool:
    if len(stated) > 1 and stated[-1] == "name":
        stated = stated[:-1]
    return len(stated) <= len(path) and all(s in ("*", p) for s, p in zip(stated, path, strict=False))


class RunFolder:
    """See the module.

    Args:
        flag: what names the folder on the command line.

    Attributes, while it is held:
        asked: the recipe to go by; became: what it has become so far, where it is resolved.
        state: what run.json keeps of the stages; `save` writes it.
    """

    asked: Recipe[Any]
    became: RunSpec | None = None

    def __init__(self, place: str | Path, flag: str = "--folder") -> None:
        self.place, self.flag = Path(place), flag
        self.state: dict[str, Any] = {}

    @property
    def begun(self) -> bool:
        """Whether a training was planned here, and so may have begun."""
        return any(self.place.rglob("plan.json"))

    @property
    def finished(self) -> bool:
        """Whether the run in it is done."""
        state = self.read() or {}
        return bool(state.get("finished", (self.place / RESULTS).is_file()))

    def kept(self, kind: type[R]) -> Recipe[R] | None:
        """The recipe of the run in it, as it was asked for; None where there is no run.

        Raises:
            DataError: a damaged file. LlmanacError: a run of another kind.
        """
        state = self.read()
        if state is None:
            return None
        data = state["recipe"] if "recipe" in state else files.read_toml(self.place / RECIPE)  # earlier versions' run
        patches = state.get("patches")
        if patches is None:
            patches = files.read_table(self.place / CHANGES) if (self.place / CHANGES).is_file() else {}
        try:
            made = spec.make(kind, data)
        except SpecError as error:
            raise LlmanacError(
                f"{self.place}: holds a run of another kind of recipe ({error}); resume it with its own, or give "
                f"another {self.flag}"
            ) from None
        return Recipe(made, frozenset(state.get("stated", spec.flatten(data))), patches)

    def read(self) -> dict[str, Any] | None:
        """run.json, empty where an earlier version wrote none; None where the folder holds no run."""
        file, has_recipe = self.place / STATE, (self.place / RECIPE).is_file()
        if not file.is_file():
            return {} if has_recipe else None
        state = files.read_table(file)
        kinds = {"stated": list, "patches": dict, "recipe": dict}
        if "stated" not in state or not all(isinstance(state.get(key, kind()), kind) for key, kind in kinds.items()):
            raise DataError(f"{file}: is damaged (no {', '.join(kinds)}); start anew with another {self.flag}")
        return state if has_recipe or "recipe" in state else None

    def claim(self, kind: type[RunSpec], *, resume: bool) -> None:
        """Raises LlmanacError for a folder that is somebody's, or that has nothing to resume."""
        if self.place.exists() and not self.place.is_dir():
            raise LlmanacError(f"{self.place}: is a file; give another {self.flag}")
        holds = self.read() is not None
        if resume and not holds:
            raise LlmanacError(f"{self.place}: there is no run to resume; leave --resume out to start one")
        if not resume and holds:
            raise LlmanacError(
                f"{self.place}: is there already; --resume goes on with the run in it, or give another {self.flag}"
            )
        if not resume and not self.is_free(kind):
            raise LlmanacError(f"{self.place}: is there already and is no run; give another {self.flag}")

    def is_free(self, kind: type[RunSpec] = RunSpec) -> bool:
        """Whether a run may begin in it."""
        names = {path.name for path in self.place.iterdir()} - {LOCK, STATE} if self.place.is_dir() else ()
        return self.read() is None and all(name.startswith((files.TEMPORARY, *kind.ahead)) for name in names)

    def patched(self, make: Callable[[Mapping[str, Any]], Recipe[R]], kind: type[R]) -> Recipe[R]:
        """The recipe that `make(patches)` gives with the patches of the run in the folder.

        Raises:
            SpecError: it does not take them.
        """
        kept = self.kept(kind)
        if kept is None or not kept.patches:
            return make({})
        try:
            return make(kept.patches)
        except SpecError as error:
            raise SpecError(
                f"{self.place}: the run in it was started with {', '.join(kept.patches)}, and this recipe does not "
                f"take that ({error}); a resumed run keeps its recipe ({self.place / RECIPE})"
            ) from None

    @contextlib.contextmanager
    def held(self, asked: Recipe[R], *, resume: bool) -> Iterator[Recipe[R]]:
        """Hold the folder; inside, the recipe to go by, which the folder keeps.

        Raises:
            LlmanacError: another process holds it; see `claim`.
            SpecError: a field is not as it was; by its path.
            NothingKept: Ctrl-C while nothing but the recipe was there.
        """
        kind = type(asked.spec)
        self.claim(kind, resume=resume)  # before the lock, which would be a file in somebody's folder
        there = self.place.exists()
        with locked(self.place / LOCK, busy=f"{self.place}: another process is running in this folder"):
            self.claim(kind, resume=resume)
            before, state = self.kept(kind), self.read() or {}
            self.asked = asked if before is None else self._resumed(before, asked)
            self.state = {k: v for k, v in state.items() if k not in ("recipe", *self._header())}
            if before is not None and self.asked is asked:  # another recipe than before
                asked.spec.forget(self.place)
                self.state.pop("planned", None)
            asked = self.asked
            if "recipe" in state:  # a run of an earlier version: its recipe.toml is what it became
                if (self.place / RECIPE).is_file() and not (self.place / RESOLVED).is_file():
                    files.write_text(self.place / RESOLVED, files.read_text(self.place / RECIPE))
                files.write_text(self.place / RECIPE, asked.text())
            if before != asked or "recipe" in state:
                self.save()
                files.write_text(self.place / RECIPE, asked.text())
            try:
                yield asked
            except LlmanacError:
                if not resume and not self.begun:  # the corrected command can have the folder
                    self._discard(there, kind.ahead)
                raise
            except KeyboardInterrupt:
                if not resume and {p.name for p in self.place.iterdir()} <= {LOCK, STATE, RECIPE}:
                    self._discard(there, kind.ahead)
                    raise NothingKept from None
                raise

    def _header(self) -> dict[str, Any]:
        asked = self.asked
        return {
            "format_version": FORMAT_VERSION, "version": __version__, "stated": sorted(asked.stated),
            "patches": dict(asked.patches),
        }  # fmt: skip

    def save(self, **state: Any) -> None:
        """Write run.json with what a stage has to say."""
        self.state |= state
        files.write_json(self.place / STATE, {**self._header(), **self.state})

    def carry_out(
        self, stages: Mapping[str, Callable[[], object]], results: Callable[[], dict[str, Any]],
        begins: Callable[[], None] = lambda: None, report: Callable[[str], object] = lambda line: None,
    ) -> dict[str, Any]:  # fmt: skip
        """Run the stages in their order, then write results.json; run.json has the seconds of each, in all sessions.

        A stage keeps what it makes as a unit, so that what is done costs little when the run is resumed.

        Args:
            results: what results.json holds, from what the stages left.
            begins: called before each stage. report: gets a line with the seconds of each.
        """
        seconds: dict[str, float] = self.state.setdefault("seconds", {})
        for name, stage in stages.items():
            begins()
            began = time_without_once()
            stage()
            seconds[name] = round(seconds.get(name, 0.0) + time_without_once() - began, 2)
            report(f"{name}: {seconds[name]:.0f} s")
            self.save(finished=False)
        found = results()
        files.write_json(self.place / RESULTS, found)
        self.save(finished=True)
        return found

    def resolve(self, became: RunSpec) -> None:
        """Write what the recipe has become so far."""
        self.became = became
        files.write_text(self.place / RESOLVED, spec.to_toml(spec.dump(became)))

    def _resumed(self, before: Recipe[R], asked: Recipe[R]) -> Recipe[R]:
        """The recipe to go on with. Raises SpecError for a changed one."""
        kind = type(asked.spec)
        own = [self.place / name for name in (RECIPE, RESOLVED) if (self.place / name).is_file()]
        for path in own:  # a run's own file with what was planned for it is no change
            if asked.spec == spec.make(kind, files.read_toml(path), str(path)):
                return before
        now = {path: functools.reduce(getattr, path.split("."), asked.spec) for path in kind.free}
        before = dataclasses.replace(before, spec=spec.patch(before.spec, now))
        moved = {
            path: values
            for path, values in spec.diff(before.spec, asked.spec).items()
            if before.concerns(path) or asked.concerns(path)  # else a default of another version: the stored one holds
        }
        if not moved:
            return before
        if not self.begun and not any(path.startswith(kind.first) for path in moved):
            return asked
        named = ", ".join(f"{path} (was {_value(old)}, now {_value(new)})" for path, (old, new) in moved.items())
        raise SpecError(
            f"{named}: the recipe changed since {self.place} was started, and a resumed run keeps its recipe "
            f"({self.place / RECIPE}); set the old values again to go on with it, or start anew with {self.flag} and "
            "without --resume"
        )

    def _discard(self, there: bool, ahead: tuple[str, ...]) -> None:
        """Delete what a run wrote, and the folder too unless it was there before."""
        with contextlib.suppress(OSError):
            for path in self.place.iterdir():
                if path.name != LOCK and not path.name.startswith(ahead):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            if not there:
                (self.place / LOCK).unlink(missing_ok=True)
                self.place.rmdir()


def resolved_file(place: Path) -> Path:
    """The recipe of a run with all that was planned for it; in folders of earlier versions that is recipe.toml."""
    return place / RESOLVED if (place / RESOLVED).is_file() else place / RECIPE


def new_place(name: str) -> Path:
    """`runs/<name>`, or `runs/<name>-2` and so on where the ones before are finished. Raises LlmanacError."""
    for number in range(1, 10_000):
        folder = RunFolder(RUNS / (name if number == 1 else f"{name}-{number}"))
        if folder.is_free():
            return folder.place
        if folder.read() is not None and not folder.finished:
            raise LlmanacError(
                f"{folder.place}: holds an unfinished run; --resume goes on with it, --folder starts another "
                "elsewhere, or delete the folder"
            )
    raise LlmanacError(f"runs/{name}: too many runs of this name; give a --folder")


def latest_place(name: str) -> Path:
    """The newest run of this name that is not finished, else the newest; `name-10` is newer than `name-2`."""
    numbered = re.compile(rf"{re.escape(name)}(?:-(\d+))?")
    found = [(int(match[1] or 1), p) for p in RUNS.glob("*") if (match := numbered.fullmatch(p.name))]
    runs = [folder for _, p in sorted(found) if (folder := RunFolder(p)).read() is not None]
    unfinished = [folder for folder in runs if not folder.finished]
    return (unfinished or runs or [RunFolder(RUNS / name)])[-1].place


def _value(value: Any) -> str:
    return "not set" if value is None else repr(value)
