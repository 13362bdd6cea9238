"""The queue of missing cells: one core, lowest priority, resumable at any moment; each cell that is done is kept."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from evidence import _cells
from llmanac.core import files
from llmanac.core.errors import DataError, LlmanacError
from llmanac.lab.budget import format_duration
from tools import records

FILE = Path(__file__).with_name("queue.toml")
MINUTES = 5.0  # of a cell of which nothing is known


@dataclass(frozen=True)
class Job:
    """A missing cell."""

    study: str
    cell: str
    seconds: float  # about how long it takes


def entries() -> list[dict[str, float | str]]:
    """The studies of the queue, in order. Raises DataError for a field that is not known."""
    found = files.read_toml(FILE).get("study", [])
    for entry in found:
        if odd := entry.keys() - {"name", "seeds", "minutes", "timed"}:
            raise DataError(
                f"queue.toml: {entry.get('name')}: no field {min(odd)!r}; it has name, seeds, minutes, timed"
            )
    return found


def missing(load: Callable[[str], ModuleType], timed: bool, pages: Path = _cells.PAGES) -> list[Job]:
    """What is not there yet, in the order of the queue."""
    out = []
    for entry in entries():
        if bool(entry.get("timed")) == timed:
            name = str(entry["name"])
            study = load(name)
            made, broken = _cells.read(pages / name)
            for line in broken:
                print(f"{name}: {line}; it is made again", flush=True)
            took = [float(cell["seconds"]) for cell in made if cell["seconds"]]
            about = statistics.median(took) if took else 60 * float(entry.get("minutes", MINUTES))
            have = {c["cell"] for c in _current(study, pages / name, made)}
            seeds = int(entry["seeds"]) if "seeds" in entry else None
            out += [Job(name, cell, about) for cell in _cells.wanted(study, seeds) if cell not in have]
    return out


def _current(study: ModuleType, folder: Path, made: Sequence[dict]) -> list[dict]:
    """The cells of today's version and last fingerprint; a change of the code is noticed when a cell is made."""
    last = list(_cells.fingerprints(folder))[-1:]
    return [c for c in made if c["version"] == _cells.version(study) and [c["fingerprint"]] == last]


def work(load: Callable[[str], ModuleType], timed: bool = False, pages: Path = _cells.PAGES) -> int:
    """Make every missing cell; returns how many were made. One that fails is named and left out.

    A timed one is not begun while others compute. Raises LlmanacError where the disk refuses a cell.
    """
    jobs, keys, made = missing(load, timed, pages), {}, 0
    print(
        f"{len(jobs)} cells are missing, about {format_duration(sum(job.seconds for job in jobs))} of one core",
        flush=True,
    )
    start, planned = time.monotonic(), 0.0
    for place, job in enumerate(jobs, 1):
        study, folder = load(job.study), pages / job.study
        if timed:
            with records.Others() as others:
                time.sleep(3)
            if others.share is not None and others.share > records.QUIET:
                print(f"others use {others.share:.2f} of a core; timed cells wait for a quiet machine", flush=True)
                return made
        try:
            if job.study not in keys:
                keys[job.study] = _cells.key_of(study, folder)
            done = _cells.make(study, job.cell, folder, keys[job.study])
        except LlmanacError as error:  # the other cells do not wait for it
            if isinstance(error.__cause__, OSError):
                raise  # a disk that takes no cell takes no other
            print(f"{place} of {len(jobs)}: {job.study} {job.cell} failed: {error}", flush=True)
            continue
        made += done
        planned += job.seconds
        pace = (time.monotonic() - start) / planned if planned and made else 1.0
        left = sum(other.seconds for other in jobs[place:]) * pace
        said = "made" if done else "there already, or at work elsewhere"
        print(f"{place} of {len(jobs)}: {job.study} {job.cell} {said}; about {format_duration(left)} left", flush=True)
    return made
