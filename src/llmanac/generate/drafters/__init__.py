"""Drafters: cheap guesses of the next tokens, which the model then checks in one call (speculative decoding).

A drafter proposes; it decides nothing. The engine computes the model on the last token and the proposed ones together,
chooses a token at each place exactly as it would have done without them, and goes on for as long as the choice is the
proposed token. So greedy tokens are the same with any drafter, and so are sampled ones: each place has its own random
numbers, whatever was proposed (`speculative.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from llmanac.core.ranges import Range, within
from llmanac.core.spec import Spec
from llmanac.generate.requests import Sequence as Generated


class Drafter(Protocol):
    """What proposes tokens; one a scheduler."""

    def propose(self, sequences: Sequence[Generated], most: Sequence[int]) -> list[list[int]]:
        """Tokens that may follow each sequence, at most `most[i]` of them; none where there is no guess."""

    def reset(self) -> None:
        """Forget all sequences: none is running, or a call has failed."""


@dataclass(frozen=True, kw_only=True)
class DrafterSpec(Spec):
    """A drafter's choices. `tokens` is the most that it proposes at once."""

    kind: ClassVar[str] = "drafter"
    tokens: int = 4

    ranges = within(Range(1, 64), "tokens")

    def build(self, *, model: Any = None, **dims: Any) -> Drafter:
        """The drafter. `model`: the draft model, for those that use one."""
        raise NotImplementedError
