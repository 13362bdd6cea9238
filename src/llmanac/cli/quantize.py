"""`llmanac quantize`: a model in fewer bits, and what that costs."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import Annotated

import typer

from llmanac.cli.options import Column, Include, SomeModel


def quantize_command(
    path: SomeModel,
    method: Annotated[
        str,
        typer.Option(
            "--method", "-m",
            help="bf16, fp16, int8, int8-dynamic, nf4, gptq, int4, ternary, binary; q8_0, q4_0, q4_1 for a .gguf file.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="A new folder, or a .gguf file.")],
    targets: Annotated[
        list[str] | None, typer.Option(help="Names of matrices, e.g. lm_head; repeatable [all-linear].")
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="Text for calibration and comparison [Python's documentation].")
    ] = None,
    column: Column = "text",
    include: Include = None,
) -> None:  # fmt: skip
    """Write a model with fewer bits a weight; print its size, its loss on text and its speed before and after."""
    from llmanac.cli.score import texts_of
    from llmanac.cli.tables import print_table
    from llmanac.recipes.quantize import check_target, quantize

    check_target(path, output, method)
    texts = None if text is None else list(texts_of((), text, column, include or ()))
    found = quantize(path, output, method, targets=targets or (), texts=texts)
    quality, (before, after) = found.quality, found.speeds
    rows = [
        ("bytes", f"{found.before:,}", f"{found.after:,}"),
        ("perplexity", f"{_perplexity(quality.before):.4g}", f"{_perplexity(quality.after):.4g}"),
        ("bits a byte", *(f"{quality.bits_per_byte(loss):.4f}" for loss in (quality.before, quality.after))),
        ("KL, nats a token", "0", f"{quality.kl:.3g}"),
        ("tokens a second", f"{before:.1f}", f"{after:.1f}"),
    ]
    print_table(f"{method}, {found.bits:.3f} bits a weight", ("", "before", "after"), rows)
    print(f"On {quality.tokens:,} tokens of text. {output}: {100 * found.after / found.before:.1f}% of the bytes.")
    print(f"Next: llmanac chat {shlex.quote(str(output))}")


def _perplexity(loss: float) -> float:
    return math.exp(min(loss, 700.0))
