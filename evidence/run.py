"""Run studies and keep their pages: `python evidence/run.py NAME…`, `--check`, `--render`, `--queue`, `--list`.

A study is a file of this folder. Its docstring is the text of the page: the title, the method, the findings, with
`{name}` (as of `str.format`) where `facts` has a number. It has

    ROWS                 the rows of the catalogue that it speaks for; `claims.toml` splits their claims into parts
    CLAIM                the sentence that is measured
    SEEDS                how many replicates a run takes
    measure(seed, size)  one replicate as JSON data; size is "full", or "small" for a check of under two seconds
    show(seeds)          sections of tables and charts, from the measured replicates alone
    facts(seeds)         the numbers and verdicts that the docstring names, likewise (optional)

and may have

    OF                   studies of whose cells its page is made, in place of cells of its own
    PIECES               names of the parts of a replicate that are cells of their own: measure(seed, size, piece); a
                         replicate is then a table of its pieces. PARTIAL: `show` takes replicates that lack some
    cells(seeds)         the names of all its cells, in order, where pieces differ in their replicates
    VERSION              a whole number, raised where claim, arms, seeds, metric, margin or sweep change
    ARMS, METRIC, MARGIN, SWEEP   what else is stated before the first cell
    text_hash()          a hash of the text that it reads: cells of another text are not pooled
    TIMED                names of fields that a fingerprint leaves out: times, and what depends on ties or peers
    TOLERANCE            relative difference at which a number of the fingerprint counts as changed
    REPLICATE            what a seed is, where it is not one: "fold"
    PACKAGES             packages besides torch that the numbers depend on: a cell has their versions

A replicate is a cell (`_cells.py`): a run adds those that are missing and replaces none. A page is made from its
cells alone. It is stale when the small measurement gives other numbers, never because a file changed. `--check` looks
at both, changes nothing, and exits with 1 where one differs.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# A study may have a package's name (sentencepiece): this folder must not be where packages are looked for.
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry).resolve() != ROOT / "evidence")]

from evidence import _cells, _page, _queue, _verdicts  # noqa: E402
from llmanac.core import catalogue, files  # noqa: E402
from llmanac.core.errors import LlmanacError, nearest  # noqa: E402
from llmanac.core.interrupts import STATUS  # noqa: E402

PAGES = _cells.PAGES
PAGE = "page.md"


def names() -> list[str]:
    """Every study."""
    return sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py") if path.stem != "run")


def load(name: str) -> ModuleType:
    """The module of a study. Raises LlmanacError where there is none of that name."""
    if name not in names():
        raise LlmanacError(f"no study {name!r}{nearest(name, names())}; `python evidence/run.py --list` names them")
    return importlib.import_module(f"evidence.{name}")


def run(name: str, seeds: int | None = None, pages: Path = PAGES) -> Path:
    """Make every cell that is missing, then write the page. Returns the page's path."""
    study, folder = load(name), pages / name
    for line in _cells.read(folder)[1]:
        print(f"{name}: {line}; it is made again", flush=True)
        (folder / "cells" / line.partition(":")[0]).unlink()
    _cells.check_plan(study, folder)
    of = ("", "", "") if hasattr(study, "OF") else _cells.key_of(study, folder)
    for cell in _cells.wanted(study, seeds):
        if not _cells.place(folder, cell, of[2]).exists():
            print(f"{name}: cell {cell}", flush=True)
            _cells.make(study, cell, folder, of)
    return write(name, pages)


def rendered(name: str, pages: Path = PAGES) -> dict[str, str]:
    """The page and its charts by file name, from the cells alone."""
    study, folder = load(name), pages / name
    cells, left_out = _cells.pooled(study, folder)
    text, charts = _page.render(study, cells, left_out, of_rows(study, folder, cells))
    return {PAGE: text, **charts}


def of_rows(study: ModuleType, folder: Path, cells: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The verdicts that a page opens with: of its rows, as far as their parts are of this study."""
    out = {}
    for row in study.ROWS:
        stated = _verdicts.claims().get(row, [])
        parts = [part for part in stated if part.get("study", folder.name) == folder.name]
        out[row] = _verdicts.verdict_of([_verdicts.judged(part, study, cells) for part in parts])
        out[row]["others"] = list(dict.fromkeys(part["study"] for part in stated if part not in parts))
    return out


def write(name: str, pages: Path = PAGES) -> Path:
    """Write the page and its charts."""
    folder = pages / name
    made = rendered(name, pages)
    for old in folder.glob("chart-*.svg"):
        if old.name not in made:
            old.unlink()
    for file, text in made.items():
        files.write_text(folder / file, text)
    return folder / PAGE


def generated_files(pages: Path = PAGES) -> dict[Path, str]:
    """The package's file of verdicts and the index of all pages."""
    found = _verdicts.generated(load, pages)
    text = json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return {_verdicts.FILE: text, pages / "README.md": _page.index(found["verdicts"])}


def changed(name: str, pages: Path = PAGES) -> list[str]:
    """What differs from the kept page: the plan, paths of the small measurement, or files that render otherwise.

    Nothing differs from a page that waits for its first cell.
    """
    study, folder = load(name), pages / name
    if not _cells.begun(study, folder):
        return []
    _cells.check_plan(study, folder)
    out = [] if hasattr(study, "OF") else _cells.fingerprint(study, folder, keep=False)[1]
    for file, text in rendered(name, pages).items():
        if not (folder / file).is_file() or _shows(folder / file) != _shows(folder / file, text):
            out.append(file)
    return out


def _shows(file: Path, text: str | None = None) -> Any:
    """What a file of a page shows: of a chart its words and numbers, since versions of matplotlib draw otherwise."""
    text = file.read_text("utf-8") if text is None else text
    return re.findall(r'aria-label="[^"]*"|>[^<>]+<', text) if file.suffix == ".svg" else text


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="studies; all of them without a name")
    parser.add_argument("--seeds", type=int, help="instead of the study's own number")
    parser.add_argument("--check", action="store_true", help="measure small, render again, change nothing")
    parser.add_argument("--render", action="store_true", help="write the pages, the index and the verdicts again")
    parser.add_argument("--queue", action="store_true", help="make the missing cells of queue.toml")
    parser.add_argument("--timed", action="store_true", help="make those that are timed, on a quiet machine")
    parser.add_argument("--list", action="store_true", help="name the studies and what they measure")
    given = parser.parse_args(arguments)
    try:
        if given.queue or given.timed:
            _queue.work(load, given.timed)
            return 0
        chosen = [(name, load(name)) for name in given.names or names()]
        if given.list:
            for name, study in chosen:
                print(f"{name:<24} {study.CLAIM}")
            return 0
        if given.check:
            stale = {name: found for name, _ in chosen if (found := changed(name))}
            for name, found in stale.items():
                print(f"{name}: stale ({', '.join(found[:4])}); make it again: make evidence STUDY={name}")
            return 1 if stale else 0
        if not given.render:
            for name, _ in chosen:
                print(run(name, given.seeds))
        for path, text in generated_files().items():
            files.write_text(path, text)
        catalogue.evidence.cache_clear()  # pages of comparisons quote the verdicts' file
        for name, _ in chosen if given.render else ():
            if _cells.begun(load(name), PAGES / name):
                print(write(name))
    except LlmanacError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped; every cell that is made is kept, and the same command continues.", file=sys.stderr)
        return STATUS
    return 0


if __name__ == "__main__":
    sys.exit(main())
