"""What a request may be constrained by: which tokens may come next, as a state that follows the text."""

from typing import Protocol

from llmanac.generate.decoding import Array


class Constraint(Protocol):
    """One sequence's constraint (a regular expression, a JSON Schema, a grammar); the engine makes one a sample.

    It may have `copy()`, an independent constraint in the same state. Beams fork; without it a fork takes all tokens of
    its text again.
    """

    def mask(self) -> Array:
        """(V,) bool: tokens that may come next; at least one. End-of-text is allowed where the text may end."""

    def forced(self) -> int | None:
        """The one token that may come next, where there is no choice and none has to be drawn; else None."""

    def advance(self, token: int) -> None:
        """Take a token that the mask allowed."""
