"""`llmanac context`: the needle grid of a model, as tables and heat maps by depth and length."""

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmanac.cli.options import Force, Rope, Sinks, SomeModel, SomeRunner
from llmanac.core.errors import SpecError


def context_command(
    path: SomeModel, task: list[str] | None = None, lengths: str = "512,1024,2048", depths: str = "0,0.25,0.5,0.75,1",
    samples: int = 2, seed: int = 0, plain: bool = False, rope: Rope = None, sinks: Sinks = None,
    output: Path | None = None, runner: SomeRunner = "auto", force: Force = False,
) -> Any:  # fmt: skip
    """Measure where in a long text a model finds a fact: recall and exact match by depth and length.

    Args:
        task: single, multi-key, multi-value or multi-query; repeatable [single].
        lengths: Tokens of the prompts, the model's own.
        depths: Where the needle is, 0 to 1.
        samples (from 1): Prompts of each cell.
        seed:
        plain: Without the model's chat template.
        output (-o): A folder for heat maps and results.json.
    """
    from llmanac.cli.tables import print_table
    from llmanac.core import files
    from llmanac.core.outputs import check_own_folder
    from llmanac.core.pages import heat_map
    from llmanac.evaluate.needles import TASKS, grid
    from llmanac.generate.load import load_writer

    if output is not None and output.exists() and not force:
        raise SpecError(f"--output: {output} exists; give another name, or --force")
    if output is not None:
        names = ("results.json", *(f"{name}.svg" for name in TASKS))
        check_own_folder(output, "--output", names, [path], what="heat maps")
    sizes, places = [int(n) for n in _numbers("--lengths", lengths)], _numbers("--depths", depths)
    engine = load_writer(path, runner=runner, rope=rope, sinks=sinks)
    tasks = task or ["single"]
    cells = grid(
        engine, tasks=tasks, lengths=sizes, depths=places, samples=samples, seed=seed, chat=False if plain else None
    )
    by = {(cell.task, cell.length, cell.depth): cell for cell in cells}
    for name in tasks:
        rows = [
            (f"{depth:.0%}", *(f"{(c := by[name, n, depth]).recall:.2f} / {c.exact:.2f}" for n in sizes))
            for depth in places
        ]
        print_table(f"{name}: recall / exact match", ("depth", *(f"{n:,} tokens" for n in sizes)), rows)
    result = {"model": path, "rope": rope, "sinks": sinks, "cells": [asdict(c) for c in cells]}
    if output is not None:
        with files.atomic_folder(output) as folder:
            files.write_json(folder / "results.json", result)
            for name in tasks:
                values = [[by[name, n, depth].recall for n in sizes] for depth in places]
                across, down = [f"{n:,}" for n in sizes], [f"{d:.0%}" for d in places]
                drawn = heat_map(across, down, values, "tokens", "depth", f"{name}: recall")
                files.write_text(folder / f"{name}.svg", drawn.svg)
        print(f"heat maps in {output}")
    more = "" if output is not None else " -o grid"
    print(f"Next: llmanac context {shlex.quote(path)} --task multi-key{more}")
    return result


def _numbers(flag: str, text: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",")]
        if not found or any(not n == n or n < 0 or n > 1 << 30 for n in found):
            raise ValueError
    except ValueError:
        raise SpecError(f"{flag}: {text!r} is no list of numbers such as 512,1024") from None
    return found
