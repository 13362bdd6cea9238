"""`llmanac data`: build a corpus, report what happened to its documents, learn the weights of its domains."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from llmanac.cli.options import AsJson, Seed, Show, group, stopping
from llmanac.cli.pictures import emoji_command
from llmanac.core.errors import DataError

OFF_TARGET = 0.01  # of the output: a domain that is further from its target gets the reason

app = group("Build a corpus and see what happened to its documents.")
Built = Annotated[Path, typer.Argument(help="The folder of a build.")]


@app.command("build")
def build_command(
    recipe: Path, set_: list[str] | None = None, folder: Path | None = None, workers: int | None = None,
    engine: str = "local", resume: bool = True, show: Show = False,
) -> Any:  # fmt: skip
    """Build a corpus: read, clean, filter, deduplicate, mix, write.

    Args:
        recipe: The recipe: inputs, stages, output (docs/data.md).
        set_ (-s, PATH=VALUE): E.g. -s output.format=parquet.
        folder: Output folder [corpora/<recipe>].
        workers (from 1): Processes [all cores].
        engine: local or ray.
        resume (--resume/--no-resume): Continue, or start over.
    """
    from llmanac.core.spec import parse_patches, patch, to_toml
    from llmanac.data.pipeline.build import build
    from llmanac.data.pipeline.recipe import as_data, read_recipe

    made = patch(read_recipe(recipe), parse_patches(set_ or ()))
    if show:
        print(to_toml(as_data(made)), end="")
        return as_data(made)
    if engine not in ("local", "ray"):
        raise DataError(f"--engine: {engine!r} is not one of local, ray")
    target = Path("corpora") / recipe.stem if folder is None else folder
    with stopping(f"llmanac data build {recipe} --folder {target}", f"finished work is kept in {target}"):
        manifest = build(made, target, workers=workers, engine=engine, resume=resume)  # type: ignore[arg-type]
    print_build(target, manifest)
    print(f"Next: llmanac data why {target} ID, with an id from {target}/dropped or {target}/data")
    return manifest


@app.command("inspect")
def inspect_command(
    folder: Built,
    as_json: AsJson = False,
) -> None:
    """What each stage kept and dropped, and why."""
    from llmanac.data.pipeline.finish import load_manifest

    manifest = load_manifest(folder)
    if as_json:
        print(json.dumps(manifest, indent=1))
        return
    print_build(folder, manifest)
    print(f"Next: llmanac data why {folder} ID")


@app.command("why")
def why_command(folder: Built, id: str) -> None:
    """Why a document was dropped, or where it is.

    Args:
        id: A document's id, e.g. train.jsonl:17.
    """
    print_fate(folder, id)


@app.command("weights")
def weights_command(folder: Path, out: Path | None = None, steps: int = 300, seed: Seed = 0) -> Any:
    """Learn the weights of the domains of a build from a proxy model's loss (DoReMi).

    Args:
        folder: A finished build whose inputs have domains.
        out: Folder for the models and weights.json [FOLDER-weights].
        steps (from 1): Training steps of each model.
    """
    from llmanac.core.spec import to_toml
    from llmanac.recipes.mixing import learn_weights

    file, learned = learn_weights(folder, out, steps=steps, seed=seed)
    print(f"{'domain':20} {'natural':>9} {'learned':>9}   (fraction of the bytes)")
    for name, weight in learned["weights"].items():
        print(f"{name or 'no domain':20} {learned['natural'][name]:9.1%} {weight:9.1%}")
    table = to_toml({"mixture": {"name": "doremi", "file": str(file), "unit": learned["unit"]}})
    print(f"Next: build again with this mixture at the end of the recipe, in place of any other:\n\n{table.strip()}")
    return learned


def _size(value: float) -> str:
    """A number of bytes with three digits and a unit."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.0f} B"


