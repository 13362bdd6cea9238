"""Calculators: predicted and measured memory and latency.

Parameters, bytes of decoding state and training FLOPs by formula differ from those that are counted on the built models
in {different} of {compared} comparisons.

Latency by the roofline is a lower bound. With the matrix-product rate and read bandwidth measured in the same run
({rate:.0f} GFLOP/s, {bandwidth:.1f} GB/s, one thread), reading a prompt of {prompt} tokens took {first_low:.1f} to
{first_high:.1f} times the prediction, a step after it {next_low:.1f} to {next_high:.1f} times; {below} of {timed}
times were below it. The ratio is largest where calls and elementwise work (small matrices, experts, a scan) are much
of the time. Random weights, one row, float32, one machine under other load: rates vary by some tens of percent
between runs, caches can hold small models, and sampling and text are left out. It is no statement about accelerators.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
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
SEEDS = 1
TIMED = ("rate", "bandwidth", "predicted", "measured")
VOCABULARY, PROMPT, HELD = 1024, 128, 256
EXPERTS = {"name": "experts", "experts": 8, "top_k": 2}
ARMS: dict[str, tuple[int, int, dict[str, Any]]] = {  # width, layers, block
    "multi-head, width 256": (256, 4, {"mixer": "multi-head"}),
    "multi-head, width 768": (768, 6, {"mixer": "multi-head"}),
    "multi-query, width 768": (768, 6, {"mixer": "multi-query"}),
    "window of 64, width 512": (512, 4, {"mixer": {"name": "sliding-window", "window": 64}}),
    "8 experts, width 384": (384, 4, {"mixer": "multi-head", "ffn": EXPERTS}),
    "mamba, width 512": (512, 4, {"mixer": "mamba", "ffn": "none"}),
}


def described(name: str, size: str) -> Described:
    dim, layers, block = ARMS[name]
    fields = {"name": "transformer", "dim": dim if size == "full" else 32, "layers": layers, "max_length": 1024}
    spec = make_method("lm", {**fields, "blocks": [{"name": "pre-norm", **block}]})
    return Described(spec, VOCABULARY, name, "llmanac")


def measure(seed: int, size: str) -> dict[str, Any]:
    found: dict[str, Any] = {"counts": {}, "times": {}}
    for name in ARMS:
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
    for name in ARMS:
        model = described(name, size)
        steps = latency(model, machine, prompt=PROMPT, dtype="float32")
        taken = timed(model, prompt=PROMPT, clock=time.process_time)
        found["times"][name] = {"predicted": [s.seconds for s in steps], "measured": list(taken)}
    return found


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    one = seeds[0]
    counts = [
        [name, *(f"{value:,.0f}" for what in ("parameters", "state", "flops") for value in row[what])]
        for name, row in one["counts"].items()
    ]
    times = []
    for name, row in one["times"].items():
        cells = [name]
        for predicted, measured in zip(row["predicted"], row["measured"], strict=True):
            cells += [f"{1000 * predicted:.2f} ms", f"{1000 * measured:.2f} ms", f"{measured / predicted - 1:+.0%}"]
        times.append(cells)
    pairs = [
        f"{what}, {how}" for what in ("parameters", "state bytes", "FLOPs a token") for how in ("formula", "counted")
    ]
    heads = [f"{what}, {how}" for what in ("prompt", "step") for how in ("predicted", "measured", "error")]
    return [
        Section("By formula and counted", [], [table(["", *pairs], counts, 0)]),
        Section("Time, one row", ["CPU time of one thread."], [table(["", *heads], times, 0)]),
    ]


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    one = seeds[0]
    pairs = [pair for row in one["counts"].values() for pair in row.values()]
    ratios = [[m / p for p, m in zip(r["predicted"], r["measured"], strict=True)] for r in one["times"].values()]
    first, following = ([r[i] for r in ratios] for i in (0, 1))
    return {
        "different": sum(abs(a - b) > 1e-9 * b for a, b in pairs), "compared": len(pairs), "prompt": PROMPT,
        "rate": one["rate"] / 1e9, "bandwidth": one["bandwidth"] / 1e9, "first_low": min(first),
        "first_high": max(first), "next_low": min(following), "next_high": max(following),
        "below": sum(r < 1 for r in first + following), "timed": len(first + following),
    }  # fmt: skip
