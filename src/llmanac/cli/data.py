"""`llmanac data ...`: each command imports what it needs when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Build a corpus and see what became of its documents.", no_args_is_help=True)


@app.command()
def build(
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
    from llmanac.data.pipeline.command import build_command

    build_command(
        recipe, list(set_ or ()), folder=folder, workers=workers, engine=engine, resume=resume, show=show
    )  # fmt: skip


@app.command()
def inspect(
    folder: Annotated[Path, typer.Argument(help="The folder of a build.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest.")] = False,
) -> None:
    """What each stage kept and dropped, and why."""
    from llmanac.data.pipeline.command import inspect_command

    inspect_command(folder, as_json=as_json)


@app.command()
def why(
    folder: Annotated[Path, typer.Argument(help="The folder of a build.")],
    id: Annotated[str, typer.Argument(help="A document's id, e.g. train.jsonl:17.")],
) -> None:
    """Why a document was dropped, or where it is."""
    from llmanac.data.pipeline.command import why_command

    why_command(folder, id)