def print_build(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Print the table of stages, with a bar for the fraction that each kept."""
    from llmanac.cli.tables import print_table
    from llmanac.data.pipeline.finish import reasons

    kept_rows, dropped_rows, lines = [], [], []
    for stage in manifest["stages"]:
        given, kept = stage["documents_in"], stage["documents_out"]
        share = kept / given if given else 1.0
        bar = "█" * round(10 * share) + "·" * (10 - round(10 * share))
        changed = f"{stage['changed']:,}" if stage["changed"] else ""
        size = _size(stage["bytes_out"])
        kept_rows.append((stage["name"], f"{given:,}", f"{kept:,}", f"{bar} {share:.1%}", size, changed))
        dropped_rows += [(stage["name"], reason, f"{count:,}") for reason, count in reasons(stage)]
    heads = ("stage", "in", "kept", "", "bytes", "changed")
    print_table(f"{folder}: what each stage kept", heads, kept_rows, left=(0, 3))
    if dropped_rows:
        print_table("what was dropped, and why", ("stage", "reason", "documents"), dropped_rows, left=(0, 1))
    for stage in manifest["stages"]:
        for name, value in (stage.get("found") or {}).items():
            if isinstance(value, (int, float, str)):
                lines.append(f"{stage['name']}: {name} {value}")
    output = manifest["output"]
    total = sum(file["bytes"] for file in output["files"])
    count = len(output["files"])
    lines.append(f"output: {output['documents']:,} documents in {count} file{'s' * (count != 1)}, {_size(total)}")
    lines += [*_domains(manifest), f"picture: {folder / 'stages.svg'}"]
    if not output["documents"]:
        lines.append("nothing was kept: the lists in dropped/ say why")
    if pages := output.get("html_pages"):
        lines.append(
            f"warning: {pages:,} document{'s are' if pages > 1 else ' is'} raw HTML; add the stage extraction before "
            'the others (stages = ["extraction", ...]) to train on the text of pages'
        )
    print("\n".join(lines))


def _domains(manifest: Mapping[str, Any]) -> Iterator[str]:
    """A line for each domain of a mixture: its target, its fraction of what was written, and what was drawn."""
    if not (mixed := manifest["output"].get("mixture")):
        return
    unit = mixed.get("unit", "documents")
    yield f"the mixture's weights are fractions of the {unit}; written from each domain:"
    counts = {"documents": mixed["drawn"], "bytes": mixed.get("bytes", {})}
    totals = {of: max(1, sum(by.values())) for of, by in counts.items()}
    for name, drawn in mixed["drawn"].items():
        shares = [f"{by[name] / totals[of]:.1%} of the {of}" for of, by in counts.items() if name in by]
        line = ", ".join(reversed(shares) if unit == "bytes" else shares)
        target = mixed["targets"][name]
        line = f"target {target:.1%}, written {line}"
        if unit == "bytes" and abs(counts["bytes"][name] / totals["bytes"] - target) > OFF_TARGET:
            line += f" (a document is drawn whole, and its longest has {_size(mixed['longest'][name])})"
        line += f"; {drawn:,} drawn, {mixed['epochs'][name]:.2f} times"
        if left := mixed["not_drawn"][name]:
            line += f"; {left:,} not drawn"
        yield f"  {name or 'no domain'}: {line}"


def print_fate(folder: Path, name: str) -> None:
    """Say what happened to one document."""
    from llmanac.data.pipeline.finish import fate
    from llmanac.data.pipeline.mixing import NOT_DRAWN

    found = fate(folder, name)
    if found["kept"]:
        first = found["text"][:300].replace("\n", "\n    ")
        print(f"{name}: kept, in {found['file']}\n    {first}{'…' if len(found['text']) > 300 else ''}")
        return
    detail = f" ({found['detail']})" if found["detail"] else ""
    if found["reason"] == NOT_DRAWN and found["stage"] == "mixture":
        print(f"{name}: passed every stage and was not drawn by the mixture{detail}")
    else:
        print(f"{name}: dropped by {found['stage']}: {found['reason']}{detail}")


app.command("emoji")(emoji_command)
