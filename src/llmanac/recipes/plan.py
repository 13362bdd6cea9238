"""The size of a model from a time budget and this machine's measured speed; the steps follow when it has been built.

With C FLOPs to spend, N parameters read D = C / 6N tokens. Runs of minutes on a few megabytes of text are best at
about `TOKENS_PER_PARAMETER` tokens a parameter, far below the 20 of compute-optimal training on fresh text, since
the same text is read several times (docs/log.md has the runs that show this). So N = sqrt(C / 6r).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch

from llmanac.core.device import gemm_rate, resolve_dtype
from llmanac.train.plan import USED

TOKENS_PER_PARAMETER = 2.5
SHAPES = (  # (dim, layers, heads, kv_heads), in order of size
    (64, 2, 2, 1), (96, 3, 2, 1), (128, 3, 2, 1), (128, 4, 2, 1), (160, 4, 5, 1), (192, 4, 3, 1), (192, 6, 3, 1),
    (256, 6, 4, 2), (320, 6, 5, 1), (384, 6, 6, 2), (384, 8, 6, 2), (512, 8, 8, 2), (640, 10, 10, 2),
    (768, 12, 12, 4), (1024, 16, 16, 4), (1536, 20, 24, 8),
)  # fmt: skip


def plan_size(model: Any, vocab_size: int, seconds: float, device: torch.device) -> tuple[Any, dict[str, float]]:
    """A transformer Spec of the size that suits `seconds` of training, and what the choice was made from."""
    rate = USED * gemm_rate(resolve_dtype("auto", device), device)
    wanted = math.sqrt(rate * seconds / (6 * TOKENS_PER_PARAMETER))
    shapes = [shaped(model, shape) for shape in SHAPES]
    chosen = min(shapes, key=lambda spec: abs(math.log(parameter_count(spec, vocab_size) / wanted)))
    return chosen, {"planned_flops_per_second": rate, "wanted_parameters": wanted}


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
    if hasattr(mixer, "heads"):
        changes["heads"] = heads
    if getattr(mixer, "kv_heads", None) is not None:
        changes["kv_heads"] = 1 if mixer.kv_heads == 1 else kv_heads
    return dataclasses.replace(mixer, **changes)
