"""What a build kept, what it dropped and why: its manifest, a picture, and the fate of one document."""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmanac.core import files
from llmanac.core.errors import DataError, nearest
from llmanac.core.pages import bar_chart
from llmanac.core.progress import progress
from llmanac.data.pipeline.records import read_output

LOOKED_AT = 20_000  # ids that one that is not found is compared with


def load_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished build. Raises DataError that says what the folder is instead."""
    if (folder / "manifest.json").is_file():
        return _read(folder / "manifest.json")
    if (folder / "build.json").is_file():
        raise DataError(
            f"{folder}: this build is not finished; run `llmanac data build` with its recipe again to go on"
        )
    raise DataError(f"{folder}: holds no build; name the folder that `llmanac data build` wrote")


def _read(path: Path) -> dict[str, Any]:
    again = "delete it, and run `llmanac data build` with its recipe again, which keeps what is complete"
    try:
        found = files.read_json(path)
    except DataError as error:
        raise DataError(f"{error}; {again}") from None
    if not isinstance(found, dict) or not isinstance(found.get("stages"), list):
        raise DataError(f"{path}: is not the manifest of a build; {again}")
    return found


def reasons(stage: Mapping[str, Any]) -> list[tuple[str, int]]:
    """A stage's reasons and how many documents each took, the most frequent first."""
    return sorted(stage["dropped"].items(), key=lambda item: (-item[1], item[0]))


def picture(stages: Sequence[Mapping[str, Any]]) -> str:
    """A bar a stage, as wide as the documents that reached it: what it kept, and one part for each reason."""
    bars = {
        stage["name"]: {"kept": stage["documents_out"]}
        | {f"{stage['name']}: {reason} {count:,}": count for reason, count in reasons(stage)}
        for stage in stages
    }
    return bar_chart({"documents through the stages": bars}, "Documents through the stages").svg


def _dropped(folder: Path) -> list[Path]:
    return sorted((folder / "dropped").glob("*.jsonl"))


def _find(paths: Iterable[Path], name: str) -> dict[str, Any] | None:
    """The line about a document; only lines that begin with its id are parsed."""
    start = json.dumps({"id": name}, ensure_ascii=False).encode("utf-8", "replace")[:-1]
    for path in paths:
        with open(path, "rb") as handle:
            for line in handle:
                if line.startswith(start):
                    return dict(json.loads(line))
    return None


def fate(folder: Path, name: str) -> dict[str, Any]:
    """What became of a document: `{"id", "kept": False, "stage", "reason", "detail"}`, or where it was written.

    Raises:
        DataError: the folder holds no finished build, or no document is called so.
    """
    manifest = load_manifest(folder)
    found = _find(_dropped(folder), name)
    if found is not None:
        return {"kept": False, **found}
    outputs = [folder / "data" / file["name"] for file in manifest["output"]["files"]]
    with progress(f"look for {name}", total=len(outputs), unit="files") as bar:
        for path in outputs:
            row = _row(path, name)
            if row is not None:
                return {"id": name, "kept": True, "file": f"data/{path.name}", "meta": row["meta"], "text": row["text"]}
            bar.advance()
    hint = f"; {manifest['output']['documents']:,} documents were written, the dropped ones are in {folder / 'dropped'}"
    left = sum((manifest["output"].get("mixture") or {"not_drawn": {}})["not_drawn"].values())
    if left and not any(path.stem.endswith("-mixture") for path in _dropped(folder)):  # built before that list
        hint += f", and {left:,} that passed every stage were not drawn by the mixture"
    known = list(itertools.islice(_ids(folder, outputs), LOOKED_AT))
    longer = next((one for one in known if one.endswith(f"/{name}")), None)  # without its domain
    alike = f"; did you mean {longer!r}?" if longer else nearest(name, known)
    raise DataError(f"{folder}: no document is called {name!r}{alike or hint}")


def _ids(folder: Path, outputs: Sequence[Path]) -> Iterator[str]:
    """The ids of what was kept, then of what was dropped."""
    for path in outputs:
        yield from (row["id"] for row in read_output(path))
    for path in _dropped(folder):
        with open(path, "rb") as handle:
            yield from (json.loads(line)["id"] for line in handle)


def _row(path: Path, name: str) -> dict[str, Any] | None:
    if path.suffix in (".parquet", ".gz"):
        return next((row for row in read_output(path) if row["id"] == name), None)
    return _find([path], name)
