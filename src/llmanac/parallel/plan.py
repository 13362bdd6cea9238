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

With an adapter weights alone are held of what is frozen (4 bytes), its numbers have all 16, and no others gradients.
Context ranks keep activations of their tokens, and the keys and values of all for one layer.

The time of a step is (computing + sent by tensor and context) / (1 - bubble) + sent by the pipeline + what is left of
sending weights and gradients, which go while layers are computed. `rate` is what a device reaches, about half of what
its maker says (`REACHED`). Ranks fill machines of NODE devices, tensor first, then context, data and pipeline; the
ranks that an axis has on one machine share that machine's way out.
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
from llmanac.parallel import ParallelSpec, Schedule, context, pipeline, tensor, traffic

REACHED = 0.5  # of a device's published FLOP/s of dense bfloat16 products
WITHIN = 450e9  # bytes a second of a device to others of its machine
STATES = 16.0  # bytes of a parameter: weight, gradient, two moments, float32
NODE = 8  # tensor ranks stay within a machine
MOST = 65_536


@dataclass(frozen=True)
class PlanEstimate:
    """One mesh: bytes of a device, bytes that it sends in a step, the share it waits, seconds, rows at a time.

    `use` is the share of the step in which FLOPs that count are computed at the stated rate.
    """

    spec: ParallelSpec
    states: float
    gathered: float
    activations: float
    sent: float
    bubble: float
    seconds: float
    micro_batch: int
    use: float

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
    micro_batch: int, bytes_: int = 2, within: float | None = None, adapter: int = 0,
) -> list[PlanEstimate]:  # fmt: skip
    """Every mesh of `devices` that holds the model in `memory` bytes a device, the fastest first.

    Args:
        bandwidth: bytes a second that a device sends to other machines; within: to others of its own, by default the
            same. rate: FLOP/s that it computes.
        adapter: the rank of LoRA on every matrix of the layers; 0 trains all weights.
        rows, length: of a step, over all devices; bytes_: of an activation.
        micro_batch: most rows that a device computes at a time, as a training is given it.

    Raises:
        SpecError: no mesh fits; the message says what the smallest one needs.
    """
    if not 1 <= devices <= MOST:
        raise SpecError(f"--devices: {devices} is not 1 to {MOST}")
    every = [
        estimate(model, spec, bandwidth, rate, rows, length, bytes_, micro_batch, within=within, adapter=adapter)
        for spec in _meshes(model, devices, rows, length)
    ]
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


