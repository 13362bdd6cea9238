"""A smaller base for a budget that is too small for the one that was asked for."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import Any

import torch

from llmanac.core.spec import diff
from llmanac.lab.budget import BudgetError, Speed
from llmanac.lab.command import toml_value
from llmanac.recipes.plan import SHAPES, parameter_count, shaped

OVERHEAD = 0.2  # of a step's time: what no smaller model saves


def smaller_base(
    base: Any, axis: str, vocabulary: int, speed: Mapping[str, Speed], fit: Callable[[Mapping[str, Speed]], object]
) -> str:
    """The patches of the largest base below this one whose steps fit, as flags; nothing where none does.

    Args:
        axis: the path that the arms vary: it is left alone.
        speed: of the arms, as measured with this base.
        fit: raises BudgetError for speeds that do not fit.
    """
    model = base.model
    if model.name != "transformer" or not all(hasattr(block, "mixer") for block in model.blocks):
        return ""
    size, flops = parameter_count(model, vocabulary), _flops(model, vocabulary, base.train.length)
    for shape in reversed(SHAPES):
        small = shaped(model, shape)
        if parameter_count(small, vocabulary) >= size:
            continue
        moved = {f"model.{path}": new for path, (_, new) in diff(model, small).items()}
        if any(path == axis or path.startswith(f"{axis}.") for path in moved):
            continue
        scale = OVERHEAD + (1 - OVERHEAD) * _flops(small, vocabulary, base.train.length) / flops
        try:
            fit({arm: Speed(s.step_seconds * scale, s.fixed_seconds * scale) for arm, s in speed.items()})
        except BudgetError:
            continue
        return " ".join(f"-s {shlex.quote(f'{path}={toml_value(value)}')}" for path, value in moved.items())
    return ""


def _flops(model: Any, vocabulary: int, length: int) -> float:
    with torch.device("meta"):
        return float(model.build(vocab_size=vocabulary).flops_per_token(length))
