"""Filling a Python list with integers that exist already, in numba; `tokenizers/_lists.py` says when."""

# mypy: disable-error-code="assignment, call-arg"
# (numba types these functions itself)
from __future__ import annotations

import numpy as np

from llmanac.kernels.text import ONE, THREE, cached, load_word, store_word

COUNTED = np.uint64(31)  # the bit that is set in the count of an object that is never freed, and whose count stays


@cached
def fill(items, numbers, ids):
    """Write the addresses of the objects `numbers[ids[i]]` to the places of a list whose array's address is at `items`.

    The lock of the interpreter is held meanwhile.
    """
    to = load_word(items)
    for i in range(ids.shape[0]):
        one = load_word(numbers + (np.uint64(ids[i]) << THREE))
        count = load_word(one)
        store_word(one, count + (ONE - (count >> COUNTED & ONE)))
        store_word(to + (np.uint64(i) << THREE), one)
