"""The words that a tokenizer remembers; each thread that encodes at a time has its own."""

import numpy as np

CACHE_WORDS, CACHE_PLACES = 1 << 18, 1 << 20  # rows of the word cache (8 MB) and 4-byte places in its arena (4 MB)


class WordCache:
    """What an encoding kernel (`kernels/bpe/known.py`) keeps between calls, and its output before it is copied.

    The output is kept because new memory costs more than the kernel: the system clears it.
    """

    def __init__(self) -> None:
        self.rows = np.zeros((CACHE_WORDS, 4), np.uint64)
        self.arena, self.counters = np.empty(CACHE_PLACES, np.int32), np.zeros(4, np.int64)
        self._ids = np.empty(0, np.int32)

    def forget(self) -> None:
        """Empty it."""
        self.rows[:], self.counters[:] = 0, 0

    def room(self, ids: int) -> np.ndarray:
        """(at least `ids`,) int32 to write to, until the next call."""
        if len(self._ids) < ids:
            self._ids = np.empty(ids, np.int32)
        return self._ids
