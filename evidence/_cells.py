"""Cells: the replicates of a study, each a file that is written once, with what it is of and what made it.

`docs/evidence/NAME/cells/CELL-KEY.json`: CELL is the replicate, or `PIECE.REPLICATE` where a study is measured in
pieces; KEY is of the study's version, its data and its fingerprint, so that a cell of another text or of changed code
gets a file of its own. Cells of one key are pooled, across commits and machines. `fingerprints.json` has what
`measure(0, "small")` gave, by digest; numbers that agree within the study's tolerance are one fingerprint. `plan.json`
has what a study stated before the first cell of each version.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import json
import math
import re
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from llmanac.core import files
from llmanac.core.errors import DataError
from llmanac.core.lock import locked
from tools import records

PAGES = records.ROOT / "docs" / "evidence"
KEYS = ("study", "cell", "version", "data", "fingerprint", "values", "seconds", "others")
CELLS = "cells/[!.]*.json"  # not what is being written
MOST = 20_000  # bytes of a cell
DIGITS = 8
NOISE = 0.01  # smaller numbers are compared as if they were this large: differences of nearly equal ones are rounding
STATED = ("CLAIM", "SEEDS", "PIECES", "ARMS", "METRIC", "MARGIN", "SWEEP")  # what a plan holds of a study
COLUMNS = "#columns"  # a list of tables with the same keys is kept as one table of lists
RENAMED: dict[str, str] = {}  # fields of Specs that have another name today: old path -> new one


def packed(value: Any) -> Any:
    """Values as a cell keeps them: `DIGITS` significant digits, and lists of like tables by column."""
    if isinstance(value, float):
        if not math.isfinite(value) or value.is_integer():
            return value if math.isfinite(value) else None
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {str(key): packed(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        if len(value) > 2 and all(isinstance(one, dict) and one and one.keys() == value[0].keys() for one in value):
            return {COLUMNS: {str(key): packed([one[key] for one in value]) for key in value[0]}}
        return [packed(one) for one in value]
    return value


def renamed(text: Any) -> Any:
    """A path of a Spec, or a patch of one, under today's name."""
    if not isinstance(text, str):
        return text
    for old, new in RENAMED.items():
        text = re.sub(rf"^{re.escape(old)}(?!\w)", new, text)
    return text


def unpacked(value: Any) -> Any:
    """The inverse of `packed`, but for the digits; names are today's."""
    if isinstance(value, dict) and value.keys() == {COLUMNS}:
        columns = {key: unpacked(column) for key, column in value[COLUMNS].items()}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if isinstance(value, dict):
        return {renamed(key): unpacked(one) for key, one in value.items()}
    return [unpacked(one) for one in value] if isinstance(value, list) else renamed(value)


def wanted(study: ModuleType, seeds: int | None = None) -> list[str]:
    """The names of all cells of a study, replicate by replicate."""
    count = seeds or study.SEEDS
    if hasattr(study, "OF"):
        return []
    if hasattr(study, "cells"):
        return list(study.cells(count))
    pieces = getattr(study, "PIECES", None)
    return [f"{piece}.{n}" if piece else str(n) for n in range(count) for piece in pieces or ("",)]


