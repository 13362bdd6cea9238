"""The size of a model from a time budget and this machine's measured speed; the steps follow when it has been built.

With C FLOPs to spend, N parameters read D = C / 6N tokens. Runs of minutes on a few megabytes of text are best at
about `TOKENS_PER_PARAMETER` tokens a parameter, far below the 20 of compute-optimal training on fresh text, since
the same text is read several times (docs/log.md has the runs that show this). So N = sqrt(C / 6r).
"""

import dataclasses
import math
import tempfile
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llmanac.core.device import calibrated, resolve_dtype
from llmanac.core.registry import build
from llmanac.core.spec import dump
from llmanac.data.pack import ListStream
from llmanac.models.mixers import HeadsSpec, SharedHeadsSpec
from llmanac.train.calibration import preserve_random_state
from llmanac.train.plan import MICRO_TOKENS, divides, set_attention, settled_numerics
from llmanac.train.step import Stepper

TOKENS_PER_PARAMETER = 1.5
SHAPES = (  # (dim, layers, heads, kv_heads), in order of size
    (64, 2, 2, 1), (96, 3, 2, 1), (128, 3, 2, 1), (128, 4, 2, 1), (160, 4, 5, 1), (192, 4, 3, 1), (192, 6, 3, 1),
    (256, 6, 4, 2), (320, 6, 5, 1), (384, 6, 6, 2), (384, 8, 6, 2), (512, 8, 8, 2), (640, 10, 10, 2),
    (768, 12, 12, 4), (1024, 16, 16, 4), (1536, 20, 24, 8),
)  # fmt: skip
TRIED = SHAPES[4]  # whose speed a size is planned from
TRIED_SECONDS = 1.5


def plan_size(recipe: Any, vocab_size: int, seconds: float, device: torch.device) -> tuple[Any, dict[str, float]]:
    """A transformer Spec of the size that suits `seconds` of training, and what the choice was made from."""
    tried = [dump(shaped(recipe.model, TRIED)), dump(recipe.train), vocab_size]
    rate = calibrated(
        f"FLOP/s of training {sha256(repr(tried).encode()).hexdigest()[:16]} on {device}",
        lambda: training_rate(recipe, TRIED, vocab_size, device),
        float,
    )
    wanted = math.sqrt(rate * seconds / (6 * TOKENS_PER_PARAMETER))
    shapes = [shaped(recipe.model, shape) for shape in SHAPES]
    chosen = min(shapes, key=lambda spec: abs(math.log(parameter_count(spec, vocab_size) / wanted)))
    return chosen, {"planned_flops_per_second": rate, "wanted_parameters": wanted}


def training_rate(recipe: Any, shape: tuple[int, int, int, int], vocab_size: int, device: torch.device) -> float:
    """FLOP/s of the recipe's training in a shape of `SHAPES`, on drawn tokens, over all threads.

    Where threads compute rows of their own (`train._threads`) one thread's own time is taken, times the threads that
    have rows: what others use of the processor does not count.
    """
    threads, train, taken = torch.get_num_threads(), recipe.train, list[float]()
    rows = min(train.rows, max(1, MICRO_TOKENS // train.length))
    drawn = np.random.default_rng(0).integers(0, vocab_size, (rows, train.length + 1))
    source, objective = ListStream(list(drawn), rows=rows), build("objective", "autoregressive")
    asked = settled_numerics(train, device)  # with all threads, as the training will
    spec = dataclasses.replace(shaped(recipe.model, shape), max_length=train.length)
    with preserve_random_state(), tempfile.TemporaryDirectory() as folder:
        model = spec.build(vocab_size=vocab_size).to(device).train()
        set_attention(model, asked.attention)
        alone = divides(model, objective)
        clock = time.process_time if alone else time.perf_counter
        torch.set_num_threads(1 if alone else threads)
        try:
            step = Stepper(
                model, objective, asked.optimizer.build(model=model), micro_batch=rows, clip=asked.clip,
                dtype=resolve_dtype(asked.dtype), folder=Path(folder),
            )  # fmt: skip
            while len(taken) < 2 or sum(taken[1:]) < TRIED_SECONDS:  # the first one allocates and compiles
                begin = clock()
                step(next(source), 0.0, 0)
                taken.append(clock() - begin)
        finally:
            torch.set_num_threads(threads)
    work = rows * train.length * float(model.flops_per_token(train.length))
    return (min(threads, rows) if alone else 1) * work * (len(taken) - 1) / sum(taken[1:])


def parameter_count(spec: Any, vocab_size: int) -> int:
    """Parameters of a model, counted without allocating them."""
    with torch.device("meta"):
        return sum(p.numel() for p in spec.build(vocab_size=vocab_size).parameters())


def shaped(model: Any, shape: tuple[int, int, int, int]) -> Any:
    """The model's Spec in a shape of `SHAPES`."""
    dim, layers, heads, kv_heads = shape
    pattern = len(model.blocks)
    blocks = tuple(
        dataclasses.replace(block, mixer=_with_heads(block.mixer, heads, kv_heads)) for block in model.blocks
    )
    return dataclasses.replace(model, dim=dim, layers=max(pattern, layers // pattern * pattern), blocks=blocks)


def _with_heads(mixer: Any, heads: int, kv_heads: int) -> Any:
    """The mixer with as many heads as suit the width; grouped keys stay grouped, full ones stay full."""
    changes: dict[str, Any] = {}
    if isinstance(mixer, HeadsSpec):
        changes["heads"] = heads
    if isinstance(mixer, SharedHeadsSpec) and mixer.kv_heads is not None:
        changes["kv_heads"] = 1 if mixer.kv_heads == 1 else kv_heads
    return dataclasses.replace(mixer, **changes)
