"""Which mesh for how many devices: memory, bytes sent, waiting and time of a step, by formulas. Nothing is run.

Memory of a device, with N_r the parameters of its largest stage divided by the tensor ranks, and d data ranks:

    states        (4 + 4 + 8) N_r / d          float32 weights, gradients and AdamW's two moments (FSDP2); d = 1 for DDP
    gathered      4 N_layer, or in a pipeline (4 + 4) N_r: weights and gradients of all its layers at once
    activations   what the backward pass reads of each layer, for the micro-batches that are under way

The time of a step is computing / (1 - bubble) + sent / bandwidth: nothing is sent while something is computed, so it is
an upper estimate of the second term. `rate` is what a device reaches, not what its maker says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch

from llmanac.core.errors import SpecError
from llmanac.core.files import read_table
from llmanac.models.families import family
from llmanac.parallel import ParallelSpec, Schedule, pipeline, tensor, traffic

STATES = 16.0  # bytes of a parameter: weight, gradient, two moments, float32
NODE = 8  # tensor ranks stay within a machine
MOST = 65_536


@dataclass(frozen=True)
class Estimate:
    """One mesh: bytes of a device, numbers of bytes it sends in a step, the share it waits, seconds of a step."""

    spec: ParallelSpec
    states: float
    activations: float
    sent: float
    bubble: float
    seconds: float
    micro_batches: int

    @property
    def memory(self) -> float:
        """Bytes of a device."""
        return self.states + self.activations


def read_model(path: Path) -> Any:
    """The model that a folder's config.json (or that file) describes, without memory.

    Raises:
        DataError, CheckpointError: no config, or one of an unknown family.
    """
    file = path / "config.json" if path.is_dir() else path
    data = read_table(file)
    chosen = family(str(data.get("model_type")), f"{file}: model_type")
    spec, vocab_size = chosen.to_spec(chosen.config(data, file))
    with torch.device("meta"):
        return spec.build(vocab_size=vocab_size)


def estimates(
    model: Any, devices: int, *, memory: float, bandwidth: float, rate: float, rows: int, length: int, bytes_: int = 2
) -> list[Estimate]:
    """Every mesh of `devices` that holds the model in `memory` bytes a device, the fastest first.

    Args:
        bandwidth: bytes a second that a device sends; rate: FLOP/s that it computes.
        rows, length: of a step, over all devices; bytes_: of an activation.

    Raises:
        SpecError: no mesh fits; the message says what the smallest one needs.
    """
    if not 1 <= devices <= MOST:
        raise SpecError(f"--devices: {devices} is not 1 to {MOST}")
    every = [estimate(model, spec, bandwidth, rate, rows, length, bytes_) for spec in _meshes(model, devices, rows)]
    if not every:
        raise SpecError(f"--devices: no mesh of {devices} divides {rows} rows and this model; give other --rows")
    fit = [one for one in every if one.memory <= memory]
    if not fit:
        least = min(every, key=lambda one: one.memory)
        raise SpecError(
            f"--memory: no mesh of {devices} devices fits; the smallest needs {least.memory / 1e9:.1f} GB a device "
            f"(data {least.spec.data}, tensor {least.spec.tensor}, pipeline {least.spec.pipeline}); give more devices"
        )
    return sorted(fit, key=lambda one: (one.seconds, one.memory))


def _meshes(model: Any, devices: int, rows: int) -> Iterator[ParallelSpec]:
    for tensor_ranks in (n for n in range(1, min(NODE, devices) + 1) if not devices % n):
        for stages in (n for n in range(1, devices // tensor_ranks + 1) if not devices // tensor_ranks % n):
            data = devices // tensor_ranks // stages
            if rows % data or (stages > 1 and rows // data % stages):
                continue
            for schedule in get_args(Schedule) if stages > 1 else ("1f1b",):
                spec = ParallelSpec(data=data, tensor=tensor_ranks, pipeline=stages, schedule=schedule)
                if rows // data < spec.stages:
                    continue
                try:
                    tensor.check(model, tensor_ranks) if tensor_ranks > 1 else None
                    pipeline.check(model, spec) if stages > 1 else None
                except SpecError:
                    continue
                yield spec


def estimate(
    model: Any, spec: ParallelSpec, bandwidth: float, rate: float, rows: int, length: int, bytes_: int
) -> Estimate:
    """What one mesh costs, with micro-batches of one row."""
    layers = [float(sum(p.numel() for p in layer.parameters())) for layer in model.model.layers]
    rest = float(model.parameter_count()) - sum(layers)
    parts = pipeline.cut_model(model, spec.stages, length) if spec.pipeline > 1 else [range(len(layers))]
    own = {r: pipeline.stages_of(spec.schedule, r, spec.pipeline) for r in range(spec.pipeline)}
    own = own if spec.pipeline > 1 else {0: [0]}
    sums = {r: sum(layers[i] for s in numbers for i in parts[s]) for r, numbers in own.items()}
    ends = {r: rest * ((0 in n) or (spec.stages - 1 in n)) for r, n in own.items()}
    times, width, split = rows // spec.data, model.spec.dim, spec.tensor
    largest = max((sums[r] + ends[r]) for r in own) / split
    gathered = 0.0 if spec.data == 1 else 8 * largest if spec.pipeline > 1 else 4 * (max(layers) + rest) / split
    states = STATES * largest / spec.data + gathered
    counts = {r: sum(len(parts[s]) for s in numbers) for r, numbers in own.items()}
    under_way = min(times, spec.pipeline) if spec.schedule != "gpipe" else times
    under_way = 1 if spec.pipeline == 1 else under_way
    kept = max(counts.values()) * under_way * length * _kept(model, split)
    activations = bytes_ * kept + 8.0 * min(length, 4096) * model.vocab_size / split
    sent = bytes_ * (pipeline_numbers(spec, length, width, times) if spec.pipeline > 1 else 0.0)
    if spec.pipeline > 1 and spec.schedule != "zero-bubble" and getattr(model.spec, "tied", False):
        sent += 4.0 * model.vocab_size * width / split  # the tied matrix's gradient, which both ends add up
    if split > 1:
        sent += bytes_ * traffic.tensor_numbers(spec, max(counts.values()), length, width, times, 0)
    if spec.data > 1:
        sent += 4 * traffic.data_numbers(spec, max(sums.values()) / split, rest / split, times)
    bubble = pipeline.formula(spec.schedule, spec.pipeline, times) if spec.pipeline > 1 else 0.0
    flops = model.flops_per_token(length) * rows * length / spec.ranks
    return Estimate(spec, states, activations, sent, bubble, flops / rate / (1 - bubble) + sent / bandwidth, times)


def pipeline_numbers(spec: ParallelSpec, length: int, width: int, times: int) -> float:
    """Numbers that the rank with the most neighbours sends."""
    ranks = range(spec.pipeline)
    return max(traffic.pipeline_numbers(spec, rank, length, width, times) for rank in ranks)


def _kept(model: Any, split: int) -> float:
    """Numbers that the backward pass of a layer reads, of each token: inputs of norms and of products."""
    layer, width = model.model.layers[0], float(model.spec.dim)
    outputs = {n.rpartition(".")[2]: m.out_features for n, m in layer.named_modules() if hasattr(m, "out_features")}
    inner = sum(size for name, size in outputs.items() if name in ("q_proj", "k_proj", "v_proj"))
    wide = outputs.get("up_proj", outputs.get("gate_proj", 4 * width))
    gated = 4 if "gate_proj" in outputs else 2
    read = outputs.get("q_proj", width)
    return 2 * width / split + 2 * width + (inner + read + gated * wide) / split
