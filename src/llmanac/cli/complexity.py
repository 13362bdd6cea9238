"""`llmanac complexity`: how the costs of mixers grow with the length, and from where each is faster than attention."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmanac.cli.options import AsJson, Force
from llmanac.core.errors import SpecError
from llmanac.core.outputs import check_output

STEPS = 5  # lengths, each twice the one before
# columns of the tables of slopes: a head, and the cost whose slope it is or, of theory's, the field of `Theory`
PASSES = {
    "operations\ntheory": "work", "operations\nforward": "forward operations",
    "operations\nbackward": "backward operations", "bytes\ntheory": "memory", "bytes\nforward": "forward bytes",
    "bytes\ntraining": "training bytes",
}  # fmt: skip
DECODING = {
    "next token\ntheory": "decode", "next token\noperations": "decode operations", "next token\nbytes": "decode bytes",
    "state\ntheory": "state", "state\nbytes": "state", "seconds\nforward": "forward seconds",
    "seconds\nbackward": "backward seconds", "seconds\ndecode": "decode seconds",
}  # fmt: skip


def complexity_command(
    mixers: list[str] | None = None, dim: int = 64, longest: int = 4096, output: Path | None = None,
    force: Force = False, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Measure how operations, memory and time of each mixer grow with the length, against theory.

    Args:
        mixers (argument): Such as mamba, multi-head@flash [all].
        dim (4 to 4096): Width of the layer.
        longest (64 to 1048576): The longest of five lengths, each half of the next.
        output (-o): SVG of the training times.
    """
    from llmanac.cli.tables import print_page_table
    from llmanac.core import files
    from llmanac.core.device import machine
    from llmanac.core.pages import table
    from llmanac.lab import complexity

    if output is not None and output.suffix != ".svg":
        raise SpecError(f"--output: {output} should end in .svg")
    if output is not None:
        check_output(output, "--output", force=force)
    names = list(mixers or complexity.mixers())
    lengths = [longest >> n for n in reversed(range(STEPS))]
    chosen = list(dict.fromkeys([complexity.FULL, *names]))
    try:
        found = complexity.curves(chosen, lengths, dim)
    except RuntimeError as error:
        if "allocate memory" not in str(error):
            raise
        raise SpecError(f"--longest: {longest:,} tokens of width {dim} do not fit into memory; give fewer") from None
    if output is not None:
        about = f"width {dim}; one thread of {machine()['cpu']}"
        timed = {name: {**costs, "training seconds": complexity.training(costs)} for name, costs in found.items()}
        drawn = complexity.chart(lengths, timed, "training seconds", "seconds of a training step", about)
        files.write_text(output, drawn.svg)
    if as_json:
        theory = {name: complexity.expected(name, lengths[-4:]) for name in found}
        document: dict[str, Any] = {"dim": dim, "lengths": lengths, "costs": found, "theory": theory}
        document["faster from"] = complexity.break_even(lengths, found)
        print(json.dumps(document, indent=1))
        return
    span = f"{lengths[-4]:,} to {longest:,} tokens, width {dim}"
    print(f"Slopes of log cost over log length ({span}): 2 is s^2, 1 is s, 0 is constant")
    for columns in (PASSES, DECODING):
        print_page_table(_slopes(lengths, found, columns))
    heads, rows = complexity.comparison(lengths, found)
    if rows:
        print_page_table(table(heads, rows), f"Faster than {complexity.FULL} from this many tokens")
    print(
        "\nOperations and bytes are counted; seconds are CPU time of a thread here.\n"
        "Parts of constant size (tiles, windows, filters) make slopes smaller than theory's at short lengths."
    )
    if output is not None:
        print(f"picture: {output}")
    arms = [name for name in found if "@" not in name]
    second = next((name for name in arms if name != complexity.FULL), "mamba")
    print(f"Next: llmanac compare mixer --arms '{complexity.FULL},{second}' --budget 3m")


def _slopes(
    lengths: Sequence[int], found: Mapping[str, Mapping[str, Sequence[float]]], columns: Mapping[str, str]
) -> dict[str, Any]:
    """For each mixer theory and its slopes over the last four lengths."""
    from llmanac.core.pages import table
    from llmanac.lab import complexity

    rows = []
    for name, costs in found.items():
        theory, row = complexity.theory_of(name), [name]
        for head, source in columns.items():
            if head.endswith("theory"):
                row.append("" if theory is None else getattr(theory, source))
            else:
                row.append(f"{round(complexity.slope(lengths[-4:], costs[source][-4:]), 2) + 0.0:.2f}")
        rows.append(row)
    return table(["mixer", *columns], rows)
