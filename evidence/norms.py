"""Normalization: LayerNorm and RMSNorm, before and after the parts of a block.

Models of {parameters:,} parameters and {layers} layers, trained on the same {tokens:,} tokens of real text with the
same learning rate, warm-up included.

RMSNorm has {fewer:,} parameters fewer, and computes no mean. Gradients in deep models are measured in
[depth](../depth/page.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from evidence._grid import SHAPE, STEPS, arms, model_spec, paced, recipe, training_steps, verdicts
from evidence._page import with_interval
from llmanac.core.pages import Section, table
from llmanac.core.spec import make_method

ROWS = ("norm/layernorm", "norm/rmsnorm", "block/pre-norm", "block/post-norm")
CLAIM = "RMSNorm is faster than LayerNorm at the same loss; pre-norm blocks train better than post-norm ones"
SEEDS = 3
TIMED = ("seconds", "ratio")
TOLERANCE = 1e-3  # float32 training
ARMS = {
    "layernorm, pre-norm": {"norm": "layernorm"},
    "rmsnorm, pre-norm": {},
    "rmsnorm, post-norm": {"block": "post-norm"},
}
WIDTHS = (128, 512, 2048)


def measure(seed: int, size: str) -> dict[str, Any]:
    specs = {name: model_spec(size, **parts) for name, parts in ARMS.items()}
    found: dict[str, Any] = {"arms": arms(specs, seed, size)}
    if size == "small":
        return found
    pre = {name.split(",")[0]: spec for name, spec in specs.items() if "pre" in name}
    return {**found, "steps": training_steps(pre, 15), "alone": {str(width): alone(width) for width in WIDTHS}}


def alone(width: int) -> dict[str, dict[str, float]]:
    """Forward and backward passes of the norms over a megabyte of rows."""
    x, back = torch.randn(2, (1 << 18) // width, width, generator=torch.Generator().manual_seed(0))
    x.requires_grad_()
    norms = {name: make_method("norm", name).build(dim=width) for name in ("layernorm", "rmsnorm")}
    runs = {name: lambda n=n: torch.autograd.grad(n(x), (x, *n.parameters()), back) for name, n in norms.items()}
    return paced(runs, 25)


def losses(seeds: Sequence[dict[str, Any]], *names: str) -> dict[str, list[float]]:
    return {name: [one["arms"][name]["bits per byte"] for one in seeds] for name in names}


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    names = list(ARMS)
    body = [
        [f"norm alone, width {width}", *(with_interval([s["alone"][width][n]["ratio"] for s in seeds], 2)
                                         for n in ("layernorm", "rmsnorm"))] for width in seeds[0]["alone"]
    ]  # fmt: skip
    steps = [with_interval([s["steps"][n]["ratio"] for s in seeds], 2) for n in ("layernorm", "rmsnorm")]
    body.append([f"training step, width {SHAPE['dim']}", *steps])
    said = (
        "Time against LayerNorm's: CPU time of one thread, medians of paired ratios of interleaved rounds, on a "
        "busy machine; forward and backward."
    )
    return [
        Section("Bits per byte, held out: norms", [], [verdicts(losses(seeds, *names[:2]))]),
        Section("Time", [said], [table(["", "layernorm", "rmsnorm"], body)]),
        Section("Bits per byte, held out: places", ["One learning rate for all; none was tuned for an arm."],
                [verdicts(losses(seeds, *names[1:]))]),
    ]  # fmt: skip


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    counts = [int(one["parameters"]) for one in seeds[0]["arms"].values()]
    return {
        "parameters": counts[1], "layers": SHAPE["layers"], "fewer": counts[0] - counts[1],
        "tokens": STEPS * recipe("full").train.batch_tokens,
    }  # fmt: skip
