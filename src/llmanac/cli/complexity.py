"""`llmanac complexity`: how the costs of mixers grow with the length, and from where each is faster than attention."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from llmanac.cli.options import AsJson
from llmanac.core.errors import SpecError

STEPS = 5  # lengths, each twice the one before


def complexity_command(
    mixers: Annotated[list[str] | None, typer.Argument(help="Such as mamba, multi-head@flash [all].")] = None,
    dim: Annotated[int, typer.Option(min=4, help="Width of the layer.")] = 64,
    longest: Annotated[int, typer.Option(min=64, help="The longest of five lengths, each half of the next.")] = 4096,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="SVG of the training times.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure how operations, memory and time of each mixer grow with the length, against theory."""
    from llmanac.core import files
    from llmanac.lab import complexity
    from llmanac.lab._svg import standalone

    if output is not None and output.suffix != ".svg":
        raise SpecError(f"--output: {output} should end in .svg")
    names = list(mixers or complexity.mixers())
    lengths = [longest >> n for n in reversed(range(STEPS))]
    chosen = list(dict.fromkeys([complexity.FULL, *names]))
    found = complexity.curves(chosen, lengths, dim, report=lambda line: print(line, file=sys.stderr, flush=True))
    if output is not None:
        timed = {name: {**costs, "training seconds": complexity.training(costs)} for name, costs in found.items()}
        drawn = complexity.chart(lengths, timed, "training seconds", "seconds of a training step")
        files.write_text(output, standalone(drawn))
    if as_json:
        theory = {name: complexity.expected(name, lengths[-4:]) for name in found}
        document: dict[str, Any] = {"dim": dim, "lengths": lengths, "costs": found, "theory": theory}
        document["faster from"] = complexity.break_even(lengths, found)
        print(json.dumps(document, indent=1))
        return
    span = f"{lengths[-4]:,} to {longest:,} tokens, width {dim}"
    print(f"Slopes of log cost over log length ({span}); {complexity.ABOUT}.")
    _print([complexity.HEADS, *complexity.slopes(lengths, found)])
    heads, rows = complexity.comparison(lengths, found)
    if rows:
        print(f"\nFaster than {complexity.FULL} from this many tokens")
        _print([heads, *rows])
    print("\nOperations and bytes are counted; seconds are CPU time of one thread of this machine.")
    if output is not None:
        print(f"picture: {output}")


def _print(rows: list[Any]) -> None:
    """Columns without lines between them: more of them fit on a terminal."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