def read(folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The cells of a study, and a sentence for each file that is none."""
    found, broken = [], []
    for path in sorted(folder.glob(CELLS)):
        try:
            cell = records.check(json.loads(path.read_text("utf-8")), KEYS, str(path.name))
            if path != place(folder, cell["cell"], _key(cell["version"], cell["data"], cell["fingerprint"])):
                raise DataError(f"{path.name}: is cell {cell['cell']} under another name")
            found.append(cell)
        except (DataError, ValueError) as error:
            broken.append(str(error) if isinstance(error, DataError) else f"{path.name}: not JSON ({error})")
    return found, broken


def pooled(study: ModuleType, folder: Path) -> tuple[list[dict[str, Any]], int]:
    """The cells of the study's version, newest fingerprint and most frequent data; and how many were left out.

    Raises:
        DataError: a cell's file is broken: it is named, and is never averaged.
    """
    if hasattr(study, "OF"):
        every = [(name, pooled(importlib.import_module(f"evidence.{name}"), folder.parent / name)) for name in study.OF]
        cells = [cell | {"cell": f"{name}/{cell['cell']}"} for name, (own, _) in every for cell in own]
        return cells, sum(left for _, (_, left) in every)
    found, broken = read(folder)
    if broken:
        raise DataError(f"{broken[0]}; delete the file and run `make evidence STUDY={folder.name}`")
    known = list(fingerprints(folder))
    of = [c for c in found if c["version"] == version(study) and known and c["fingerprint"] == known[-1]]
    data = Counter(c["data"] for c in of).most_common(1)
    own = [c for c in of if c["data"] == data[0][0]]
    seeds = 1 + max((int(c["cell"].rpartition(".")[2]) for c in own), default=0)
    order = {name: at for at, name in enumerate(wanted(study, seeds))}
    return sorted(own, key=lambda c: order.get(c["cell"], len(order))), len(found) - len(own)


def kept(name: str, cell: str) -> dict[str, Any]:
    """The values of a study's cell that others are made of. Raises DataError where it is not there yet."""
    for one in read(PAGES / name)[0]:
        if one["cell"] == cell and one["fingerprint"] == [*fingerprints(PAGES / name)][-1]:
            values: dict[str, Any] = unpacked(one["values"])
            return values
    raise DataError(f"{name}: the cell `{cell}` is not there yet; run make evidence-queue")


def begun(study: ModuleType, folder: Path) -> bool:
    """Whether there is a cell to make the page of."""
    places = (folder, *(folder.parent / name for name in getattr(study, "OF", ())))
    return any(any(place.glob(CELLS)) for place in places)


def replicates(study: ModuleType, cells: Sequence[dict[str, Any]]) -> list[Any]:
    """What `show` gets: a replicate's values, whole; of a study in pieces a table of those that are there."""
    if not getattr(study, "PIECES", None):
        return [unpacked(cell["values"]) for cell in cells]
    out: dict[str, dict[str, Any]] = {}
    for cell in cells:
        piece, _, number = cell["cell"].rpartition(".")
        out.setdefault(number, {})[piece] = unpacked(cell["values"])
    complete = len(study.PIECES)
    return [found for found in out.values() if len(found) == complete or getattr(study, "PARTIAL", False)]


def version(study: ModuleType) -> int:
    return int(getattr(study, "VERSION", 1))


def fingerprints(folder: Path) -> dict[str, Any]:
    """What the small measurement gave, by its digest; the last is today's."""
    path = folder / "fingerprints.json"
    return files.read_json(path) if path.is_file() else {}


def fingerprint(study: ModuleType, folder: Path, keep: bool = True) -> tuple[str, list[str]]:
    """The digest of the kept fingerprint that today's agrees with, else of a new one; what differs from the last."""
    known, small = fingerprints(folder), packed(study.measure(0, "small"))
    differ = {name: differences(old, small, study) for name, old in known.items()}
    new = hashlib.sha256(records.canonical({"small": small}).encode()).hexdigest()[:8]
    name = next((name for name, found in differ.items() if not found), new)
    if keep and [*known][-1:] != [name]:
        kept = known.pop(name, small)
        files.write_json(folder / "fingerprints.json", {**known, name: kept}, indent=None)
    return name, [*differ.values()][-1] if differ else ["small"]


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
    if isinstance(kept, (int, float)) and isinstance(found, (int, float)) and float in (type(kept), type(found)):
        tolerance = getattr(study, "TOLERANCE", 1e-6)
        return [] if abs(kept - found) <= tolerance * max(abs(kept), abs(found), NOISE) else [path]
    return [] if kept == found else [path]


def stated(study: ModuleType) -> dict[str, Any]:
    """What a study says before its first cell."""
    return json.loads(json.dumps({name.lower(): getattr(study, name) for name in STATED if hasattr(study, name)}))


def check_plan(study: ModuleType, folder: Path, keep: bool = False) -> None:
    """Compare what a study states with what it stated before its version's first cell; keep that of a new version.

    Raises:
        DataError: it differs: results must not choose the question.
    """
    path, own = folder / "plan.json", str(version(study))
    plans = unpacked(files.read_json(path)) if path.is_file() else {}
    now = stated(study)
    if own not in plans and keep:
        files.write_json(path, {**plans, own: now})
    elif own in plans and (changed := [k for k in {**plans[own], **now} if plans[own].get(k) != now.get(k)]):
        raise DataError(
            f"{folder.name}: {changed[0].upper()} is not what was stated before the first cell of version {own}; "
            f"set VERSION = {int(own) + 1} in evidence/{folder.name}.py, and its cells are made anew"
        )


def key_of(study: ModuleType, folder: Path) -> tuple[str, str, str]:
    """(data, fingerprint, key) of a cell that would be made now."""
    name, data = fingerprint(study, folder)[0], str(study.text_hash()) if hasattr(study, "text_hash") else ""
    return data, name, _key(version(study), data, name)


def _key(of: int, data: str, print_: str) -> str:
    return hashlib.sha256(f"{of}/{data}/{print_}".encode()).hexdigest()[:6]


def place(folder: Path, cell: str, key: str) -> Path:
    """The file of a cell."""
    name = re.sub(r"[^\w.-]+", "-", cell)
    return folder / "cells" / f"{name}-{key}.json"


def make(study: ModuleType, cell: str, folder: Path, of: tuple[str, str, str]) -> bool:
    """Measure one cell and write it; False where it is there, or another process is at it. `of` is `key_of`'s."""
    data, print_, key = of
    path = place(folder, cell, key)
    try:
        with locked(records.ROOT / "studies" / "evidence" / f"{folder.name}-{path.stem}.lock", busy="busy"):
            files.sweep(path)  # what a killed process was writing
            if path.exists() and not any(line.startswith(path.name) for line in read(folder)[1]):
                return False
            check_plan(study, folder, keep=True)
            start, (piece, _, number) = time.monotonic(), cell.rpartition(".")
            with records.Others() as others:
                values = packed(study.measure(int(number), "full", *([piece] if piece else [])))
            stamp = records.stamp()
            if names := getattr(study, "PACKAGES", ()):
                stamp["machine"] |= {"packages": {name: importlib.metadata.version(name) for name in names}}
            record = records.sealed({
                "study": folder.name, "cell": cell, "version": version(study), "data": data, "fingerprint": print_,
                "values": values, "seconds": round(time.monotonic() - start, 1), "others": others.share,
                **stamp,
            })  # fmt: skip
            text = records.canonical(record) + "\n"
            if len(text.encode()) > MOST:
                raise DataError(f"{path.name}: {len(text.encode()):,} bytes; a cell has at most {MOST:,}: name PIECES")
            files.write_text(path, text)
    except files.LlmanacError as error:
        if str(error) == "busy":
            return False
        raise
    return True
