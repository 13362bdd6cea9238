"""The end of a build: what each file of the output holds, the lists of dropped documents, the manifest."""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
from pathlib import Path
from typing import Any

from llmanac import __version__
from llmanac.core import files
from llmanac.core.errors import LlmanacError
from llmanac.core.spec import to_toml
from llmanac.data.pipeline import mixing, sound
from llmanac.data.pipeline.inputs import Entry
from llmanac.data.pipeline.recipe import BuildSpec, as_data
from llmanac.data.pipeline.report import picture

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
    sound.need(root, [{"kind": "order", "sections": [[shard["path"]] for shard in shards]}])
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
        "lists": sound.listed(root / "dropped"),
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
