"""`llmanac data`: build a corpus, say what became of its documents, learn the weights of its domains."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from llmanac.core.errors import DataError

app = typer.Typer(help="Build a corpus and see what became of its documents.", no_args_is_help=True)


@app.command("build")
def build_command(
    recipe: Annotated[Path, typer.Argument(help="The recipe: inputs, stages, output (docs/data.md).")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="PATH=VALUE", help="Patch, e.g. -s output.format=parquet."),
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="Where the corpus goes [corpora/<recipe>].")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes [all cores].")] = None,
    engine: Annotated[str, typer.Option(help="local, or ray.")] = "local",
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on with what is there, or begin anew.")
    ] = True,
    show: Annotated[bool, typer.Option("--show", help="Print the resolved recipe and stop.")] = False,
) -> None:
    """Build a corpus: read, clean, filter, deduplicate, mix, write."""
    from llmanac.core.spec import parse_patches, patch, to_toml
    from llmanac.data.pipeline.build import build
    from llmanac.data.pipeline.recipe import as_data, read_recipe

    made = patch(read_recipe(recipe), parse_patches(set_ or ()))
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


@app.command("inspect")
def inspect_command(
    folder: Annotated[Path, typer.Argument(help="The folder of a build.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest.")] = False,
) -> None:
    """What each stage kept and dropped, and why."""
    from llmanac.data.pipeline.report import load_manifest

    manifest = load_manifest(folder)
    if as_json:
        print(json.dumps(manifest, indent=1))
        return
    print_build(folder, manifest)
    print(f"Next: llmanac data why {folder} ID")


@app.command("why")
def why_command(
    folder: Annotated[Path, typer.Argument(help="The folder of a build.")],
    id: Annotated[str, typer.Argument(help="A document's id, e.g. train.jsonl:17.")],
) -> None:
    """Why a document was dropped, or where it is."""
    print_fate(folder, id)


@app.command("weights")
def weights_command(
    folder: Annotated[Path, typer.Argument(help="A finished build whose inputs have domains.")],
    out: Annotated[Path | None, typer.Option(help="Where the two models and weights.json go [FOLDER-weights].")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Training steps of each model.")] = 300,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
) -> None:
    """Learn how to weigh the domains of a build from a proxy's loss (DoReMi)."""
    from llmanac.core.spec import to_toml
    from llmanac.recipes.mixing import learn_weights

    file, learned = learn_weights(folder, out, steps=steps, seed=seed)
    print(f"{'domain':20} {'as it is':>9} {'learned':>9}   (shares of the bytes)")
    for name, weight in learned["weights"].items():
        print(f"{name or 'no domain':20} {learned['natural'][name]:9.1%} {weight:9.1%}")
    table = to_toml({"mixture": {"name": "doremi", "file": str(file), "unit": learned["unit"]}})
    print(
        "Next: build again with this at the end of the recipe; a mixture that is there already has to go:\n\n"
        f"{table.strip()}"
    )


def _size(value: float) -> str:
    """Bytes as a person reads them."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.0f} B"


def print_build(folder: Path, manifest: Mapping[str, Any]) -> None:
    """The table of stages, with a bar for what each kept."""
    from llmanac.cli.tables import Console, make_table
    from llmanac.data.pipeline.report import reasons

    console = Console()
    heads = ("stage", "in", "kept", "", "bytes", "changed")
    kept_rows, dropped_rows = [], []
    for stage in manifest["stages"]:
        given, kept = stage["documents_in"], stage["documents_out"]
        share = kept / given if given else 1.0
        bar = "█" * round(10 * share) + "·" * (10 - round(10 * share))
        changed = f"{stage['changed']:,}" if stage["changed"] else ""
        size = _size(stage["bytes_out"])
        kept_rows.append((stage["name"], f"{given:,}", f"{kept:,}", f"{bar} {share:.1%}", size, changed))
        dropped_rows += [(stage["name"], reason, f"{count:,}") for reason, count in reasons(stage)]
    console.print(make_table(f"{folder}: what each stage kept", heads, kept_rows, left=(0, 3)))
    if dropped_rows:
        why = ("stage", "reason", "documents")
        console.print(make_table("what was dropped, and why", why, dropped_rows, left=(0, 1)))
    for stage in manifest["stages"]:
        for name, value in (stage.get("found") or {}).items():
            if isinstance(value, (int, float, str)):
                console.print(f"{stage['name']}: {name} {value}", markup=False, highlight=False)
    output = manifest["output"]
    total = sum(file["bytes"] for file in output["files"])
    count = len(output["files"])
    line = f"output: {output['documents']:,} documents in {count} file{'s' * (count != 1)}, {_size(total)}"
    console.print(line, markup=False, highlight=False)
    for line in _domains(manifest):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"picture: {folder / 'stages.svg'}", markup=False, highlight=False)
    if not output["documents"]:
        console.print("nothing was kept: the lists in dropped/ say why", markup=False)
    if pages := output.get("html_pages"):
        console.print(
            f"warning: {pages:,} document{'s are' if pages > 1 else ' is'} raw HTML; add the stage extraction before "
            'the others (stages = ["extraction", ...]) to train on the text of pages',
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip


def _domains(manifest: Mapping[str, Any]) -> Iterator[str]:
    """A line a domain of a mixture: its share of what was written, by documents and by bytes, and what was drawn."""
    if not (mixed := manifest["output"].get("mixture")):
        return
    unit = mixed.get("unit", "documents")
    yield f"the mixture gives shares of the {unit}; what was written of each domain:"
    counts = {"documents": mixed["drawn"], "bytes": mixed.get("bytes", {})}
    totals = {of: max(1, sum(by.values())) for of, by in counts.items()}
    for name, drawn in mixed["drawn"].items():
        shares = [f"{by[name] / totals[of]:.1%} of the {of}" for of, by in counts.items() if name in by]
        line = ", ".join(reversed(shares) if unit == "bytes" else shares)
        line += f"; {drawn:,} drawn, {mixed['epochs'][name]:.2f} times"
        if left := mixed["not_drawn"][name]:
            line += f"; {left:,} not drawn"
        yield f"  {name or 'no domain'}: {line}"


def print_fate(folder: Path, name: str) -> None:
    """The fate of one document, in a few lines."""
    from llmanac.data.pipeline.mixing import NOT_DRAWN
    from llmanac.data.pipeline.report import fate

    found = fate(folder, name)
    if found["kept"]:
        first = found["text"][:300].replace("\n", "\n    ")
        print(f"{name}: kept, in {found['file']}\n    {first}{'…' if len(found['text']) > 300 else ''}")
        return
    detail = f" ({found['detail']})" if found["detail"] else ""
    if found["reason"] == NOT_DRAWN and found["stage"] == "mixture":
        print(f"{name}: passed every stage and was not drawn by the mixture{detail}")
        return
    print(f"{name}: dropped by {found['stage']}: {found['reason']}{detail}")
