"""The bodies of `llmanac data build`, `inspect` and `why`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmanac.core.errors import DataError
from llmanac.core.spec import parse_patches, patch, to_toml
from llmanac.data.pipeline.build import build
from llmanac.data.pipeline.recipe import as_data, read_recipe
from llmanac.data.pipeline.report import load_manifest, print_build, print_fate


def build_command(
    recipe: Path,
    patches: list[str],
    *,
    folder: Path | None,
    workers: int | None,
    engine: str,
    resume: bool,
    show: bool,
) -> None:
    """Build, print what came of it, and say what to look at next."""
    made = patch(read_recipe(recipe), parse_patches(patches))
    if show:
        print(to_toml(as_data(made)), end="")
        return
    if engine not in ("local", "ray"):
        raise DataError(f"--engine: {engine!r} is not one of local, ray")
    target = Path("corpora") / recipe.stem if folder is None else folder
    again = f"run the same command again to go on: llmanac data build {recipe} --folder {target}"
    try:
        manifest = build(made, target, workers=workers, engine=engine, resume=resume)  # type: ignore[arg-type]
    except KeyboardInterrupt:
        print(f"\nstopped; what was finished is kept in {target}. Now {again}")
        raise SystemExit(130) from None
    print_build(target, manifest)
    print(f"Next: llmanac data why {target} ID, with an id from {target}/dropped or {target}/data")


def inspect_command(folder: Path, *, as_json: bool) -> None:
    """Print what a build did."""
    import json

    manifest: dict[str, Any] = load_manifest(folder)
    if as_json:
        print(json.dumps(manifest, indent=1))
        return
    print_build(folder, manifest)
    print(f"Next: llmanac data why {folder} ID")


def why_command(folder: Path, name: str) -> None:
    """Print what became of one document."""
    print_fate(folder, name)
