"""Run studies and keep their pages: `python evidence/run.py NAME…`, `--check`, `--list`.

A study is a file of this folder. Its docstring is the text of the page: the title, the method, the findings, with
`{name}` (as of `str.format`) where `facts` has a number. It has

    ROWS                 the rows of the catalogue that it speaks for
    CLAIM                the sentence that is measured
    SEEDS                how many seeds a run takes
    measure(seed, size)  one replicate as JSON data; size is "full", or "small" for a check of under two seconds
    show(seeds)          sections of tables and charts, from the measured seeds alone
    facts(seeds)         the numbers and verdicts that the docstring names, likewise (optional)
    TIMED                names of fields that are not compared: times, and what depends on ties or peers (optional)
    TOLERANCE            relative difference at which a number counts as changed (optional)
    REPLICATE            what a seed is, where it is not one: "fold" (optional)
    PACKAGES             packages besides torch that the numbers depend on; their versions are recorded (optional)

`docs/evidence/NAME/` holds `results.json` (raw results, machine, command, and what `measure(0, "small")` gave then),
`page.md` and its charts. A page is stale when the small measurement gives other numbers, never because a file changed.
`--check` measures small again and renders the page from its raw results; it changes nothing and exits with 1 where one
of the two differs. An interrupted run continues after the seeds it finished.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs" / "evidence"
WORK = ROOT / "studies" / "evidence"
RESULTS, PAGE = "results.json", "page.md"
NOISE = 0.01  # smaller numbers are compared as if they were this large: differences of nearly equal ones are rounding
# A study may have a package's name (sentencepiece): this folder must not be where packages are looked for.
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry).resolve() != ROOT / "evidence")]

from evidence._page import render  # noqa: E402
from llmanac.core import files  # noqa: E402
from llmanac.core.device import machine  # noqa: E402
from llmanac.core.errors import DataError, nearest  # noqa: E402


def names() -> list[str]:
    """Every study."""
    return sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py") if path.stem != "run")


def load(name: str) -> ModuleType:
    """The module of a study. Raises DataError where there is none of that name."""
    if name not in names():
        raise DataError(f"no study {name!r}{nearest(name, names())}; `python evidence/run.py --list` names them")
    return importlib.import_module(f"evidence.{name}")


def run(name: str, seeds: int | None = None, pages: Path = PAGES, work: Path = WORK) -> Path:
    """Measure every seed that is not there yet, then write the page. Returns the page's path."""
    study = load(name)
    if study.SEEDS == 1 and seeds not in (None, 1):
        raise DataError(f"--seeds: {name} measures one seed, and its page shows one")
    found = []
    for seed in range(seeds or study.SEEDS):
        place = work / name / f"{seed}.json"
        if not place.exists():
            print(f"{name}: seed {seed + 1} of {seeds or study.SEEDS}", flush=True)
            files.write_json(place, study.measure(seed, "full"))
        found.append(files.read_json(place))
    result = {
        "study": name,
        "rows": list(study.ROWS),
        "command": f"make evidence STUDY={name}",
        "machine": {
            **machine(),
            "packages": {n: importlib.metadata.version(n) for n in getattr(study, "PACKAGES", ())},
        },
        "made": datetime.now(UTC).strftime("%Y-%m-%d"),
        "seeds": found,
        "small": study.measure(0, "small"),
    }
    page = write(study, result, pages / name)
    shutil.rmtree(work / name)
    return page


def write(study: ModuleType, result: dict[str, Any], folder: Path) -> Path:
    """Write results.json, the page and its charts."""
    files.write_json(folder / RESULTS, result)
    text, charts = render(study, result)
    for old in folder.glob("chart-*.svg"):
        old.unlink()
    for chart, drawing in charts.items():
        files.write_text(folder / chart, drawing)
    return files.write_text(folder / PAGE, text)


def changed(name: str, pages: Path = PAGES) -> list[str]:
    """What differs from the kept page: paths of numbers of the small measurement, or files that render otherwise."""
    study, folder = load(name), pages / name
    result = files.read_json(folder / RESULTS)
    out = list(differences(result["small"], json.loads(json.dumps(study.measure(0, "small"))), study))
    text, charts = render(study, result)
    for file, kept in {PAGE: text, **charts}.items():
        if not (folder / file).is_file() or (folder / file).read_text("utf-8") != kept:
            out.append(file)
    return out


def differences(kept: Any, found: Any, study: ModuleType, path: str = "small") -> list[str]:
    """Paths of the values that differ: numbers beyond the study's tolerance, anything else at all."""
    if isinstance(kept, dict) and isinstance(found, dict):
        timed = getattr(study, "TIMED", ())
        keys = [key for key in dict.fromkeys([*kept, *found]) if key not in timed]
        missing = object()
        return [
            line for key in keys
            for line in differences(kept.get(key, missing), found.get(key, missing), study, f"{path}/{key}")
        ]  # fmt: skip
    if isinstance(kept, list) and isinstance(found, list) and len(kept) == len(found):
        return [
            line
            for at, (a, b) in enumerate(zip(kept, found, strict=True))
            for line in differences(a, b, study, f"{path}/{at}")
        ]
    if isinstance(kept, float) and isinstance(found, (int, float)):
        tolerance = getattr(study, "TOLERANCE", 1e-6)
        return [] if abs(kept - found) <= tolerance * max(abs(kept), abs(found), NOISE) else [path]
    return [] if kept == found else [path]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="studies; all of them without a name")
    parser.add_argument("--seeds", type=int, help="instead of the study's own number")
    parser.add_argument("--check", action="store_true", help="measure small, render again, change nothing")
    parser.add_argument("--render", action="store_true", help="write the pages again from their raw results")
    parser.add_argument("--list", action="store_true", help="name the studies and what they measure")
    given = parser.parse_args(arguments)
    try:
        chosen = [(name, load(name)) for name in given.names or names()]
        if given.list:
            for name, study in chosen:
                print(f"{name:<24} {study.CLAIM}")
            return 0
        if given.render:
            for name, study in chosen:
                kept = files.read_json(PAGES / name / RESULTS)
                print(write(study, {**kept, "rows": list(study.ROWS)}, PAGES / name))
            return 0
        if given.check:
            stale = {name: found for name, _ in chosen if (found := changed(name))}
            for name, found in stale.items():
                print(f"{name}: stale ({', '.join(found[:4])}); make it again: make evidence STUDY={name}")
            return 1 if stale else 0
        for name, _ in chosen:
            print(run(name, given.seeds))
    except DataError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