def _meshes(model: Any, devices: int, rows: int, length: int) -> Iterator[ParallelSpec]:
    def divisors(number: int) -> list[int]:
        return [n for n in range(1, number + 1) if not number % n]

    for tensor_ranks in (n for n in divisors(devices) if n <= NODE):
        for stages in divisors(devices // tensor_ranks):
            # stages take rows of all tokens; a row is cut into two chunks for each context rank
            rest = devices // tensor_ranks // stages
            for parts in [n for n in divisors(rest) if n == 1 or (stages == 1 and not length % (2 * n))]:
                for schedule in get_args(Schedule) if stages > 1 else ("1f1b",):
                    spec = ParallelSpec(
                        data=rest // parts, context=parts, tensor=tensor_ranks, pipeline=stages, schedule=schedule
                    )
                    try:
                        spec.micro_batch(rows, 1)
                        context.check(model) if parts > 1 else None
                        tensor.check(model, tensor_ranks) if tensor_ranks > 1 else None
                        pipeline.check(model, spec) if stages > 1 else None
                    except SpecError:
                        continue
                    yield spec


def estimate(
    model: Any, spec: ParallelSpec, bandwidth: float, rate: float, rows: int, length: int, bytes_: int,
    micro_batch: int, *, within: float | None = None, adapter: int = 0, weights: float = 4.0,
) -> PlanEstimate:  # fmt: skip
    """What one mesh costs, with the micro-batches of a training; `weights`: bytes of a number of them that is sent."""
    layers = [dict(layer.named_parameters()) for layer in model.model.layers]
    sizes = [float(sum(p.numel() for p in own.values())) for own in layers]
    rest = float(model.parameter_count()) - sum(sizes)
    micro = spec.micro_batch(rows, micro_batch)
    times, tokens = math.ceil(rows // spec.data / micro), micro * length
    width, split = model.spec.dim, spec.tensor
    parts = pipeline.cut_model(model, spec.stages, length) if spec.pipeline > 1 else [range(len(layers))]
    ranks = [RankMemory(model, spec, rank, parts, adapter) for rank in range(spec.pipeline)]
    found = [(part.states(), part.gathered(times), part.activations(times, tokens, bytes_)) for part in ranks]
    states, gathered, activations = max(found, key=sum)
    depth, largest = max(len(part.layers) for part in ranks), max(sum(sizes[i] for i in part.layers) for part in ranks)
    stages = bytes_ * (pipeline_numbers(spec, tokens, width, times) if spec.pipeline > 1 else 0.0)
    if spec.pipeline > 1 and spec.schedule != "zero-bubble" and model.spec.tied and not adapter:
        stages += 4.0 * model.vocab_size * width / split  # the tied matrix's gradient, which both ends add up
    inner = bytes_ * (traffic.tensor_numbers(spec, depth, tokens, width, times, 0) if split > 1 else 0.0)
    rows_of = bytes_ * (traffic.context_numbers(spec, depth, tokens, _keys(model) // split, times))
    data = 0.0
    if spec.replicas > 1:
        numbers = traffic.data_numbers(spec, largest / split, rest / split, times)
        if adapter:  # the gradients of what is frozen are not there
            left = max(part.numbers(shared=False) - part.trained() for part in ranks)
            numbers -= (spec.replicas - 1) / spec.replicas * left * (2 if spec.weights == "replicated" else 1)
        data = weights * numbers
    bubble = pipeline.formula(spec.schedule, spec.pipeline, times) if spec.pipeline > 1 else 0.0
    flops = model.flops_per_token(length) * (2 / 3 if adapter else 1) * rows * length  # no gradients of frozen weights
    computing = flops / spec.ranks / rate
    within = within or bandwidth
    slower = inner / within + rows_of / _way(spec.tensor, spec.context, spec, bandwidth, within)
    hidden = data / _way(spec.tensor, spec.replicas, spec, bandwidth, within)
    seconds = (computing + slower) / (1 - bubble) + max(0.0, hidden - computing)
    seconds += stages / (within if spec.ranks <= NODE else bandwidth)
    sent = stages + inner + rows_of + data
    return PlanEstimate(spec, states, gathered, activations, sent, bubble, seconds, micro, computing / seconds)


def _way(before: int, ranks: int, spec: ParallelSpec, bandwidth: float, within: float) -> float:
    """Bytes a second of a ring over the ranks of an axis, whose neighbours are `before` ranks apart."""
    together = min(ranks, max(1, NODE // before))
    return within if spec.ranks <= NODE or ranks <= together else min(within, bandwidth * together)


def _keys(model: Any) -> int:
    """Numbers of keys and values of a token in a layer."""
    maps = {name.rpartition(".")[2]: part.out_features for name, part in model.model.layers[0].named_modules()
            if isinstance(part, Linear)}  # fmt: skip
    return maps.get("k_proj", model.spec.dim) + maps.get("v_proj", model.spec.dim)


class RankMemory:
    """What the devices of one place in a pipeline hold.

    Attributes:
        layers: the numbers of its layers; first, last: whether it has the embedding, and the head.
    """

    def __init__(self, model: Any, spec: ParallelSpec, rank: int, parts: Sequence[range], adapter: int = 0) -> None:
        self.model, self.spec, self.rank, self.adapter = model, spec, rank, adapter
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

    def trained(self) -> float:
        """Parameters of one device that have gradients, before they are divided over data ranks."""
        if not self.adapter:
            return self.numbers(shared=False)
        maps = (part for i in self.layers for part in self.model.model.layers[i].modules() if isinstance(part, Linear))
        return sum(self.adapter * (part.in_features + part.out_features) for part in maps) / self.spec.tensor

    def states(self) -> float:
        held = self.numbers(shared=self.spec.weights == "sharded")
        if not self.adapter:
            return STATES * held
        return 4.0 * held + STATES * self.trained() / (self.spec.replicas if self.spec.weights == "sharded" else 1)

    def gathered(self, times: int) -> float:
        """Bytes of weights and gradients that are held for a while, besides the states."""
        every = self.numbers(shared=False)
        if self.spec.replicas == 1:
            return 0.0
        if self.spec.weights == "replicated":
            return 4.0 * self.trained()
        gradients = 4.0 * (self.trained() if self.adapter else every - self.numbers(shared=True)) * (times > 1)
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
        """Bytes besides states and what is gathered, with micro-batches of `tokens` on all ranks of `context`.

        Where they are most: at the head, in a layer, at the embedding.
        """
        split, keys = self.spec.tensor, bytes_ * tokens * _keys(self.model) / self.spec.tensor
        tokens //= self.spec.context
        places = len(self.layers) / self.count * tokens  # of one pass
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
        if self.adapter:  # no gradient of a frozen matrix
            largest, waits, at_head, at_embedding = 0.0, 0.0, logits, 0.0
        most = max(waits + largest, at_head * self.last, at_embedding * self.first)
        return kept + max(most, keys * (self.spec.context > 1))


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
