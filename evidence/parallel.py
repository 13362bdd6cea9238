"""Data, context, tensor and pipeline parallelism: memory, bytes and waiting.

A decoder of {parameters:,} parameters, float32, AdamW, {rows} rows of {length} tokens a step in micro-batches of one
row, on processes of this machine (gloo, one thread each). "Held" is weights, gradients and both moments of rank 0's
part; rank 0's complete copy for checkpoints is not in it. "Sent" is counted in the collectives that run, as a ring
sends them. "Peak" is what the forward and backward passes allocate beyond what was held before the step: gradients,
what is gathered for a while, activations.

- Memory: DDP holds all of the states on each rank; two ranks hold {held[data, sharded]:.2f} of them with FSDP2,
  {held[tensor]:.2f} with tensor parallelism, {held[pipeline, 1f1b]:.2f} on the first rank of a pipeline (both ends keep
  the tied matrix), and eight ranks of 2 x 2 x 2 hold {held[2 x 2 x 2]:.3f}.
- Bytes: the count equals the closed form on {exact} of {forms} meshes of one axis.
- The loss of the third step differs from that of one process by {loss:.0e} at most, relative.
- Waiting: computed from the order of actions, {right} of {bubbles} shares equal their formula to 1e-12. Zero-bubble
  waits least, GPipe and 1F1B alike; with as many micro-batches as ranks zero-bubble waits {few:.0%} and not the
  {usual:.0%} of its usual formula, which holds from (3 p - 1) / 2 micro-batches on.
- The planner's states equal the held ones to the byte on {states} of {meshes} meshes, its bytes sent are
  {planned[0]:.2f} to {planned[1]:.2f} of the counted ones. Its prediction of the peak is within 15% of the measured
  one on {near} of {meshes} meshes, and {peaks[0]:.2f} to {peaks[1]:.2f} of it on all. Its terms were written down with
  these meshes in view; on another shape, measured afterwards ({other:,} parameters, not tied, rows of {other_length}
  tokens), on {other_near} of {meshes}, {other_peaks[0]:.2f} to {other_peaks[1]:.2f}. With micro-batches of {four}
  rows of that shape, after two terms were corrected with these in view (all logits of tensor parallelism; gradients of
  a step of one micro-batch), on {four_near} of {fours}, {four_peaks[0]:.2f} to {four_peaks[1]:.2f}. It plans no context
  parallelism.
- Time of a step is not measured: on one machine with two cores it says nothing about a cluster.
- The last table is an estimate for hardware that was not there, with nothing sent while something is computed.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch

from evidence._ranks import on_ranks
from llmanac.core.pages import Section, table
from llmanac.core.spec import make, make_method
from llmanac.lab.costs import peak_bytes
from llmanac.objectives.autoregressive import Autoregressive
from llmanac.parallel import ParallelSpec, pipeline, traffic
from llmanac.parallel.plan import RankMemory, estimate, estimates
from llmanac.train import TrainSpec
from llmanac.train.plan import default_micro_batch
from llmanac.train.ranks import team
from llmanac.train.step import Stepper
from llmanac.train.team import follow, micro_batches

ROWS = ("parallel/data", "parallel/tensor", "parallel/pipeline", "parallel/3d")
CLAIM = "all but DDP divide memory over ranks, and each pays with the bytes and the waiting that its formula says"
SEEDS = 1
TIMED = ("loss", "peak")

MESHES: dict[str, dict[str, Any]] = {
    "data, replicated": {"data": 2, "weights": "replicated"},
    "data, sharded": {"data": 2},
    "context": {"context": 2},
    "tensor": {"tensor": 2},
    "pipeline, gpipe": {"pipeline": 2, "schedule": "gpipe"},
    "pipeline, 1f1b": {"pipeline": 2},
    "pipeline, interleaved": {"pipeline": 2, "schedule": "interleaved"},
    "pipeline, zero-bubble": {"pipeline": 2, "schedule": "zero-bubble"},
    "2 x 2 x 2": {"data": 2, "tensor": 2, "pipeline": 2},
}
SIZES: dict[str, dict[str, Any]] = {
    "full": {"dim": 512, "layers": 4}, "small": {"dim": 16, "layers": 2},
    "other": {"dim": 384, "layers": 8, "tied": False, "max_length": 256},
}  # fmt: skip
VOCABULARY = {"full": 4096, "small": 64, "other": 8192}
LENGTH, COUNT = {"full": 64, "small": 8, "other": 256}, 8
FOUR = 4  # rows of the larger micro-batches
SHARED = 4  # loss, units, tokens and the squared norm, which all ranks add up
LARGE = {"dim": 4096, "layers": 32, "max_length": 4096}  # the shape of a Llama with 7 billion parameters
DEVICE = {"memory": 80e9, "bandwidth": 50e9, "rate": 400e12}
CPU = torch.device("cpu")


def built(fields: dict[str, Any], vocab_size: int, width: int, heads: int) -> Any:
    """A tied Llama with two heads a key-value head."""
    mixer = {"name": "softmax", "heads": heads, "kv_heads": heads // 2}
    block = {"name": "pre-norm", "mixer": mixer, "ffn": {"name": "gated", "width": width}}
    model = make_method("lm", {"name": "transformer", "max_length": 128, "tied": True, "blocks": [block], **fields})
    return model.build(vocab_size=vocab_size)


def small_model(size: str, seed: int) -> Any:
    dim = SIZES[size]["dim"]
    return built(SIZES[size], VOCABULARY[size], 3 * dim, 4).initialise(seed)


def measure(seed: int, size: str) -> dict[str, Any]:
    """Each mesh on processes of this machine, the bubbles, and the planner."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        chosen = list(MESHES) if size == "full" else ["data, sharded"]
        one = alone(seed, size)
        meshes = {name: on_mesh(name, seed, size) for name in chosen}
        planned = [name for name in MESHES if name != "context"] if size == "full" else []
        others = {name: on_mesh(name, seed, "other") for name in planned}
        fours = {name: on_mesh(name, seed, "other", FOUR) for name in planned if "pipeline" not in MESHES[name]}
    finally:
        torch.set_num_threads(threads)
    model = small_model(size, seed)
    for found in meshes.values():
        found["loss"] = abs(found["loss"] - one["loss"]) / one["loss"]
    return {
        "parameters": model.parameter_count(), "one": one, "meshes": meshes, "bubbles": bubbles(),
        "plans": plans() if size == "full" else {}, "other parameters": small_model("other", seed).parameter_count(),
        "others": peaks_of(others), "fours": peaks_of(fours),
    }  # fmt: skip


