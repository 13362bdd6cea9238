"""Where a command may write: never over its input, and over files that it did not write only with `--force`."""

import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from llmanac.core import files
from llmanac.core.errors import DataError, SpecError


def check_output(place: Path, flag: str, inputs: Iterable[str | Path] = (), *, force: bool = False) -> None:
    """Refuse a file that is there already, unless `force` is given, and one that is read, always.

    Args:
        flag: what the message calls the place.
        inputs: files that the command reads, or folders with such files.

    Raises:
        SpecError: the place may not be written; the message names it.
    """
    check_apart([place], flag, inputs)
    if place.is_dir():
        raise SpecError(f"{flag}: {place} is a folder; name a file")
    if not force and os.path.lexists(place):
        raise SpecError(f"{flag}: {place} is there already; name another place, or overwrite it with --force")


def check_new(place: Path, flag: str) -> None:
    """Refuse a file or a folder that is there, unless it is an empty folder. Raises SpecError that names it.

    What a killed process had begun to write there is removed.
    """
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise SpecError(f"{flag}: {place} is there already; give a name that is not taken")
    files.sweep(place)


def check_apart(places: Iterable[Path], flag: str, inputs: Iterable[str | Path]) -> None:
    """Refuse to write over an input. Raises SpecError that names it."""
    written = [place for place in places if os.path.lexists(place)]
    for given in map(Path, inputs):
        for place in written:
            if given.exists() and place.exists() and os.path.samefile(given, place):
                raise SpecError(
                    f"{flag}: {place} is read by this command and would be written over; name another place"
                )


def check_own_folder(
    folder: Path, flag: str, names: Collection[str], inputs: Iterable[str | Path] = (), *, what: str
) -> None:
    """Refuse a folder that would be replaced as a whole and holds anything but what the command itself writes.

    Args:
        names: what the command writes there; the first is what it is known by.
        inputs: files or folders that the command reads.
        what: a folder of this command in words, such as "a classifier".

    Raises:
        SpecError: the folder may not be replaced; the message names it and what is in it.
    """
    own = folder.resolve()
    for given in inputs:
        if own in (where := Path(given).resolve(), *where.parents) and where.exists():
            raise SpecError(f"{flag}: {folder} holds {given}, which this command reads; name another folder")
    if folder.exists() and not folder.is_dir():
        raise SpecError(f"{flag}: {folder} is a file; name another folder")
    inside = folder.iterdir() if folder.is_dir() else ()
    held = sorted(path.name for path in inside if not path.name.startswith(files.TEMPORARY))
    if held and next(iter(names)) not in held:
        raise SpecError(f"{flag}: {folder} holds something else than {what} ({held[0]}); name another folder")
    for name in held:
        if name not in names:
            raise SpecError(
                f"{flag}: {folder} holds other files ({name}) besides {what}; move them, or name another folder"
            )


def check_pages(folder: Path, flag: str, names: Sequence[str], key: str, inputs: Iterable[str | Path] = ()) -> None:
    """Refuse to write a page into a folder over an input, or over files of the same names that are no such page.

    Args:
        names: the page's files, the first of them JSON.
        key: what that JSON has.

    Raises:
        SpecError: the folder is a file, or a file in it may not be written over; the message names it.
    """
    if folder.exists() and not folder.is_dir():
        raise SpecError(f"{flag}: {folder} is a file; name another folder")
    check_apart([folder / name for name in names], flag, inputs)
    held = [folder / name for name in names if os.path.lexists(folder / name)]
    if not held:
        return
    try:
        found = files.read_json(folder / names[0])
    except DataError:
        found = None
    if not isinstance(found, dict) or key not in found:
        raise SpecError(f"{flag}: {held[0]} is there already and not of this command; move it, or name another folder")
