"""The folder of a run that keeps its recipe: a resumed run must be of the same one, and one process runs at a time."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from llmanac.core import files, spec
from llmanac.core.errors import LlmanacError, SpecError
from llmanac.core.lock import locked
from llmanac.core.spec import Spec

RECIPE, CHANGES, LOCK = "recipe.toml", "changes.json", ".lock"
BEFORE_TRAINING = {RECIPE, CHANGES, LOCK, "tokenizer"}  # what a run writes before it trains
S = TypeVar("S", bound=Spec)


def named(
    asked_of: Callable[[Any, Mapping[str, Any]], S], recipe: Any, changes: Mapping[str, Any],
    folder: str | Path | None, resume: bool,
) -> tuple[S, Path]:  # fmt: skip
    """The recipe with its changes, and its folder: `runs/<name>` where none is given.

    A resumed run has the changes that it was started with, and `changes` besides.
    """
    asked = asked_of(recipe, changes)
    place = Path(folder or Path("runs") / asked.name)
    if resume and (place / CHANGES).is_file():
        kept = files.read_table(place / CHANGES)
        try:
            asked = asked_of(recipe, {**kept, **changes})
        except SpecError as error:
            raise SpecError(
                f"{place}: the run in it was started with {', '.join(kept)}, and this recipe does not take that "
                f"({error}); a resumed run keeps its recipe ({place / RECIPE})"
            ) from None
    return asked, place


@contextmanager
def kept_recipe(
    folder: str | Path, asked: Spec, resume: bool, changes: Mapping[str, Any] | None = None
) -> Iterator[Path]:
    """The folder, locked, with the recipe in it. Where a new run ends before it trains, its files are deleted again.

    Args:
        resume: go on with the run in the folder; else the folder must be new or empty.
        changes: those that `asked` has in it, for `named`.

    Raises:
        LlmanacError: no run to resume, a folder that holds something, another process in it.
        SpecError: a field that is not as it was, by its path.
    """
    place = Path(folder)
    stored, there = place / RECIPE, place.exists()
    if resume and not stored.is_file():
        raise LlmanacError(f"{folder}: there is no run to resume; leave --resume out to start one")
    if not resume and there and any(p.name != LOCK for p in place.iterdir()):
        raise LlmanacError(f"{folder}: is there already; --resume goes on with a run, or give another --folder")
    if resume:
        before = spec.make(type(asked), files.read_toml(stored), str(stored))
        for path, (old, new) in spec.diff(before, asked).items():
            raise SpecError(f"{path}: was {old!r} and is {new!r} now; a resumed run keeps its recipe ({stored})")
    with locked(place / LOCK, busy=f"{folder}: another process is running in this folder"):
        if not resume:
            files.write_json(place / CHANGES, {path: spec.dump(value) for path, value in (changes or {}).items()})
            files.write_text(stored, spec.to_toml(spec.dump(asked)))
        try:
            yield place
        except LlmanacError:
            if not resume and place.is_dir() and {p.name for p in place.iterdir()} <= BEFORE_TRAINING:
                discard(place, there)  # refused, for its data as a rule: the corrected command can have the folder
            raise


def discard(place: Path, there: bool, kept: str = LOCK) -> None:
    """Delete what a refused run wrote into its folder, and the folder too unless it was there before (and was empty).

    Args:
        kept: what names of files begin with that were there before, and stay.
    """
    with contextlib.suppress(OSError):
        for path in place.iterdir():
            if path.name != LOCK and not path.name.startswith(kept):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if not there:
            (place / LOCK).unlink(missing_ok=True)
            place.rmdir()
