"""`llmanac parallel plan`: which mesh for how many devices."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from llmanac.core.errors import SpecError

parallel_app = typer.Typer(help="Training on several processes.", no_args_is_help=True)
SHOWN = 10
UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "p": 1e15}


@parallel_app.callback()
def _group() -> None:
    """Training on several processes."""


@parallel_app.command("plan")
def plan_command(
    model: Annotated[Path, typer.Argument(help="A model's folder, or a config.json.")],
    devices: Annotated[int, typer.Option(min=1, help="How many there are.")] = 8,
    memory: Annotated[str, typer.Option(help="Bytes of a device.")] = "80GB",
    bandwidth: Annotated[str, typer.Option(help="Bytes a second that a device sends.")] = "50GB",
    rate: Annotated[str, typer.Option(help="FLOP/s that a device reaches.")] = "400T",
    rows: Annotated[int, typer.Option(min=1, help="Rows of a step, over all devices.")] = 256,
    length: Annotated[int, typer.Option(min=1, help="Tokens of a row.")] = 2048,
) -> None:
    """Memory, bytes sent, waiting and time of a step for each mesh, by formulas; the fastest first."""
    from llmanac.cli.tables import print_table
    from llmanac.parallel.plan import estimates, read_model

    built = read_model(model)
    found = estimates(
        built, devices, memory=number(memory, "--memory"), bandwidth=number(bandwidth, "--bandwidth"),
        rate=number(rate, "--rate"), rows=rows, length=length,
    )  # fmt: skip
    lines = [
        (
            str(e.spec.data), str(e.spec.tensor), str(e.spec.pipeline), e.spec.schedule if e.spec.pipeline > 1 else "",
            f"{e.states / 1e9:.2f}", f"{e.gathered / 1e9:.2f}", f"{e.activations / 1e9:.2f}",
            f"{e.sent / 1e9:.2f}", f"{e.bubble:.1%}", f"{e.seconds:.3g}", f"{rows * length / e.seconds:,.0f}",
        )
        for e in found[:SHOWN]
    ]  # fmt: skip
    count = f"{built.parameter_count() / 1e9:.3g} B parameters"
    title = f"estimates for {count} on {devices} devices (GB a device; {len(found)} meshes fit)"
    heads = ["data", "tensor", "pipeline", "schedule", "states", "gathered", "activations", "sent", "waits", "s/step"]
    heads += ["tokens/s"]
    print_table(title, heads, lines, left=(3,))
    best = found[0].spec
    mesh = f"-s parallel.data={best.data} -s parallel.tensor={best.tensor} -s parallel.pipeline={best.pipeline}"
    mesh += f" -s parallel.schedule={best.schedule}" if best.pipeline > 1 else ""
    print(f"Next:\n  torchrun --nproc-per-node {min(8, devices)} -m llmanac run RECIPE {mesh}")


def number(text: str, flag: str) -> float:
    """`80GB`, `400T`, `50GB/s` -> a number. Raises SpecError that names the flag."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgtp]?)(?:i?b|flops?)?(?:/s)?\s*", text, re.IGNORECASE)
    if not match or not float(match[1]):
        raise SpecError(f"{flag}: {text!r} is not a size; write 80GB, 50GB/s or 400T")
    return float(match[1]) * UNITS[match[2].lower()]
