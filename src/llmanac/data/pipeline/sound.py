"""Checks of files against their hashes: of finished tasks before a build resumes, of the output after its end.

What a task writes depends on its input alone. So a folder that is damaged is removed and its task is done again, alone;
and so is one that a later task needs files of, where these are gone.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmanac.core import files
from llmanac.core.errors import DataError
from llmanac.core.progress import progress

PASSING = (".docs", ".summary")  # a build removes these itself when the next pass is done
File = dict[str, Any]  # name, bytes, sha256


class Gone(Exception):
    """Files of finished tasks are gone and needed; those tasks are marked as not done."""


def listed(folder: Path) -> list[File]:
    """The files of a folder, each with its size and hash, in the order of their names."""
    return [file_of(path) for path in sorted(folder.iterdir()) if path.is_file() and path.name != "done.json"]


def file_of(path: Path) -> File:
    """Name, size and hash of a file."""
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": files.file_sha256(path)}


def _same(path: Path, file: Mapping[str, Any]) -> bool:
    return path.stat().st_size == file["bytes"] and files.file_sha256(path) == file["sha256"]


def drop_damaged(root: Path) -> None:
    """Remove the folders of finished tasks that no longer hold what the tasks wrote."""
    below = root / "work"
    found = [mark.relative_to(below) for mark in below.rglob("done.json")]
    marks = [below / mark for mark in found if not any(part.startswith(files.TEMPORARY) for part in mark.parts)]
    with progress("look at what is finished", total=len(marks), unit="tasks") as bar:
        for mark in sorted(marks):
            if not _whole(root, mark.parent):
                shutil.rmtree(mark.parent)
            bar.advance()


def _whole(root: Path, folder: Path) -> bool:
    # the output's files are moved out of their tasks' folders when all of them are written
    places = [folder, root / "work" / "data", root / "data"] if folder.parent.name == "write" else [folder]
    try:
        for file in files.read_json(folder / "done.json")["files"]:
            path = next((p for place in places if (p := place / file["name"]).is_file()), None)
            if path is None and not file["name"].endswith(PASSING):
                return False
            if path is not None and not _same(path, file):
                return False
    except (DataError, LookupError, TypeError, OSError):
        return False
    return True


def _needed(task: Mapping[str, Any]) -> Iterator[str]:
    if task["kind"] == "apply":
        yield from (task["shard"], task["decisions"])
    yield from task.get("summaries", ())
    yield from (path for path, *_ in task.get("sections", ()))
    for paths in [*task.get("streams", {}).values(), *(paths for paths, *_ in task.get("left", {}).values())]:
        yield from paths


def need(root: Path, tasks: Sequence[Mapping[str, Any]]) -> None:
    """Look for what tasks are made of. Raises Gone when some of it has to be made again first."""
    gone = {Path(name).parent for name in {n for task in tasks for n in _needed(task)} if not (root / name).is_file()}
    for folder in gone:
        shutil.rmtree(root / folder, ignore_errors=True)
    if gone:
        raise Gone


def missing_output(root: Path, manifest: Mapping[str, Any]) -> list[str]:
    """The files of a finished build that are gone.

    Raises:
        DataError: one is there and is not what the build wrote.
    """
    wanted = [(f"data/{file['name']}", file) for file in manifest["output"]["files"]]
    wanted += [(f"dropped/{file['name']}", file) for file in manifest.get("lists", ())]
    gone = []
    with progress("check the output", total=max(1, sum(file["bytes"] for _, file in wanted)), unit="B") as bar:
        for name, file in wanted:
            path = root / name
            if not path.is_file():
                gone.append(name)
            elif not _same(path, file):
                raise DataError(
                    f"{path}: is not what the build wrote (the manifest has its hash); delete it and run the same "
                    "command again to have it made anew, or name another --folder to keep it"
                )
            bar.advance(file["bytes"])
    return gone
