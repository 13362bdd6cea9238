"""How many operations compiled loops do, for whoever counts: a dispatcher of torch sees none of them.

An operation is one element of one arithmetic function; a sum has as many as it has terms. A loop that saves some
against the same formulas in torch is counted as these.
"""

from collections.abc import Callable

LISTENERS: list[Callable[[float], None]] = []


def did(operations: float) -> None:
    """Say that a loop has done so many."""
    for listener in LISTENERS:
        listener(operations)
