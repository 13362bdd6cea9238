"""`llmanac quality train` and `llmanac quality score`: only the flags; the work is in `quality_command.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmanac.cli.options import Include

quality_app = typer.Typer(
    name="quality", help="Train and use a classifier of text quality.", no_args_is_help=True, rich_markup_mode=None
)

TextColumn = Annotated[str, typer.Option(help="Column that holds the text, in tables.")]


@quality_app.command("train")
def train(
    positive: Annotated[list[str], typer.Option(help="Files or folders of texts that are wanted; repeatable.")],
    negative: Annotated[list[str], typer.Option(help="Files or folders of texts that are not; repeatable.")],
    folder: Annotated[Path, typer.Option(help="Where the model goes.")] = Path("quality"),
    text: TextColumn = "text",
    bits: Annotated[int, typer.Option(help="2^bits weights.")] = 18,
    longest: Annotated[int, typer.Option(help="Longest character n-gram; 0 for words alone.")] = 4,
    epochs: Annotated[int, typer.Option(min=1)] = 5,
    held_out: Annotated[float, typer.Option(help="Share of the texts to measure on.")] = 0.2,
    seed: Annotated[int, typer.Option()] = 0,
    include: Include = None,
) -> None:
    """Train a classifier, and measure precision and recall on texts held out."""
    from llmanac.data.quality_command import train_command

    train_command(
        positive,
        negative,
        folder,
        text=text,
        bits=bits,
        longest=longest,
        epochs=epochs,
        held_out=held_out,
        seed=seed,
        include=include or (),
    )


@quality_app.command("score")
def score(
    model: Annotated[Path, typer.Argument(help="The folder of a trained classifier.")],
    files: Annotated[list[str], typer.Argument(help="Files or folders of texts.")],
    text: TextColumn = "text",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a text.")] = False,
    include: Include = None,
) -> None:
    """Score texts, 0 to 1: how likely each is one of those that are wanted."""
    from llmanac.data.quality_command import score_command

    score_command(model, files, text=text, as_json=as_json, include=include or ())
