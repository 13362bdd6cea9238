"""Stop strings: where a text ends, and how much of its tail must wait because a stop string may have begun in it."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Finds the first stop string to be complete, reading character by character.

    So the answer never depends on how the text was cut into tokens. Where two stop strings end at the same character,
    the longer one counts (it began earlier).
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self.stops = tuple(stops)
        self._longest = max((len(s) for s in self.stops), default=0)

    def find(self, text: str) -> int | None:
        """Where the text must be cut: the start of the stop string that is complete first; `None` without one."""
        hits = [(start + len(s), start) for s in self.stops if (start := text.find(s)) >= 0]
        return min(hits)[1] if hits else None

    def held(self, text: str) -> int:
        """How many characters at the end of `text` could be the beginning of a stop string."""
        for size in range(min(self._longest - 1, len(text)), 0, -1):
            tail = text[-size:]
            if any(s.startswith(tail) for s in self.stops):
                return size
        return 0
