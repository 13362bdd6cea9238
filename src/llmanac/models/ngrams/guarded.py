"""`llmanac ngram`: the commands of `command.py`; `train` overwrites nothing unasked, and `score` explains zeros."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from llmanac.core.errors import SpecError
from llmanac.models.ngrams import command

ZEROS = (
    "note: without smoothing (mle) an n-gram that was never counted has probability 0, kept as 10^-99, and one of them "
    "decides the perplexity; train with --smoothing modified-kneser-ney for a figure to compare"
)
Force = Annotated[bool, typer.Option("--force", help="Overwrite what --output names.")]

app = typer.Typer(no_args_is_help=True, help=command.app.info.help)


def _with_option(function: Callable[..., Any], name: str, annotation: Any, default: Any) -> Callable[..., Any]:
    """A decorator: the options of a command, and one more."""

    def decorate(body: Callable[..., Any]) -> Callable[..., Any]:
        made: Any = functools.wraps(function)(body)
        signature = inspect.signature(function, eval_str=True)
        more = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        made.__signature__ = signature.replace(parameters=[*signature.parameters.values(), more])
        made.__annotations__ = {**function.__annotations__, name: annotation}
        return made

    return decorate


@app.command()
@_with_option(command.train, "force", Force, False)
def train(*, force: bool, **choices: Any) -> None:
    """Refuse to overwrite, then as in `command.py`."""
    output: Path = choices["output"]
    if not force and (any(output.iterdir()) if output.is_dir() else output.exists()):
        raise SpecError(f"--output: {output} is there already; name another place, or overwrite it with --force")
    command.train(**choices)


@app.command()
@functools.wraps(command.score)
def score(**choices: Any) -> None:
    """As in `command.py`, with a word on a model that gives zeros."""
    command.score(**choices)
    if command.load(choices["model"]).trie.about.get("smoothing") == "mle":
        print(ZEROS, file=sys.stderr)


app.command()(command.query)
app.command()(command.convert)
