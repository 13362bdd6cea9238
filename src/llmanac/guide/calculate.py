"""Memory, FLOPs, KV bytes and latency of a model before it is built: `llmanac calculate`.

    t = max(FLOPs / F, bytes / M)        intensity = FLOPs / bytes, in balance at F / M

with F the FLOP/s and M the bytes/s of a machine (Williams et al. 2009, the roofline). It is a lower bound: calls,
norms, softmax and sampling come on top, so `measure` times the same steps here.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llmanac.core.device import DTYPES, measure_bandwidth, measure_gemm, resolve_dtype
from llmanac.core.errors import CheckpointError, SpecError, shown
from llmanac.core.types import Batch, OutputRequest
from llmanac.guide.formulas import Costs, costs
from llmanac.lab.memory import memory
from llmanac.models.families import family
from llmanac.models.folder import CONFIG, RECORD, read_record, read_table
from llmanac.models.locate import GGUF, model_folder
from llmanac.models.packed_files import KEY
from llmanac.recipes.spec import load_recipe

OPTIMIZER_BYTES = {"adamw": 8, "lion": 4, "none": 0}  # float32 state of a parameter; none: plain SGD
# bytes of a process of `llmanac generate FILE` besides the model: its peak less the file, state and logits, on Linux.
# 453 MB native and 448 with torch for a file of 2 MB, 416 and 402 for Qwen2.5 0.5B in Q4_K_M
LIBRARIES = 450_000_000
MOST_BUILT = 200  # layers of a model whose activations are looked up on a skeleton
STEPS = 8


@dataclass(frozen=True)
class FileSize:
    """A .gguf file: its bytes, and how its tensors are stored."""

    bytes: int
    kinds: tuple[str, ...]


@dataclass(frozen=True)
class Described:
    """A model by its config: Spec, vocabulary, where they are from, and the .gguf file if it is one."""

    spec: Any
    vocab_size: int
    path: str
    family: str
    packed: FileSize | None = None


def read(path: str | Path) -> Described:
    """The model that a config.json, a model's or run's folder, a .gguf file or a recipe describes; no weights are read.

    Raises:
        CheckpointError: a config that is missing or damaged, of a family that is not known, or with keys that are not.
        SpecError, DataError: a recipe that cannot be read.
    """
    place = Path(path)
    if place.suffix == ".toml" or (not place.exists() and place.suffix == "" and "/" not in str(path)):
        recipe = load_recipe(str(path)).spec
        size = recipe.tokenizer.vocab_size
        if type(size) is not int:
            raise SpecError(
                f"{path}: tokenizer.{recipe.tokenizer.name} has no vocab_size; calculate from a config.json"
            )
        return Described(recipe.model, size, str(path), f"recipe {recipe.name}")
    if place.is_dir() or place.suffix == GGUF:
        place = model_folder(place)
    file, packed = place / CONFIG if place.is_dir() else place, None
    if file.suffix == GGUF:
        from llmanac.models.gguf.read import PackedWeights

        weights = PackedWeights(file)
        data, kinds = weights.config, weights.file.kinds()
        packed = FileSize(weights.file.size, tuple(kind for kind, _ in kinds.most_common()))
    else:
        data = read_table(file)
    kind = data.get("model_type")
    data.pop(KEY, None)
    if kind == "llmanac":
        spec, size = read_record(file.parent)
        return Described(spec, size, str(file.parent / RECORD), "llmanac")
    if not isinstance(kind, str):
        raise CheckpointError(f"{file}: model_type is {shown(kind)}, expected the name of a family")
    chosen = family(kind, f"{file}: model_type")
    config = chosen.config(data, file)
    try:
        spec, size = chosen.to_spec(config)
    except SpecError as error:
        raise CheckpointError(f"{file}: {error}") from error
    if chosen.further:
        config.get(chosen.further)  # layers after the model's own, which are not read
    config.finish()
    return Described(spec, size, str(file), kind, packed)


@dataclass(frozen=True)
class Bytes:
    """Bytes of a model that is used and of one that is trained in full.

    Attributes:
        weights, state, logits: in use: the weights in the dtype, the state of all rows, logits of a step in float32.
        packed: of a .gguf file that is used as it is, in place of weights: its bytes, mapped or in another order.
        trained, gradients, optimizer: float32 weights, gradients, the optimizer's state.
        activations: of a training step with every block computed again, and its workspace; None where no formula is.
    """

    weights: int
    state: int
    logits: int
    trained: int
    gradients: int
    optimizer: int
    activations: int | None
    packed: int = 0

    @property
    def inference(self) -> int:
        return self.weights + self.packed + self.state + self.logits

    @property
    def peak(self) -> int:
        """Of a process that loads and uses the model, libraries included."""
        return self.inference + LIBRARIES

    @property
    def training(self) -> int:
        return self.trained + self.gradients + self.optimizer + (self.activations or 0)


def size_of(dtype: str) -> int:
    """Bytes of a number. Raises SpecError for a dtype that is not known."""
    if dtype not in DTYPES:
        raise SpecError(f"--dtype: {dtype!r} is not one of {', '.join(DTYPES)}")
    return resolve_dtype(dtype).itemsize


def bytes_of(
    model: Described, *, length: int, rows: int = 1, dtype: str | None = None, optimizer: str = "adamw"
) -> Bytes:
    """What a model takes, in use with `rows` rows of `length` tokens and in training on them.

    Args:
        dtype: of weights and state; by default bfloat16, and for a .gguf file what llmanac holds of it.

    Raises:
        SpecError: a dtype or an optimizer that is not known.
    """
    packed = model.packed if dtype is None else None
    dtype = dtype or default_dtype(model)
    if optimizer not in OPTIMIZER_BYTES:
        raise SpecError(f"--optimizer: {optimizer!r} is not one of {', '.join(OPTIMIZER_BYTES)}")
    found, size = costs(model.spec, model.vocab_size), size_of(dtype)
    numbers = found.parameters
    state = rows * found.state_bytes(length, size)
    return Bytes(
        weights=0 if packed else numbers * size,
        state=state,
        logits=0 if model.spec.head is None else 4 * rows * model.vocab_size,
        trained=4 * numbers,
        gradients=4 * numbers,
        optimizer=OPTIMIZER_BYTES[optimizer] * numbers,
        activations=_activations(model, found, length, rows, dtype),
        packed=packed.bytes if packed else 0,
    )


def default_dtype(model: Described) -> str:
    """What weights and state are held in where nothing else is said."""
    return "float32" if model.packed else "bfloat16"


def _activations(model: Described, found: Costs, length: int, rows: int, dtype: str) -> int | None:
    plain = found.kind == "decoder" and not any(p.experts for p in found.parts)
    if not plain or getattr(model.spec, "layers", 0) > MOST_BUILT:
        return None
    try:
        made = memory(model.spec, model.vocab_size, dtype=resolve_dtype(dtype), rows=rows, length=length)
    except SpecError:
        return None
    return made.activations + made.workspace


@dataclass(frozen=True)
class Machine:
    """FLOP/s of matrix products and bytes/s of memory reads; `source` says where the figures are from."""

    flops: float
    bandwidth: float
    source: str


def this_machine(dtype: str) -> Machine:
    """What this machine reaches now, measured in about a second."""
    size_of(dtype)
    return Machine(measure_gemm(resolve_dtype(dtype)), measure_bandwidth(megabytes=64), "measured here")


@dataclass(frozen=True)
class StepCost:
    """A step of decoding, or the reading of a prompt: what it computes and reads, and the time that follows."""

    flops: float
    bytes: float
    seconds: float
    intensity: float
    bound: str


def _step(flops: float, read: float, machine: Machine) -> StepCost:
    compute, memory_time = flops / machine.flops, read / machine.bandwidth
    bound = "compute" if compute >= memory_time else "memory"
    return StepCost(flops, read, max(compute, memory_time), flops / read, bound)


def latency(
    model: Described, machine: Machine, *, prompt: int, rows: int = 1, dtype: str | None = None
) -> tuple[StepCost, StepCost]:
    """The prompt of every row, and the step that writes the next token of every row after it.

    Args:
        dtype: of weights and state; without it bfloat16, or for a .gguf file its own bytes a weight and float32 state.

    Raises:
        SpecError: a model that does not write (an encoder).
    """
    found, size = costs(model.spec, model.vocab_size), size_of(dtype or default_dtype(model))
    weight = model.packed.bytes / found.parameters if model.packed and dtype is None else size
    if found.kind == "encoder":
        raise SpecError(f"{model.path}: an encoder reads whole texts and does not write; there is no time per token")
    held = rows * found.read_state(prompt, size)
    first = _step(rows * found.prompt_flops(prompt), weight * found.read_parameters(rows * prompt) + held, machine)
    encoder = sum(p.count * p.parameters for p in found.parts if p.stack == "encoder")
    read = weight * (found.read_parameters(rows) - encoder) + held
    return first, _step(rows * found.forward_flops(prompt), read, machine)


def measure(
    model: Described,
    *,
    prompt: int,
    rows: int = 1,
    dtype: str = "float32",
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[float, float]:
    """Seconds of the prompt and of a step after it, measured here on a model with random weights.

    With one thread, `clock=time.process_time` leaves out what other processes take away.

    Raises:
        SpecError: an encoder-decoder, or a model that takes more than 2 GB.
    """
    found = costs(model.spec, model.vocab_size)
    if found.kind != "decoder":
        raise SpecError(f"--measure: {model.path} is no decoder; leave it out")
    if found.parameters * 4 > 2e9:
        raise SpecError(f"--measure: {model.path} takes {found.parameters * 4 / 1e9:.1f} GB; 2 GB are built at most")
    built = model.spec.build(vocab_size=model.vocab_size).to(resolve_dtype(dtype)).eval()
    ids = torch.randint(model.vocab_size, (rows, prompt), generator=torch.Generator().manual_seed(0))
    want, times = OutputRequest(logits="last"), []
    with torch.inference_mode():
        built(Batch(ids=ids[:, :1]), want=want)
        for _ in range(2):
            state = built.start(rows)
            state.reserve(prompt + STEPS)
            begin = clock()
            built(Batch(ids=ids), state, want)
            times.append(clock() - begin)
        steps = []
        for _ in range(STEPS):
            begin = clock()
            built(Batch(ids=ids[:, :1]), state, want)
            steps.append(clock() - begin)
    return min(times), statistics.median(steps)
