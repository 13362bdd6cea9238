"""Decoding methods: each reshapes the logits of the next token; the engine then draws one token from what is left.

A method is a closure `(B, V) -> (B, V)` over float logits, built once and composed once (`compose`), never rebuilt in
the loop. A token that a method rules out gets `-inf`; every row keeps at least one finite logit.

Order. Methods apply from left to right, and the order matters: temperature before top-k or top-p means that the cut is
made on the tempered distribution. The engine's own order for its three options is temperature, top-k, top-p, the one
that transformers uses.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from llmanac.core.spec import Spec

LogitsProcessor = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class DecodingSpec(Spec):
    """A decoding method's choices.

    `stochastic` is False for a method that keeps only each row's best token, so that no random number is used.
    """

    kind: ClassVar[str] = "decoding"
    stochastic: ClassVar[bool] = True

    def build(self, **dims: Any) -> LogitsProcessor:
        """The closure `logits (B, V) -> logits (B, V)`."""
        raise NotImplementedError


@functools.lru_cache(maxsize=1024)
def compose(specs: tuple[DecodingSpec, ...]) -> LogitsProcessor:
    """One closure that applies the methods from left to right; without methods, the identity."""
    warps = [spec.build() for spec in specs]

    def apply(logits: Tensor) -> Tensor:
        for warp in warps:
            logits = warp(logits)
        return logits

    return apply
