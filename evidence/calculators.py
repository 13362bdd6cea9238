"""Calculators: predicted and measured memory and latency.

Parameters, bytes of decoding state and training FLOPs by formula differ from those that are counted on the built models
in {different} of {compared} comparisons.

Latency by the roofline is a lower bound. With the matrix-product rate and read bandwidth measured in each of {seeds}
runs ({rate:.0f} GFLOP/s, {bandwidth:.1f} GB/s on average, one thread), reading a prompt of {prompt} tokens took
{first_low:.1f} to {first_high:.1f} times the prediction, a step after it {next_low:.1f} to {next_high:.1f} times (means
over runs); {below} of {timed} times were below it. The ratio is largest where calls and elementwise work (small
matrices, experts, a scan) are much of the time. Random weights, one row, float32, nothing else on the machine: caches
can hold small models, and sampling and text are left out. It is no statement about accelerators.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import fmean, geometric_mean
from typing import Any

import torch

from llmanac.core.device import measure_bandwidth, measure_gemm
from llmanac.core.pages import Section, table
from llmanac.core.spec import make_method
from llmanac.guide.calculate import Described, Machine, latency
from llmanac.guide.calculate import measure as timed
from llmanac.guide.formulas import costs

ROWS = ("study/systems",)
CLAIM = "predicted against measured, error per row"
ARMS = ("by formula and by roofline", "counted and timed")
METRIC = "CPU seconds of a prompt and of a step over the predicted ones; the geometric mean over models and both"
MARGIN = "a factor of two; 10% below the bound"
SEEDS, REPLICATE, VERSION = 5, "run", 2
TIMED = ("rate", "bandwidth", "predicted", "measured")
VOCABULARY, PROMPT, HELD = 1024, 128, 256
EXPERTS = {"name": "experts", "experts": 8, "top_k": 2}
MODELS: dict[str, tuple[int, int, dict[str, Any]]] = {  # width, layers, block
    "multi-head, width 256": (256, 4, {"mixer": "multi-head"}),
    "multi-head, width 768": (768, 6, {"mixer": "multi-head"}),
    "multi-query, width 768": (768, 6, {"mixer": "multi-query"}),
    "window of 64, width 512": (512, 4, {"mixer": {"name": "sliding-window", "window": 64}}),
    "8 experts, width 384": (384, 4, {"mixer": "multi-head", "ffn": EXPERTS}),
    "mamba, width 512": (512, 4, {"mixer": "mamba", "ffn": "none"}),
}


def described(name: str, size: str) -> Described:
    dim, layers, block = MODELS[name]
    fields = {"name": "transformer", "dim": dim if size == "full" else 32, "layers": layers, "max_length": 1024}
    spec = make_method("lm", {**fields, "blocks": [{"name": "pre-norm", **block}]})
    return Described(spec, VOCABULARY, name, "llmanac")


def measure(seed: int, size: str) -> dict[str, Any]:
    found: dict[str, Any] = {"counts": {}, "times": {}}
    for name in MODELS:
        model = described(name, size)
        with torch.device("meta"):
            built = model.spec.build(vocab_size=VOCABULARY)
        state = built.start(1)
        state.reserve(HELD)
        own = costs(model.spec, VOCABULARY)
        found["counts"][name] = {
            "parameters": [own.parameters, built.parameter_count()],
            "state": [own.state_bytes(HELD, 4), state.nbytes],
            "flops": [own.flops_per_token(HELD), built.flops_per_token(HELD)],
        }
    if size == "small":
        return found
    torch.set_num_threads(1)
    machine = Machine(
        measure_gemm(torch.float32, clock=time.process_time), measure_bandwidth(megabytes=64), "measured here"
    )
    found |= {"rate": machine.flops, "bandwidth": machine.bandwidth}
    for name in MODELS:
        model = described(name, size)
        steps = latency(model, machine, prompt=PROMPT, dtype="float32")
        taken = timed(model, prompt=PROMPT, clock=time.process_time)
        found["times"][name] = {"predicted": [s.seconds for s in steps], "measured": list(taken)}
    return found


def ratios(run: dict[str, Any]) -> dict[str, list[float]]:
    """By model, the measured times of a prompt and of a step over the predicted ones."""
    return {
        name: [m / p for p, m in zip(row["predicted"], row["measured"], strict=True)]
        for name, row in run["times"].items()
    }  # fmt: skip


def typical(seeds: Sequence[dict[str, Any]]) -> list[float]:
    """Of each run the geometric mean of measured over predicted times, less the factor of two that is claimed."""
    return [geometric_mean([r for own in ratios(run).values() for r in own]) - 2 for run in seeds]


def least(seeds: Sequence[dict[str, Any]]) -> list[float]:
    """Of each run the smallest ratio of a measured to a predicted time, less the 0.9 that a lower bound must keep."""
    return [min(r for own in ratios(run).values() for r in own) - 0.9 for run in seeds]


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    counts = [
        [name, *(f"{value:,.0f}" for what in ("parameters", "state", "flops") for value in row[what])]
        for name, row in seeds[0]["counts"].items()
    ]
    times = []
    for name in MODELS:
        cells = [name]
        for place in (0, 1):
            predicted, measured = (
                fmean(run["times"][name][key][place] for run in seeds) for key in ("predicted", "measured")
            )
            errors = [ratios(run)[name][place] - 1 for run in seeds]
            cells += [f"{1000 * predicted:.2f} ms", f"{1000 * measured:.2f} ms",
                      f"{fmean(errors):+.0%} ({min(errors):+.0%} to {max(errors):+.0%})"]  # fmt: skip
        times.append(cells)
    pairs = [
        f"{what}, {how}" for what in ("parameters", "state bytes", "FLOPs a token") for how in ("formula", "counted")
    ]
    heads = [f"{what}, {how}" for what in ("prompt", "step") for how in ("predicted", "measured", "error")]
    return [
        Section("By formula and counted", [], [table(["", *pairs], counts, 0)]),
        Section("Time, one row", [f"CPU time of one thread, means over {len(seeds)} runs; errors, least to most."],
                [table(["", *heads], times, 0)]),
    ]  # fmt: skip


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    pairs = [pair for row in seeds[0]["counts"].values() for pair in row.values()]
    every = [r for run in seeds for own in ratios(run).values() for r in own]
    first, following = ([fmean(ratios(run)[name][i] for run in seeds) for name in MODELS] for i in (0, 1))
    return {
        "different": sum(abs(a - b) > 1e-9 * b for a, b in pairs), "compared": len(pairs), "prompt": PROMPT,
        "seeds": len(seeds), "rate": fmean(run["rate"] for run in seeds) / 1e9,
        "bandwidth": fmean(run["bandwidth"] for run in seeds) / 1e9, "first_low": min(first),
        "first_high": max(first), "next_low": min(following), "next_high": max(following),
        "below": sum(r < 1 for r in every), "timed": len(every),
    }  # fmt: skip