def peaks_of(meshes: dict[str, Any]) -> dict[str, Any]:
    return {name: {key: m[key] for key in ("peak", "planned peak")} for name, m in meshes.items()}


def on_mesh(name: str, seed: int, size: str, micro: int = 1) -> dict[str, Any]:
    """What rank 0 measures on processes of this machine, with micro-batches of `micro` rows."""
    parallel = ParallelSpec(timeout=240, **MESHES[name])
    found: dict[str, Any] = on_ranks(
        parallel.ranks, functools.partial(first, parallel, seed, size, micro), follow, 480
    )[0]
    return found


def train_spec(size: str, micro: int) -> TrainSpec:
    fields = {"steps": 8, "batch_tokens": COUNT * LENGTH[size], "length": LENGTH[size], "micro_batch": micro}
    fields |= {"dtype": "float32", "attention": "sdpa", "optimizer": {"name": "adamw", "form": "foreach"}}
    return make(TrainSpec, fields, "train")


def rows_of(size: str, seed: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    rows: list[list[int]] = torch.randint(VOCABULARY[size], (COUNT, LENGTH[size] + 1), generator=generator).tolist()
    return rows


def alone(seed: int, size: str) -> dict[str, Any]:
    """One process."""
    model, spec, rows = small_model(size, seed), train_spec(size, 1), rows_of(size, seed)
    optimizer = spec.optimizer.build(model=model)
    stepper = Stepper(
        model, Autoregressive(), optimizer, micro_batch=1, clip=spec.clip, dtype=torch.float32, folder=None
    )
    loss = [stepper(rows, 1.0, n).loss for n in range(3)][-1]
    return {"loss": loss}


def first(parallel: ParallelSpec, seed: int, size: str, micro: int) -> dict[str, Any]:
    """Rank 0: loss, bytes held, bytes sent and their closed form, the peak of a step, and what the planner says."""
    model, rows, length = small_model(size, seed), rows_of(size, seed), LENGTH[size]
    with team(parallel, CPU) as made:
        assert made is not None
        spec = micro_batches(train_spec(size, micro), parallel)
        assert spec.micro_batch == micro
        stepper = made.stepper(model, Autoregressive(), spec, folder=None)  # type: ignore[arg-type]
        worker = stepper.worker
        stepper(rows, 1.0, 0)
        with traffic.Recorder() as sent:
            stepper(rows, 1.0, 1)
        gradients, peaks = worker.gradients, []

        def watched(*given: Any) -> Any:
            with torch.profiler.profile(profile_memory=True) as profile:
                found = gradients(*given)
            peaks.append(peak_bytes(profile))
            return found

        worker.gradients = watched  # type: ignore[method-assign]
        loss = stepper(rows, 1.0, 2).loss
        worker.gradients = gradients  # type: ignore[method-assign]
        weights = sum(p.nbytes for p in worker.parameters.values())
        moments = sum(value.nbytes for value in worker.optimizer.state.values())
    planned = estimate(model, parallel, 1.0, 1.0, COUNT, length, 4, micro)
    part = RankMemory(model, parallel, 0, pipeline.cut_model(model, parallel.stages, length))
    times = COUNT // parallel.data // micro
    gathered = part.gathered(times) * (parallel.weights == "sharded")  # DDP's buckets are there before the step
    peak = part.states() - weights - moments + gathered + part.activations(times, micro * length, 4)
    return {
        "loss": loss, "held": 2 * weights + moments, "sent": sent.total, "form": closed_form(parallel, model, length),
        "planned sent": planned.sent, "peak": peaks[0], "planned peak": peak,
        "states": part.states(),
    }  # fmt: skip


def closed_form(spec: ParallelSpec, model: Any, length: int) -> float | None:
    """Bytes that rank 0 sends in a step; None for a mesh of several axes."""
    if max(spec.data, spec.context, spec.tensor, spec.pipeline) < spec.ranks:
        return None
    times, dim, depth = COUNT // spec.data, model.spec.dim, len(model.model.layers)
    layers = sum(p.numel() for p in model.model.layers.parameters())
    shared, numbers = 8 * 2 * (spec.ranks - 1) / spec.ranks * SHARED, 0.0  # float64
    if spec.replicas > 1:
        mixer = model.model.layers[0].self_attn
        keys = 2 * mixer.kv_heads * mixer.head_dim
        numbers += traffic.context_numbers(spec, depth, length, keys, times) if spec.context > 1 else 0.0
        numbers += traffic.data_numbers(spec, layers, model.parameter_count() - layers, times)
    elif spec.tensor > 1:
        numbers += traffic.tensor_numbers(spec, depth, length, dim, times, (2 * depth + 1) * dim)
    else:
        numbers += traffic.pipeline_numbers(spec, 0, length, dim, times)
        # the gradients of the tied matrix; zero-bubble has both ends on one rank
        numbers += 0 if spec.schedule == "zero-bubble" else model.vocab_size * dim
    return shared + 4 * numbers


def bubbles() -> dict[str, dict[str, list[float]]]:
    """The share of a step that 4 ranks wait, from the order of actions and by the formula, over micro-batches."""
    return {
        schedule: {str(m): [pipeline.bubble(schedule, 4, m), pipeline.formula(schedule, 4, m)] for m in (4, 8, 16, 32)}
        for schedule in pipeline.CLASSES
    }


def plans() -> dict[str, list[list[Any]]]:
    """The planner's best meshes of 64 and 1024 devices."""
    with torch.device("meta"):
        model = built(LARGE, 32_000, 11_008, 32)
    out = {}
    for devices in (64, 1024):
        micro = default_micro_batch(1024, 2048)
        best = estimates(model, devices, rows=1024, length=2048, micro_batch=micro, **DEVICE)[:4]
        out[str(devices)] = [
            [e.spec.data, e.spec.tensor, e.spec.pipeline, e.spec.schedule if e.spec.pipeline > 1 else "",
             e.micro_batch, e.memory, e.sent, e.bubble, e.seconds] for e in best
        ]  # fmt: skip
    return out


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    """The page."""
    (result,) = seeds
    mega = 1e6
    costs, planned = [], []
    for name, m in result["meshes"].items():
        form = "" if m["form"] is None else f"{m['form'] / mega:.3f}"
        costs.append([name, f"{m['held'] / mega:.2f}", f"{m['sent'] / mega:.3f}", form])
        sizes = [f"{m[key] / mega:.2f}" for key in ("sent", "planned sent", "peak")]
        known = "context" not in name
        guess = [f"{m['planned peak'] / mega:.2f}", f"{m['planned peak'] / m['peak']:.2f}"] if known else ["", ""]
        other = result["others"].get(name)
        more = [f"{value / mega:.2f}" for value in other.values()] if other else ["", ""]
        ratio = f"{other['planned peak'] / other['peak']:.2f}" if other else ""
        four = result["fours"].get(name)
        last = f"{four['planned peak'] / four['peak']:.2f}" if four else ""
        planned.append([name, *sizes, *guess, *more, ratio, last])
    costs.insert(0, ["one process", f"{16 * result['parameters'] / mega:.2f}", "0", "0"])
    counts = list(result["bubbles"]["gpipe"])
    waits = [[name, *(f"{share:.2%}" for share, _ in by.values())] for name, by in result["bubbles"].items()]
    plan = [
        [devices, *map(str, row[:5]), f"{row[5] / 1e9:.1f}", f"{row[6] / 1e9:.1f}", f"{row[7]:.1%}", f"{row[8]:.2f}"]
        for devices, rows in result["plans"].items()
        for row in rows
    ]
    heads = ["devices", "data", "tensor", "pipeline", "schedule", "micro-batch", "GB a device", "GB sent", "waits"]
    heads += ["s/step"]
    return [
        Section("A step of rank 0 (MB)", [], [table(["mesh", "held", "sent", "closed form"], costs)]),
        Section("Share of a step that 4 ranks wait, by micro-batches", [], [table(["schedule", *counts], waits)]),
        Section(
            "The planner and measurement (MB)", [],
            [table(["mesh", "sent", "planned", "peak", "planned", "ratio", "other shape: peak", "planned", "ratio",
                    f"{FOUR} rows: ratio"], planned)],
        ),
        Section(
            "An estimate: 7 billion parameters on 64 and 1024 devices",
            ["Not measured. 1024 rows of 2048 tokens, in the micro-batches that `run` takes; a device has 80 GB, "
             "sends 50 GB/s and reaches 400 TFLOP/s."],
            [table(heads, plan)],
        ),
    ]  # fmt: skip


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    (result,) = seeds
    meshes, states = result["meshes"], 16 * result["parameters"]
    two = [m for name, m in meshes.items() if name != "2 x 2 x 2"]
    formed = [m for m in two if m["form"] is not None]
    waits = [(share, formula) for by in result["bubbles"].values() for share, formula in by.values()]
    known = {name: m for name, m in meshes.items() if "context" not in name}
    sent = [m["planned sent"] / m["sent"] for m in known.values()]
    peaks = [m["planned peak"] / m["peak"] for m in known.values()]
    others = [m["planned peak"] / m["peak"] for m in result["others"].values()]
    p, few = 4, result["bubbles"]["zero-bubble"]["4"]
    fours = [m["planned peak"] / m["peak"] for m in result["fours"].values()]
    return {
        "parameters": result["parameters"], "rows": COUNT, "length": LENGTH["full"],
        "held": {name: m["held"] / states for name, m in meshes.items()},
        "exact": sum(m["form"] == m["sent"] for m in formed), "forms": len(formed),
        "loss": max(m["loss"] for m in meshes.values()), "bubbles": len(waits),
        "right": sum(abs(a - b) < 1e-12 for a, b in waits), "few": few[0], "usual": (p - 1) / (6 * p + p - 1),
        "states": sum(m["states"] == m["held"] for m in known.values()), "meshes": len(known),
        "near": sum(abs(peak - 1) <= 0.15 for peak in peaks),
        "other": result["other parameters"], "other_length": LENGTH["other"],
        "other_near": sum(abs(peak - 1) <= 0.15 for peak in others), "other_peaks": (min(others), max(others)),
        "planned": (min(sent), max(sent)), "peaks": (min(peaks), max(peaks)),
        "four": FOUR, "fours": len(fours), "four_near": sum(abs(peak - 1) <= 0.15 for peak in fours),
        "four_peaks": (min(fours), max(fours)),
    }  # fmt: skip
