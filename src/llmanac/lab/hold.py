"""`--hold`: what is equal between arms, and the one field that moves to make it so.

    tokens    the number of steps, where a step holds other tokens: steps_a = steps_0 b_0 / b_a
    params    the width of the feed-forward layers, or `model.dim` where there is none, so that |N - N0| <= 1% of N0;
              steps as for tokens
    flops     the number of steps, by FLOPs counted per token that the objective's batches hold:
              steps_a = steps_0 F_0 / F_a
    time      the number of steps, by step times measured in turns on this machine: steps_a = steps_0 t_0 / t_a

N0 parameters, and b_0 tokens, F_0 FLOPs and t_0 seconds of a step, are the baseline's. Whichever is held, all four are
reported for every arm. Steps are whole, so tokens are equal to within one step.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from llmanac.core.errors import SpecError
from llmanac.core.spec import diff, patch
from llmanac.lab.axis import Arm, Axis, Hold, refuse_outside
from llmanac.recipes.plan import parameter_count

TOLERANCE = 0.01
WIDEST = 1 << 16
ROUND = (64, 32, 16, 8, 4)
WIDTHS = ("model.blocks.*.ffn.width", "model.dim")  # in the order in which they are tried


@functools.lru_cache(maxsize=4096)
def parameters_of(model: Any, vocab_size: int) -> int:
    """Trained numbers of a model Spec; nothing is allocated."""
    return parameter_count(model, vocab_size)


@functools.lru_cache(maxsize=4096)
def flops_of(model: Any, vocab_size: int, length: int) -> float:
    """FLOPs of training on one token in a row of `length`; nothing is allocated."""
    with torch.device("meta"):
        return float(model.build(vocab_size=vocab_size).flops_per_token(length))


def hold_parameters(arms: Sequence[Arm], base: Any, axis: Axis, baseline: str, vocab_size: int) -> list[Arm]:
    """Every arm with as many parameters as the baseline, to 1%.

    Raises:
        SpecError: an arm that no width brings within 1%; the message gives its closest.
    """
    wanted = parameters_of(next(a for a in arms if a.label == baseline).spec.model, vocab_size)
    solved = [
        arm if arm.label == baseline or _close(parameters_of(arm.spec.model, vocab_size), wanted)
        else _solve(arm, base, wanted, vocab_size)
        for arm in arms
    ]  # fmt: skip
    refuse_outside(solved, axis)
    return solved


def _close(count: float, wanted: float) -> bool:
    return abs(count - wanted) <= TOLERANCE * wanted


def _solve(arm: Arm, base: Any, wanted: int, vocab_size: int) -> Arm:
    reasons = []
    for path in WIDTHS:
        best = _search(arm.spec, path, wanted, vocab_size)
        if best is None:
            reasons.append(f"{path} cannot be set")
            continue
        value, count = best
        if _close(count, wanted):
            spec = patch(arm.spec, {path: value})
            changes = diff(base, spec)
            return dataclasses.replace(
                arm, spec=spec, diff=changes, held={p: c for p, c in changes.items() if _matches(p, path)}
            )
        reasons.append(f"{path} = {value} gives {count:,}")
    raise SpecError(
        f"--hold params: arm {arm.label!r} has {parameters_of(arm.spec.model, vocab_size):,} parameters, the baseline "
        f"{wanted:,}, and no width brings it within 1% ({'; '.join(reasons)}); use --hold flops, time or tokens"
    )


def _matches(leaf: str, path: str) -> bool:
    steps, wanted = leaf.split("."), path.split(".")
    return len(steps) == len(wanted) and all(w in ("*", s) for s, w in zip(steps, wanted, strict=True))


def _search(spec: Any, path: str, wanted: int, vocab_size: int) -> tuple[int, int] | None:
    """The width whose parameter count comes closest, by bisection; None where the field is not there.

    A width that the model refuses (a `dim` that the heads do not divide) is passed over for the nearest one it takes.
    """

    @functools.cache
    def count(width: int) -> int | None:
        try:
            return parameters_of(patch(spec, {path: width}).model, vocab_size)
        except SpecError:
            return None

    step = _granularity(count)
    if step is None:
        return None
    low, high = 1, 2
    while (count(high * step) or 0) < wanted and high * step < WIDEST:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if (count(middle * step) or 0) < wanted else (low, middle)
    tried = [(w, c) for w in (low * step, high * step) if (c := count(w)) is not None]
    if not tried:
        return None
    best = min(tried, key=lambda pair: abs(pair[1] - wanted))
    for multiple in ROUND:  # a round width is faster to multiply by, where one is close enough
        width = round(best[0] / multiple) * multiple
        found = count(width) if width else None
        if found is not None and abs(found - wanted) <= TOLERANCE / 2 * wanted:
            return width, found
    return best


def _granularity(count: Callable[[int], int | None]) -> int | None:
    """The smallest step at which every width is taken: 1 for a feed-forward width, heads x 2 for a rotary `dim`."""
    for step in (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128):
        if all(count(step * i) is not None for i in (1, 2, 3, 5)):
            return step
    return None


def step_ratios(
    hold: Hold, arms: Sequence[Arm], baseline: str, vocab_size: int, step_seconds: Mapping[str, float],
    places: Mapping[str, float] | None = None,
) -> dict[str, float]:  # fmt: skip
    """Each arm's steps over the baseline's. Equal parameters are compared at equal tokens.

    Args:
        places: of each arm, what a step's batches hold, padding included; an objective may write a token twice.
    """
    tokens = {a.label: float(a.spec.train.rows * a.spec.train.length) for a in arms}
    if hold == "flops":
        read = tokens if places is None else places
        cost = {a.label: flops_of(a.spec.model, vocab_size, a.spec.train.length) * read[a.label] for a in arms}
    elif hold == "time":
        cost = dict(step_seconds)
    else:
        cost = tokens
    return {label: cost[baseline] / value for label, value in cost.items()}
