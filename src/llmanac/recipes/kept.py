"""The folder of a run that keeps its recipe: a resumed run must be of the same one, and one process runs at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmanac.core import files, spec
from llmanac.core.errors import LlmanacError, SpecError
from llmanac.core.lock import locked
from llmanac.core.spec import Spec

RECIPE, LOCK = "recipe.toml", ".lock"


@contextmanager
def kept_recipe(folder: str | Path, asked: Spec, resume: bool) -> Iterator[Path]:
    """The folder, locked, with the recipe in it.

    Args:
        resume: go on with the run in the folder; else the folder must be new or empty.

    Raises:
        LlmanacError: no run to resume, a folder that holds something, another process in it.
        SpecError: a field that is not as it was, by its path.
    """
    place = Path(folder)
    stored = place / RECIPE
    if resume and not stored.is_file():
        raise LlmanacError(f"{folder}: there is no run to resume; leave --resume out to start one")
    if not resume and place.exists() and any(p.name != LOCK for p in place.iterdir()):
        raise LlmanacError(f"{folder}: is there already; --resume goes on with a run, or give another --folder")
    if resume:
        before = spec.make(type(asked), files.read_toml(stored), str(stored))
        for path, (old, new) in spec.diff(before, asked).items():
            raise SpecError(f"{path}: was {old!r} and is {new!r} now; a resumed run keeps its recipe ({stored})")
    with locked(place / LOCK, busy=f"{folder}: another process is running in this folder"):
        if not resume:
            files.write_text(stored, spec.to_toml(spec.dump(asked)))
        yield place
