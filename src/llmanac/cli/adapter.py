"""`llmanac merge`: an adapter folded into its model."""

import shlex
from pathlib import Path
from typing import Any


def merge_command(adapter: Path, output: Path, base: str | None = None, dtype: str | None = None) -> Any:
    """Write a model with an adapter's change in its weights; print how much of the change rounding took.

    Args:
        adapter: A folder with adapter_config.json and adapter_model.safetensors.
        output (-o): A new folder.
        base: The model it belongs to [the one that its files name].
        dtype: float32, bfloat16, float16 or float64 [the base's own].
    """
    from llmanac.cli.tables import print_table
    from llmanac.recipes.merge import merge

    found = merge(adapter, output, base=base, dtype=dtype)
    worst = max(found.errors, key=lambda name: found.errors[name])
    rows = [
        ("matrices changed", f"{len(found.errors)}"),
        ("of them packed before, written dense", f"{len(found.packed)}"),
        ("largest error, relative to the change", f"{found.error:.2g} ({worst})"),
    ]
    print_table(f"{adapter}", ("", ""), rows)
    if found.error > 0.01:
        print("The weights' dtype rounds away a part of the change; --dtype float32 keeps it.")
    print(f"Next: llmanac chat {shlex.quote(str(output))}")
    return found
