"""What a model costs, measured: peak memory of a training step, decoding speed, bytes of decoding state."""

import contextlib
import itertools
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from llmanac.core.device import resolve_dtype
from llmanac.core.types import LAST, LanguageModel, capabilities
from llmanac.generate.runner import device_of
from llmanac.lab.stats import Metric
from llmanac.train.step import Stepper

DECODED = 64  # tokens decoded to measure the speed
ROUNDS = 3
TRAINING_COSTS = (
    Metric("parameters", "", "lower"), Metric("train_flops", "FLOP", "lower", "training FLOPs"),
    Metric("tokens", "", "lower", "training tokens"), Metric("seconds", "s", "lower", "training time"),
    Metric("steps", "", "lower"), Metric("train_tokens_per_second", "token/s", "higher", "training speed"),
    Metric("decode_tokens_per_second", "token/s", "higher", "decoding speed"),
    Metric("peak_memory", "B", "lower", "peak memory of a step"),
    Metric("model_bytes", "B", "lower", "size of the model"),
    Metric("state_bytes", "B", "lower", "decoding state"),
    Metric("state_tokens", "", "lower", "after so many tokens"),  # a state need not grow with them
)  # fmt: skip


def decode_speed(model: Any, prompt: list[int]) -> float | None:
    """Tokens a second of greedy decoding, one sequence: the median of a few rounds after one that warms up.

    None for a model that does not decode.
    """
    from llmanac.generate.engine import Engine

    if not isinstance(model, LanguageModel):
        return None
    limit = model.max_length
    count = DECODED if limit is None else max(1, min(DECODED, limit - len(prompt)))
    engine, taken = Engine(model), []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        engine.generate([prompt], max_new_tokens=count, temperature=0.0, stop_ids=())
        taken.append(time.perf_counter() - start)
    return count / statistics.median(taken[1:])


def state_costs(model: Any) -> dict[str, float | None]:
    """Bytes of decoding state after as many tokens as are said with it; None for a model without a state.

    A power of two that the model has room for, at most 256. No mean over the tokens: a recurrent state has one size.
    """
    context = min(1 << ((model.max_length or 256).bit_length() - 1), 256)
    try:
        state = model.start(1)
    except (AttributeError, NotImplementedError):
        return {"state_bytes": None, "state_tokens": None}
    with torch.no_grad():
        model(torch.zeros(1, context, dtype=torch.long, device=device_of(model)), state, want=LAST)
    return {"state_bytes": float(state.nbytes), "state_tokens": float(context)}


def model_bytes(model: Any) -> float:
    """Bytes of what a model has learned: its parameters, a tied one once, or its trie."""
    if capabilities(model).counted:
        return float(model.trie.nbytes)
    return float(sum(p.nbytes for p in model.parameters()))


def model_costs(model: Any, prompt: list[int], tokens: int, seconds: float) -> dict[str, float | None]:
    """What every model costs that has learned from so many tokens in so many seconds."""
    return {
        "parameters": model.parameter_count(), "tokens": tokens, "seconds": seconds,
        "train_tokens_per_second": tokens / seconds, "decode_tokens_per_second": decode_speed(model, prompt),
        **state_costs(model), "model_bytes": model_bytes(model),
    }  # fmt: skip


def peak_memory(model: Any, objective: Any, spec: Any, rows: Any, folder: Path) -> float | None:
    """Bytes held at the worst moment of a training step: weights, optimizer state, gradients and activations.

    On the CPU it is the running sum of the allocator's own events over one step, added to what was resident before it,
    which does not depend on what else the process has done; on CUDA the allocator's peak. Changes the weights.
    """
    optimizer = spec.optimizer.build(model=model)
    stepper = Stepper(
        model, objective, optimizer, micro_batch=spec.micro_batch or len(rows), clip=spec.clip,
        dtype=resolve_dtype(spec.dtype), folder=folder,
    )  # fmt: skip
    model.train()
    stepper(rows, 1.0, 0)  # the optimizer makes its state in the first step
    resident = sum(p.nbytes for p in model.parameters()) + optimizer.nbytes()
    if stepper.device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        stepper(rows, 1.0, 1)
        torch.cuda.synchronize()
        return float(torch.cuda.max_memory_allocated())
    if stepper.device.type != "cpu":
        return None
    peak = allocated(lambda: stepper(rows, 1.0, 1))
    return None if peak is None else float(resident + peak)


def allocated(run: Callable[[], Any]) -> int | None:
    """The most bytes that a call holds at a time on the CPU, besides what was there before; None as in `peak_bytes`."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with _quiet(), torch.profiler.profile(activities=activities, profile_memory=True) as seen:
        run()
    return peak_bytes(seen)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Send what the profiler's own library writes to the process' error stream nowhere."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def peak_bytes(profiler: Any) -> int | None:
    """The most bytes allocated at a time under a memory profiler; None if this release of torch has no events."""
    results = getattr(getattr(profiler, "profiler", None), "kineto_results", None)
    events = [] if results is None else [(e.start_ns(), e.nbytes()) for e in results.events() if e.name() == "[memory]"]
    sizes = [size for _, size in sorted(events, key=lambda event: event[0])]
    return max(0, *itertools.accumulate(sizes)) if sizes else None
