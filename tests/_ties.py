"""Do two decodings agree, and where they do not, was it a near-tie?

Two correct computations of the same logits differ in their last bits (another batch, another order of summation). They
choose different tokens only where the two best scores were closer than that difference; after such a place the two
texts have different pasts and cannot be compared any more. So the honest statement is: equal up to the first
difference, and every first difference is at a near-tie.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llmanac.generate.engine import Completion


@dataclass(frozen=True)
class Agreement:
    """How a set of decodings compares with another.

    Attributes:
        tokens: tokens compared (up to the first difference of each sequence, and including it).
        near_ties: sequences that part at a token whose margin is at most the tolerance.
        differences: sequences that part at a token that was no near-tie: a real disagreement.
    """

    sequences: int
    tokens: int
    near_ties: int
    differences: int

    @property
    def holds(self) -> bool:
        return self.differences == 0


def agreement(ours: Iterable[Completion], theirs: Iterable[Sequence[int]], *, tolerance: float = 1e-4) -> Agreement:
    """Compare completions with token ids from elsewhere, sequence by sequence.

    Args:
        theirs: the generated ids of each sequence, without the prompt and without padding.
        tolerance: the margin (in logits) at or below which a choice counts as a near-tie.
    """
    sequences = tokens = near = real = 0
    for completion, other in zip(ours, theirs, strict=True):
        sequences += 1
        ids = completion.ids
        place = next((i for i, (a, b) in enumerate(zip(ids, other, strict=False)) if a != b), None)
        if place is None and len(ids) == len(other):
            tokens += len(ids)
            continue
        place = min(len(ids), len(other)) if place is None else place
        tokens += place + 1
        if place < len(ids) and completion.token_logprobs[place].margin <= tolerance:
            near += 1
        else:
            real += 1
    return Agreement(sequences, tokens, near, real)


def near_ties(completions: Iterable[Completion], *, tolerance: float = 1e-4) -> int:
    """How many generated tokens won by at most `tolerance`: the places where rounding could have changed them."""
    return sum(score.margin <= tolerance for completion in completions for score in completion.token_logprobs)
