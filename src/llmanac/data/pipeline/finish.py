"""The end of a build: what each file of the output holds, the lists of dropped documents, the manifest.

What a build kept, what it dropped and why: its manifest, a picture, and the fate of one document.
"""

import contextlib
import hashlib
import importlib.metadata
import itertools
import json
import os
import platform
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from llmanac import __version__
from llmanac.core import files
from llmanac.core.errors import DataError, LlmanacError, nearest
from llmanac.core.pages import bar_chart
from llmanac.core.progress import progress
from llmanac.core.spec import to_toml
from llmanac.data.pipeline import mixing, tasks
from llmanac.data.pipeline.inputs import Entry
from llmanac.data.pipeline.recipe import BuildSpec, as_data
from llmanac.data.pipeline.records import read_output

STAGE = {"name": str, **dict.fromkeys(("documents_in", "documents_out", "bytes_out", "changed"), int), "dropped": dict}
FORM = {"stages": STAGE, "output.files": {"name": str, "bytes": int}}  # what is read of a manifest's lists
LOOKED_AT = 20_000  # ids that one that is not found is compared with


def load_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished build. Raises DataError that says what the folder is instead."""
    path = folder / "manifest.json"
    if not path.is_file() and (folder / "build.json").is_file():
        raise DataError(
            f"{folder}: this build is not finished; run `llmanac data build` with its recipe again to go on"
        )
    if not path.is_file():
        raise DataError(f"{folder}: holds no build; name the folder that `llmanac data build` wrote")
    again = "delete it, and run `llmanac data build` with its recipe again, which keeps what is complete"
    try:
        found = files.read_json(path)
    except DataError as error:
        raise DataError(f"{error}; {again}") from None
    files.field(found, "output.documents", int, path, again)
    for key, kinds in FORM.items():
        for one in files.field(found, key, list, path, again):
            for name, kind in kinds.items():
                files.field(one, name, kind, path, again)
    return cast(dict[str, Any], found)


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
        try:
            with open(path, "rb") as handle:
                if (line := next((line for line in handle if line.startswith(start)), None)) is not None:
                    return dict(json.loads(line))
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: damaged ({error}); delete it and run its build again") from None
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


LISTED = 200  # input files that the manifest lists; inputs.jsonl has all
LIBRARIES = ("numpy", "numba", "pyarrow", "warcio", "pypdf", "trafilatura", "resiliparse", "selectolax", "lxml")


def plan_output(
    root: Path, recipe: BuildSpec, shards: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], dict[str, Any] | None, list[dict[str, Any]]]:
    """What each file of the output holds; and, where domains are mixed, what the manifest says of that, and the task
    that lists what the mixture did not draw."""
    for shard in shards:
        shard["path"], shard["domain"] = f"{shard['base']}.docs", recipe.inputs[shard["input"]].domain
    size = recipe.output.shard_bytes
    if recipe.mixture is None:
        return mixing.plan_in_order(shards, size), None, []
    tasks.need(root, [{"kind": "order", "sections": [[shard["path"]] for shard in shards]}])
    domains = mixing.domains_of(shards, {item.domain: item.weight for item in recipe.inputs})
    plans, drawn, left = mixing.plan_mixed(root, shards, domains, recipe.mixture, size)
    return plans, drawn, _plan_list(recipe, drawn, left)


def _plan_list(recipe: BuildSpec, drawn: dict[str, Any], left: dict[str, list[Any]]) -> list[dict[str, Any]]:
    if not left:
        return []
    has = {name: drawn["drawn"][name] + drawn["not_drawn"][name] for name in left}
    details = {
        name: f"{drawn['drawn'][name]:,} of {has[name]:,} documents of {f'the domain {name}' if name else 'no domain'} "
        "were drawn"
        for name in left
    }
    key = f"{len(recipe.stages) + 1:02d}-mixture"
    return [{"kind": "undrawn", "folder": "work/undrawn", "key": key, "left": left, "details": details}]


def gather(finished: list[tuple[Path, str]], root: Path) -> None:
    """Move the output's files into `data/`, which takes its name when all are in it; goes on where it was stopped.

    Where `data/` is there already (a resumed build, or lost files made again) they are moved into it.
    """
    there = (root / "data").exists()
    gathered = root / "data" if there else root / "work" / "data"
    gathered.mkdir(exist_ok=True)
    for path, name in finished:
        if path.exists():
            os.replace(path, gathered / name)
        elif not (gathered / name).exists():
            raise LlmanacError(f"{path}: is gone; run the same command again")
    names = {name for _, name in finished}
    for path in gathered.iterdir():  # of an earlier end, with another cut into files
        if path.name not in names and re.fullmatch(r"\d{5}\.(jsonl|jsonl\.gz|parquet)", path.name):
            path.unlink()
    if not there:
        os.replace(gathered, root / "data")


def gather_lists(root: Path, keys: list[str], dropped: list[Path]) -> None:
    """Join the lists of dropped documents, one a stage, in the order of the input."""
    with files.atomic_folder(root / "dropped") as target:
        for key in keys:
            parts = [path for path in dropped if path.name == f"dropped-{key}.jsonl" and path.exists()]
            if not parts:
                continue
            with open(target / f"{key}.jsonl", "wb") as out:
                for path in parts:
                    with open(path, "rb") as part:
                        shutil.copyfileobj(part, out, 1 << 20)


def output_of(
    recipe: BuildSpec, shards: list[dict[str, Any]], drawn: dict[str, Any] | None, written: list[dict[str, Any]]
) -> dict[str, Any]:
    """What the manifest says of the output, from what the tasks that wrote it left."""
    output: dict[str, Any] = {
        "documents": sum(drawn["drawn"].values()) if drawn else sum(shard["documents"] for shard in shards),
        "format": recipe.output.format,
        "files": [done["files"][0] for done in written],
    }
    if pages := sum(done.get("html", 0) for done in written):
        output["html_pages"] = pages
    if drawn:
        sizes = {name: sum(done["domain_bytes"].get(name, 0) for done in written) for name in drawn["drawn"]}
        output["mixture"] = {**drawn, "bytes": sizes}
    return output


def write_all(
    root: Path, recipe: BuildSpec, entries: list[Entry], stages: list[dict[str, Any]], output: dict[str, Any]
) -> dict[str, Any]:
    """Recipe, picture, and last the manifest, which is returned."""
    listing = [
        {"input": e["input"], "file": e["shown"], "bytes": e["bytes"], "sha256": e.get("sha256")}
        for e in entries
        if "aside" not in e
    ]
    manifest = {
        "format_version": 1,
        "llmanac": __version__,
        "python": platform.python_version(),
        "libraries": _versions(),
        "recipe": as_data(recipe),
        "inputs": {
            "files": len(listing),
            "bytes": sum(e["bytes"] for e in listing),
            "sha256": hashlib.sha256(json.dumps(listing).encode()).hexdigest(),
            "listed": listing[:LISTED],
        },
        "stages": stages,
        "output": output,
        "lists": tasks.listed(root / "dropped"),
    }
    write_beside(root, recipe, stages)
    files.write_json(root / "manifest.json", manifest)
    return manifest


def write_beside(root: Path, recipe: BuildSpec, stages: list[dict[str, Any]]) -> None:
    """The recipe and the picture, where they are not there."""
    if not (root / "recipe.toml").exists():
        # TOML cannot hold a path that is not UTF-8; build.json has it
        files.write_bytes(root / "recipe.toml", to_toml(as_data(recipe)).encode("utf-8", "replace"))
    if not (root / "stages.svg").exists():
        files.write_text(root / "stages.svg", picture(stages))


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
