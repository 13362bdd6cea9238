"""`llmanac quantize`: a model in fewer bits, and what that costs."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmanac.cli.options import Column, Include, SomeModel

if TYPE_CHECKING:
    from llmanac.evaluate.divergence import Divergence


def quantize_command(
    path: SomeModel, method: str, output: Path, targets: list[str] | None = None, text: str | None = None,
    calibration: str | None = None,
    column: Column = "text", include: Include = None,
) -> Any:  # fmt: skip
    """Write a model with fewer bits a weight; print its size, its loss on text and its speed before and after.

    Args:
        method (-m): bf16, fp16, int8, int8-dynamic, nf4, gptq, int4, ternary, binary; for a .gguf file f32, f16,
            bf16, q8_0, q6_k, q5_k_m, q4_k_m, q4_1 or q4_0.
        output (-o): A new folder, or a .gguf file.
        targets: Names of matrices, e.g. lm_head; repeatable [all-linear].
        text: Text for comparison [Python's documentation].
        calibration: Text that gptq and .gguf files weigh rounding errors on [for gptq the first
            half of --text, for a .gguf file none].
    """
    from llmanac.cli.score import texts_of
    from llmanac.cli.tables import print_page_table
    from llmanac.recipes.quantize import check_target, quantize

    check_target(path, output, method)
    texts = None if text is None else list(texts_of((), text, column, include or ()))
    seen = None if calibration is None else list(texts_of((), calibration, column, include or ()))
    found = quantize(path, output, method, targets=targets or (), texts=texts, calibration=seen)
    print_page_table(found.tables()[0], found.title())
    print(_compared(found.quality))
    print(f"{output}: {100 * found.after / found.before:.1f}% of the bytes{_rest(output, found.part, method)}.")
    print(f"Next: llmanac chat {shlex.quote(str(output))}")
    return found


def _compared(quality: Divergence) -> str:
    """The change in bits a byte and the KL with their intervals over the windows, which are paired."""
    from llmanac.lab.stats import interval

    change = quality.bits_per_byte(quality.after - quality.before)
    said = f"On {quality.tokens:,} tokens of text: {change:+.4f} bits a byte"
    if len(quality.blocks) < 2:
        return f"{said}; one window of text has no interval, give more --text."
    (low, high), kl = (interval(values) for values in zip(*quality.blocks, strict=True))
    low, high = quality.bits_per_byte(low), quality.bits_per_byte(high)
    none = "; no difference shown" if low <= 0 <= high else ""
    return (
        f"{said} (95% over {len(quality.blocks)} windows: {low:+.4f} to {high:+.4f}{none}); "
        f"KL {max(kl[0], 0.0):.3g} to {kl[1]:.3g}."
    )


def stored(path: Path, kind: str) -> str:
    """The type of a .gguf file that was written, and how many tensors are stored in which way."""
    from llmanac.kernels.gguf import GGUF

    return f"{kind.lower()} ({', '.join(f'{count} {name}' for name, count in GGUF(path).kinds().most_common())})"


def _rest(output: Path, part: float, method: str) -> str:
    if output.suffix == ".gguf":
        return f"; {stored(output, method)}; bits a weight are of the file, with its vocabulary"
    return f"; {100 * part:.0f}% of the weights were quantized, the others are as before" if part < 0.995 else ""
