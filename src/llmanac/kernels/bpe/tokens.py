# mypy: disable-error-code="assignment, call-arg"
# (numba types these functions itself)
"""Tokens by their bytes, for BPE training: the token that two others' bytes are together."""

import numpy as np

from llmanac.kernels.bpe.parts import KEY, NUMBER, ZERO
from llmanac.kernels.text import grown, inner, mix

FNV_START, FNV_PRIME = np.uint64(1469598103934665603), np.uint64(1099511628211)


@inner(forceinline=True)
def byte_of(letters, starts, lengths, left, right, i):
    """Byte i of `left` followed by `right`."""
    beyond = i - lengths[left]
    return letters[starts[left] + i] if beyond < 0 else letters[starts[right] + beyond]


@inner
def token_slot(letters, starts, lengths, index, left, right, total):
    """`(slot, hash)` of the first `total` bytes of two tokens in the index of tokens."""
    value = FNV_START
    for i in range(total):
        value = (value ^ np.uint64(byte_of(letters, starts, lengths, left, right, i))) * FNV_PRIME
    key, mask = np.int64(value >> np.uint64(1)), np.int64(index.shape[0] - 1)
    slot = np.int64(mix(value)) & mask
    while index[slot, NUMBER] != 0:
        token = index[slot, NUMBER] - 1
        if index[slot, KEY] == key and lengths[token] == total:
            same = ZERO
            while same < total:
                if letters[starts[token] + same] != byte_of(letters, starts, lengths, left, right, same):
                    break
                same += 1
            if same == total:
                break
        slot = (slot + 1) & mask
    return slot, key


@inner
def token_of(letters, used, starts, lengths, index, left, right, free):
    """The token of two others' bytes together, made with the id `free` if it is new. Returns `(token, letters)`."""
    total = np.int64(lengths[left] + lengths[right])
    slot, key = token_slot(letters, starts, lengths, index, left, right, total)
    if index[slot, NUMBER] != 0:
        return index[slot, NUMBER] - 1, letters
    if used + total > letters.shape[0]:
        letters = grown(letters, used + total)
    for i in range(total):
        letters[used + i] = byte_of(letters, starts, lengths, left, right, i)
    starts[free], lengths[free] = used, total
    index[slot, KEY], index[slot, NUMBER] = key, free + 1
    return free, letters
