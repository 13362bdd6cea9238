"""Top-p (nucleus) sampling: the smallest set of most probable tokens whose mass reaches p.

    sort p descending;  token i stays  iff  sum_{j < i} p_j < p  (so the first always stays)

The set adapts: one token where the model is sure, thousands where it is not. Only the most probable tokens are sorted
where they already hold the mass (nearly always: a sort of the full vocabulary costs ten times as much); the other rows
are sorted in full and summed from the small end, which loses no accuracy to a sum that is nearly one. Logits (B, V) in,
logits (B, V) out, with `-inf` for what was dropped.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from llmanac.core.ranges import FRACTION, within
from llmanac.generate.decoding import (
    Array,
    DecodingSpec,
    LogitsProcessor,
    Sequences,
    cut,
    gather,
    largest,
    log_softmax,
    logsumexp,
    nothing,
)

CARD = {
    "title": "Top-p (nucleus) sampling",
    "paper": "Holtzman et al. 2020, The Curious Case of Neural Text Degeneration, section 3.1",
    "reference": "transformers TopPLogitsWarper",
}


HEAD = 512  # tokens that are looked at first


@dataclass(frozen=True, kw_only=True)
class Spec(DecodingSpec):
    """`p` in [0, 1]: 0 keeps one token, 1 keeps all."""

    p: float = 0.9

    ranges = within(FRACTION, "p")

    def build(self, **dims: Any) -> LogitsProcessor:
        p = self.p

        def keep(logits: Array, sequences: Sequences = ()) -> Array:
            if p == 1:
                return logits
            if logits.shape[-1] <= 2 * HEAD:
                return _sorted_whole(logits, p)
            best, order = largest(logits, HEAD)
            before = np.roll(np.exp(best - logsumexp(logits)).cumsum(-1), 1, -1)
            reached = before[..., 0] >= p  # rolled: the first place holds the mass of all of them
            before[..., 0] = -1  # the first token always stays
            out = nothing(logits)
            np.put_along_axis(out, order, cut(best, before >= p), -1)
            if not reached.all():  # a row's own affair: its batch does not decide how it is cut
                out[~reached] = _sorted_whole(logits[~reached], p)
            return out

        return keep


def _sorted_whole(logits: Array, p: float) -> Array:
    order = np.argsort(logits, -1, kind="stable")
    drop = np.exp(log_softmax(gather(logits, order))).cumsum(-1) <= 1 - p
    drop[..., -1] = False
    dropped = np.zeros_like(drop)
    np.put_along_axis(dropped, order, drop, -1)
    return cut(logits, dropped)
