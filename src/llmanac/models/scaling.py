"""How rotary frequencies are changed for rows longer than those that a model was trained at.

With w the frequencies, s the factor, L the trained length, n the length of a row, d the numbers of a head that rotate:

    linear      w / s                                                              Chen et al. 2023, arXiv:2306.15595
    dynamic     w of the base theta (s n / L - s + 1)^(d / (d - 2)), n >= L        NTK-aware, bloc97 and emozilla 2023
    yarn        w / s below one rotation in L, w above 32, a ramp between; cos and sin times 0.1 ln s + 1
                                                                                   Peng et al. 2023, arXiv:2309.00071
    llama3      w / s below one rotation in L, w above 4, linear in the number of rotations between   Llama 3.1's card
    longrope    w / f, with a found list f for n <= L and another past it; cos and sin times sqrt(1 + ln s / ln L)
                                                                                   Ding et al. 2024, arXiv:2402.13753

`dynamic` and `longrope` depend on n. It is the length of each row (or packed document) by itself, never of a batch or
of what was read before. Keys that were turned by other frequencies cannot be compared with new queries, so a row that
grows is read again: for `longrope` once, where it becomes longer than L, for `dynamic` at L and each doubling of it, in
between which it is read as a row of the length it will be read again at. So nothing depends on how long a row may get.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from llmanac.core.errors import SpecError
from llmanac.core.ranges import POSITIVE, Range, within
from llmanac.core.spec import Spec
from llmanac.models.folder import MOST

if TYPE_CHECKING:
    from torch import Tensor

    Array = np.ndarray[Any, np.dtype[np.floating]]

ROTATIONS = {"llama3": 4.0, "yarn": 32.0}  # in the trained length, from which on frequencies are left as they are


@dataclass(frozen=True, kw_only=True)
class Scaling(Spec):
    """How frequencies are changed past the length that a model was trained at; see the module.

    Attributes:
        type: the formula; factor: s; original_length: L.
        low_frequency_factor, high_frequency_factor: of `yarn` and `llama3`: rotations in L up to which a frequency is
            divided by s, and from which on it is left alone (by default 1, and 32 for yarn, 4 for llama3).
        attention_factor: of `yarn` and `longrope`: what cosines and sines are multiplied by; by default the formula's.
        ramp: of `yarn`: whether the ramp begins and ends at whole pairs (as in the paper's code) or exactly.
        short_factors, long_factors: of `longrope`: a number for each pair, for rows up to L and for longer ones.
    """

    type: Literal["linear", "dynamic", "yarn", "llama3", "longrope"]
    factor: float
    low_frequency_factor: float = 1.0
    high_frequency_factor: float | None = None
    original_length: int = 8192
    attention_factor: float | None = None
    ramp: Literal["whole", "exact"] = "whole"
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()

    ranges = (
        within(Range(1), "factor")
        | within(Range(2), "original_length")
        | within(POSITIVE, "low_frequency_factor short_factors long_factors attention_factor")
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.high_frequency_factor is None and self.type in ROTATIONS:
            object.__setattr__(self, "high_frequency_factor", ROTATIONS[self.type])
        high = self.high_frequency_factor
        if high is not None and high <= self.low_frequency_factor:
            raise SpecError("low_frequency_factor: must be above 0 and below high_frequency_factor")
        if self.attention_factor is not None and self.type not in ("yarn", "longrope"):
            raise SpecError("attention_factor: must be above 0, and only yarn and longrope have one")
        for name in ("short_factors", "long_factors"):
            if bool(getattr(self, name)) != (self.type == "longrope"):
                raise SpecError(f"{name}: longrope needs them, and no other type has them")

    @property
    def by_length(self) -> bool:
        """Whether frequencies depend on the length of a row."""
        return self.type in ("dynamic", "longrope")

    @property
    def amplitude(self) -> float:
        """What cosines and sines are multiplied by."""
        if self.attention_factor is not None:
            return self.attention_factor
        if self.type == "yarn":
            return 0.1 * math.log(self.factor) + 1.0
        if self.type == "longrope":
            return math.sqrt(1 + math.log(self.factor) / math.log(self.original_length))
        return 1.0

    def check(self, pairs: int) -> None:
        """Raises SpecError where the scaling does not fit heads of which `pairs` pairs rotate."""
        for name in ("short_factors", "long_factors"):
            if getattr(self, name) and len(getattr(self, name)) != pairs:
                raise SpecError(f"scaling.{name}: {len(getattr(self, name))} numbers, but {pairs} pairs a head rotate")
        if self.type == "dynamic" and pairs < 2:
            raise SpecError("scaling.type: dynamic needs at least two pairs a head that rotate")

    def apply(self, frequencies: Array, theta: float) -> Array:
        """Frequencies (d/2,) of the base `theta` -> (d/2,), where not `by_length`."""
        low, high = self.low_frequency_factor, self.high_frequency_factor or ROTATIONS["llama3"]
        if self.type == "linear":
            return frequencies / self.factor
        if self.type == "llama3":
            kept = ((self.original_length * frequencies / (2 * math.pi) - low) / (high - low)).clip(0, 1)
            return (1 - kept) * frequencies / self.factor + kept * frequencies
        if self.type == "yarn":
            pairs = len(frequencies)
            first, last = (self._pair(rotations, 2 * pairs, theta) for rotations in (high, low))
            if self.ramp == "whole":
                first, last = math.floor(first), math.ceil(last)
            first, last = max(first, 0), min(last, 2 * pairs - 1)
            steps = np.arange(pairs, dtype=np.float32)
            divided = ((steps - first) / ((last - first) or 0.001)).clip(0, 1)
            return frequencies / self.factor * divided + frequencies * (1 - divided)
        raise AssertionError(f"{self.type} depends on the row")

    def lasts(self, tokens: int) -> int:
        """Up to how many tokens a growing row is turned as one of `tokens` is, where `by_length`."""
        if self.type == "longrope" and tokens > self.original_length:
            return MOST
        return int(self.original_length << ((tokens - 1) // self.original_length).bit_length())

    def for_lengths(self, frequencies: Tensor, theta: float, lengths: Tensor) -> Tensor:
        """Unscaled frequencies (d/2,) and lengths of rows (...) -> (..., d/2), where `by_length`."""
        import torch

        longer = lengths[..., None] > self.original_length
        size = 2 * len(frequencies)
        exponents = torch.arange(0, size, 2, dtype=torch.float32, device=frequencies.device) / size
        if self.type == "longrope":
            short, long = (torch.tensor(f, device=frequencies.device) for f in (self.short_factors, self.long_factors))
            return 1.0 / (torch.where(longer, long, short) * theta**exponents)
        ratio = lengths.clamp(min=self.original_length).double() / self.original_length
        base = theta * (self.factor * ratio - (self.factor - 1)) ** (size / (size - 2))
        return torch.where(longer, 1.0 / base[..., None].float() ** exponents, frequencies)

    def _pair(self, rotations: float, size: int, theta: float) -> float:
        """Which pair of a head of `size` numbers turns this often within the trained length."""
        return size * math.log(self.original_length / (rotations * 2 * math.pi)) / (2 * math.log(theta))


def stretched(spec: Any, asked: str) -> Any:
    """A model's Spec with `asked`, as "yarn:4": that scaling by that factor, and a context that many times as long.

    Raises:
        SpecError: no such scaling or factor, or a model without rotary positions or with a scaling of its own.
    """
    kind, _, factor = asked.partition(":")
    own = spec.position
    if own is None or not own.scales:
        raise SpecError("rope: this model has no rotary positions to scale")
    if own.scaling is not None:
        raise SpecError(f"rope: this model was made with a scaling of its own ({own.scaling.type}); leave it out")
    if kind not in ("linear", "dynamic", "yarn", "llama3"):
        raise SpecError(f"rope: {asked!r} is not TYPE:FACTOR with linear, dynamic, yarn or llama3, as yarn:4")
    try:
        scale = float(factor)
        length = int(spec.max_length * scale)
    except (ValueError, OverflowError):
        raise SpecError(f"rope: {factor!r} is no factor; write for example {kind}:4") from None
    scaling = Scaling(type=kind, factor=scale, original_length=spec.max_length)  # type: ignore[arg-type]
    return replace(spec, position=replace(own, scaling=scaling), max_length=length)


def windowed(spec: Any, asked: str) -> Any:
    """A model's Spec with `asked`, as "4+1020": so many first tokens and a window, in a cache that does not grow.

    The context has no limit then but that of its positions.

    Raises:
        SpecError: no two numbers, or a model with layers that are not softmax attention.
    """
    first, plus, last = asked.partition("+")
    try:
        sinks, window = int(first), int(last)
    except ValueError:
        raise SpecError(f"sinks: {asked!r} is not FIRST+WINDOW, as 4+1020") from None
    if not plus or not spec.blocks or any(block.mixer.sinks is None for block in spec.blocks):
        raise SpecError("sinks: only models whose layers are softmax attention can have them")
    return replace(
        spec, blocks=tuple(replace(b, mixer=replace(b.mixer, window=window, sinks=sinks)) for b in spec.blocks)
    )
