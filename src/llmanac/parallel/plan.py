"""Which mesh for how many devices: memory, bytes sent, waiting and time of a step, by formulas. Nothing is run.

Memory of the device that needs most, with N parameters of its part and d data ranks:

    states        (4 + 4 + 8) N / d            float32 weights, gradients and AdamW's two moments (FSDP2); d = 1 for DDP
    gathered      FSDP2: weights of all that is outside of layers, and of four layers (two in use, a buffer for each
                  direction); gradients of all of N, kept until the last micro-batch. In a pipeline weights and
                  gradients of all of N; DDP: its buckets, N
                  (a step of one micro-batch: they come as activations go, so the smaller of the two is not counted)
    activations   what the backward pass reads of each layer, for the passes that wait for it (`passes`), in
                  zero-bubble gradients that wait for their second half; and the most of
                    at the head       a chunk of logits (tensor: all of them), and the gradient of its matrix
                                      (zero-bubble: of both halves)
                    in a layer        a product's gradient before it is added to that of earlier micro-batches
                    at the embedding  the gradient of its matrix, when one pass less waits
                  A tied matrix' gradient from the head waits for that from the embedding. Sums of DTensors are new
                  tensors next to both terms.

The time of a step is computing / (1 - bubble) + sent / bandwidth: nothing is sent while something is computed, so it is
an upper estimate of the second term. `rate` is what a device reaches, not what its maker says.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch

from llmanac.core.errors import SpecError
from llmanac.core.files import read_table
from llmanac.kernels.nn.cross_entropy import chunk_rows
from llmanac.models.families import family
from llmanac.models.layers import Linear
from llmanac.parallel import ParallelSpec, Schedule, pipeline, tensor, traffic

STATES = 16.0  # bytes of a parameter: weight, gradient, two moments, float32
NODE = 8  # tensor ranks stay within a machine
MOST = 65_536


@dataclass(frozen=True)
class PlanEstimate:
    """One mesh: bytes of a device, bytes that it sends in a step, the share it waits, seconds, rows at a time."""

    spec: ParallelSpec
    states: float
    gathered: float
    activations: float
    sent: float
    bubble: float
    seconds: float
    micro_batch: int

    @property
    def memory(self) -> float:
        """Bytes of a device."""
        return self.states + self.gathered + self.activations


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
    model: Any, devices: int, *, memory: float, bandwidth: float, rate: float, rows: int, length: int,
    micro_batch: int, bytes_: int = 2,
) -> list[PlanEstimate]:  # fmt: skip
    """Every mesh of `devices` that holds the model in `memory` bytes a device, the fastest first.

    Args:
        bandwidth: bytes a second that a device sends; rate: FLOP/s that it computes.
        rows, length: of a step, over all devices; bytes_: of an activation.
        micro_batch: most rows that a device computes at a time, as a training is given it.

    Raises:
        SpecError: no mesh fits; the message says what the smallest one needs.
    """
    if not 1 <= devices <= MOST:
        raise SpecError(f"--devices: {devices} is not 1 to {MOST}")
    meshes = _meshes(model, devices, rows)
    every = [estimate(model, spec, bandwidth, rate, rows, length, bytes_, micro_batch) for spec in meshes]
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


def per_node(spec: ParallelSpec) -> int:
    """Devices of a machine, as many as divide the mesh and hold all ranks of `tensor`: at most 8."""
    return max(n for n in range(1, NODE + 1) if not spec.ranks % n and not n % spec.tensor)


def _meshes(model: Any, devices: int, rows: int) -> Iterator[ParallelSpec]:
    for tensor_ranks in (n for n in range(1, min(NODE, devices) + 1) if not devices % n):
        for stages in (n for n in range(1, devices // tensor_ranks + 1) if not devices // tensor_ranks % n):
            data = devices // tensor_ranks // stages
            for schedule in get_args(Schedule) if stages > 1 else ("1f1b",):
                spec = ParallelSpec(data=data, tensor=tensor_ranks, pipeline=stages, schedule=schedule)
                try:
                    spec.micro_batch(rows, 1)
                    tensor.check(model, tensor_ranks) if tensor_ranks > 1 else None
                    pipeline.check(model, spec) if stages > 1 else None
                except SpecError:
                    continue
                yield spec


def estimate(
    model: Any, spec: ParallelSpec, bandwidth: float, rate: float, rows: int, length: int, bytes_: int,
    micro_batch: int,
) -> PlanEstimate:  # fmt: skip
    """What one mesh costs, with the micro-batches of a training; context parallelism is not planned."""
    layers = [dict(layer.named_parameters()) for layer in model.model.layers]
    sizes = [float(sum(p.numel() for p in own.values())) for own in layers]
    rest = float(model.parameter_count()) - sum(sizes)
    micro = spec.micro_batch(rows, micro_batch)
    times, tokens = math.ceil(rows // spec.data / micro), micro * length
    width, split = model.spec.dim, spec.tensor
    parts = pipeline.cut_model(model, spec.stages, length) if spec.pipeline > 1 else [range(len(layers))]
    ranks = [RankMemory(model, spec, rank, parts) for rank in range(spec.pipeline)]
    found = [(part.states(), part.gathered(times), part.activations(times, tokens, bytes_)) for part in ranks]
    states, gathered, activations = max(found, key=sum)
    depth, largest = max(len(part.layers) for part in ranks), max(sum(sizes[i] for i in part.layers) for part in ranks)
    sent = bytes_ * (pipeline_numbers(spec, tokens, width, times) if spec.pipeline > 1 else 0.0)
    if spec.pipeline > 1 and spec.schedule != "zero-bubble" and model.spec.tied:
        sent += 4.0 * model.vocab_size * width / split  # the tied matrix's gradient, which both ends add up
    if split > 1:
        sent += bytes_ * traffic.tensor_numbers(spec, depth, tokens, width, times, 0)
    if spec.data > 1:
        sent += 4 * traffic.data_numbers(spec, largest / split, rest / split, times)
    bubble = pipeline.formula(spec.schedule, spec.pipeline, times) if spec.pipeline > 1 else 0.0
    seconds = model.flops_per_token(length) * rows * length / spec.ranks / rate / (1 - bubble) + sent / bandwidth
    return PlanEstimate(spec, states, gathered, activations, sent, bubble, seconds, micro)


class RankMemory:
    """What the devices of one place in a pipeline hold.

    Attributes:
        layers: the numbers of its layers; first, last: whether it has the embedding, and the head.
    """

    def __init__(self, model: Any, spec: ParallelSpec, rank: int, parts: Sequence[range]) -> None:
        self.model, self.spec, self.rank = model, spec, rank
        stages = pipeline.stages_of(spec.schedule, rank, spec.pipeline) if spec.pipeline > 1 else [0]
        self.count = len(stages)
        self.layers = [i for stage in stages for i in parts[stage]]
        self.first, self.last = 0 in stages, len(parts) - 1 in stages
        matrix = model.vocab_size * model.spec.dim
        self.matrix = float(matrix) / spec.tensor if self.first or self.last else 0.0

    def _named(self) -> Iterator[tuple[str, Any]]:
        """Its parameters; a tied matrix is held by the first stage and by the last one."""
        for name, p in self.model.named_parameters():
            _, _, inner = name.partition("model.layers.")
            number = inner.partition(".")[0]
            if number:
                if int(number) in self.layers:
                    yield name, p
            elif name.startswith(("lm_head.", "model.norm.")):
                if self.last:
                    yield name, p
            elif self.first:
                yield name, p
        if self.last and self.spec.pipeline > 1 and self.model.spec.tied:
            yield "lm_head.weight", self.model.lm_head.weight

    def numbers(self, *, shared: bool) -> float:
        """Parameters of one device; `shared`: divided over the data ranks, by rows."""
        total, split = 0.0, self.spec.tensor
        for name, p in self._named():
            owner, own = name.split(".")[-2:]
            rows, inner = float(p.shape[0]), p.numel() / p.shape[0]
            if owner in tensor.COLUMNS or owner in ("embed_tokens", "lm_head"):
                rows /= split
            elif owner in tensor.ROWS and own == "weight":
                inner /= split
            total += inner * (math.ceil(rows / self.spec.replicas) if shared else rows)
        return total

    def states(self) -> float:
        return STATES * self.numbers(shared=self.spec.weights == "sharded")

    def gathered(self, times: int) -> float:
        """Bytes of weights and gradients that are held for a while, besides the states."""
        every = self.numbers(shared=False)
        if self.spec.data == 1:
            return 0.0
        if self.spec.weights == "replicated":
            return 4.0 * every
        gradients = 4.0 * (every - self.numbers(shared=True)) * (times > 1)
        if self.spec.pipeline > 1:
            return 4.0 * every + gradients
        layers = [sum(p.numel() for p in self.model.model.layers[i].parameters()) for i in self.layers]
        return 4.0 * (every - sum(layers) / self.spec.tensor + 4 * max(layers) / self.spec.tensor) + gradients

    def passes(self, times: int) -> int:
        """How many forward passes through one of its stages wait for their backward pass, at most."""
        ranks, ahead = self.spec.pipeline, self.spec.pipeline - 1 - self.rank
        if ranks == 1:
            return 1
        most = {"gpipe": times, "1f1b": ahead + 1, "interleaved": 2 * ahead + ranks + 1, "zero-bubble": 2 * ranks}
        return min(most[self.spec.schedule], self.count * times)

    def activations(self, times: int, tokens: int, bytes_: int) -> float:
        """Bytes besides states and what is gathered, with micro-batches of `tokens`.

        Where they are most: at the head, in a layer, at the embedding.
        """
        split, places = self.spec.tensor, len(self.layers) / self.count * tokens  # of one pass
        passes, zero = self.passes(times), self.spec.pipeline > 1 and self.spec.schedule == "zero-bubble"
        one = bytes_ * places * _kept(self.model, split)
        between = min(2 * self.rank + 1, self.count * times) * zero  # passes between the halves of their backward pass
        kept = passes * one + bytes_ * between * places * _outputs(self.model, split)
        copies = 2 if split > 1 else 1  # a sum of DTensors is a new one
        matrix = 4.0 * self.matrix
        waits = matrix * (self.first and self.last and self.count == 1 and self.model.spec.tied)
        largest = copies * 4.0 * max(p.numel() for p in self.model.model.layers.parameters()) / split * (times > 1)
        # with tensor parallelism all logits, log-probabilities and gradients; else a chunk of logits and gradients
        rows = 3 * tokens if split > 1 else 2 * min(tokens, chunk_rows(self.model.vocab_size))
        logits = 4.0 * rows * self.model.vocab_size / split
        at_head = logits + matrix * (2 if zero else 1)
        at_embedding = matrix + copies * waits + matrix * (copies - 1) * (not waits) - one
        if times * self.spec.pipeline == 1:  # gradients come as activations go
            kept -= min(kept, self.states() / 4)
        return kept + max(waits + largest, at_head * self.last, at_embedding * self.first)


def pipeline_numbers(spec: ParallelSpec, tokens: int, width: int, times: int) -> float:
    """Numbers that the rank with the most neighbours sends."""
    ranks = range(spec.pipeline)
    return max(traffic.pipeline_numbers(spec, rank, tokens, width, times) for rank in ranks)


def _kept(model: Any, split: int) -> float:
    """Numbers that the backward pass of a layer reads, of each token: inputs of norms and of products."""
    layer, width = model.model.layers[0], float(model.spec.dim)
    outputs = {n.rpartition(".")[2]: m.out_features for n, m in layer.named_modules() if isinstance(m, Linear)}
    inner = sum(size for name, size in outputs.items() if name in ("q_proj", "k_proj", "v_proj"))
    wide = outputs.get("up_proj", outputs.get("gate_proj", 4 * width))
    gated = 4 if "gate_proj" in outputs else 2
    read = outputs.get("q_proj", width)
    return 2 * width / split + 2 * width + (inner + read + gated * wide) / split


def _outputs(model: Any, split: int) -> float:
    """Numbers that the products of a layer give, of each token."""
    sizes = {n.rpartition(".")[2]: m.out_features for n, m in model.model.layers[0].named_modules()
             if isinstance(m, Linear)}  # fmt: skip
    return sum(size / (split if name in tensor.COLUMNS else 1) for name, size in sizes.items())
