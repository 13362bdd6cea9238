"""A smaller base for a budget that is too small for the one that was asked for.

What a count reaches on the text of a study: what is better below that level may not be so above it.
"""

import gzip
import shlex
from collections.abc import Callable, Mapping
from typing import Any

import torch

from llmanac.core.device import gemm_rate, resolve_dtype
from llmanac.core.spec import diff
from llmanac.evaluate.baselines import join, ngram_bits
from llmanac.lab.budget import BudgetError, Speed
from llmanac.lab.command import toml_value
from llmanac.lab.prepare import PreparedArms
from llmanac.recipes.plan import SHAPES, parameter_count, shaped
from llmanac.train.plan import USED, flops_per_token

FALLS = 0.8  # a step's time falls as FLOPs to this power: smaller products reach less of the machine's rate
SPARE = 1.5  # how much slower than expected the offered base may be: what is pasted is not to be refused again


def smaller_base(
    base: Any, axis: str, vocabulary: int, speed: Mapping[str, Speed], fit: Callable[[Mapping[str, Speed]], object]
) -> str:
    """The patches of the largest base below this one whose steps fit, as flags; nothing where none does.

    Args:
        axis: the path that the arms vary: it is left alone.
        speed: of the arms with this base.
        fit: raises BudgetError for speeds that do not fit.
    """
    model = base.model
    if model.name != "transformer":
        return ""
    size, flops = parameter_count(model, vocabulary), _flops(model, vocabulary, base.train.length)
    for shape in reversed(SHAPES):
        small = shaped(model, shape)
        if parameter_count(small, vocabulary) >= size:
            continue
        moved = {f"model.{path}": new for path, (_, new) in diff(model, small).items()}
        if any(path == axis or path.startswith(f"{axis}.") for path in moved):
            continue
        scale = SPARE * (_flops(small, vocabulary, base.train.length) / flops) ** FALLS
        try:
            fit({arm: slower(s, scale) for arm, s in speed.items()})
        except BudgetError:
            continue
        return " ".join(f"-s {shlex.quote(f'{path}={toml_value(value)}')}" for path, value in moved.items())
    return ""


def counted_speed(recipe: Any, vocabulary: int, device: torch.device, read: float) -> Speed:
    """How fast steps should be by this machine's rate, before any was computed; `read` tokens are read outside them."""
    rate = USED * gemm_rate(resolve_dtype(recipe.train.dtype, device), device)
    a_token = _flops(recipe.model, vocabulary, recipe.train.length) / rate
    return Speed(recipe.train.batch_tokens * a_token, read * a_token / 3)  # a forward pass is a third of a step


def slower(speed: Speed, times: float) -> Speed:
    """The same work on a machine so many times as slow."""
    return Speed(speed.step_seconds * times, speed.fixed_seconds * times)


def _flops(model: Any, vocabulary: int, length: int) -> float:
    with torch.device("meta"):
        return flops_per_token(model.build(vocab_size=vocabulary), length)


METRIC = "bits_per_byte"
MOST = 4_000_000  # tokens of the training text that are counted
BEATEN = "at a level that a count beats; may change with training"


def with_floors(result: dict[str, Any], prepared: PreparedArms) -> None:
    """Put what gzip and a byte 5-gram need into a study's result, and mark the comparisons of arms that need more."""
    values = result["values"].get(METRIC)
    if not values:
        return
    held_out, data = prepared.report, join(prepared.report)
    seen = prepared.tokenizer.decode(prepared.dataset.read(0, min(len(prepared.dataset), MOST)).tolist())
    floors = {
        "gzip": 8 * len(gzip.compress(data, 9, mtime=0)) / (len(data) - len(held_out)),
        "ngram-5": ngram_bits([seen], held_out),
    }
    level = min(floors.values())
    beaten = [arm for arm, found in values.items() if found and not sum(found) / len(found) <= level]
    result["floors"] = {**floors, "beaten": beaten}
    for comparison in result["comparisons"].get(METRIC, []):
        if comparison["arm"] in beaten or result["baseline"] in beaten:
            comparison["beaten"] = BEATEN
