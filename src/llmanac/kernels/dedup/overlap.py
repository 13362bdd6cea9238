"""Looking up the n-grams of a text in a table of known ones, several lengths in one pass, in numba.

An n-gram's hash is the polynomial of its units' hashes (as in `kernels/dedup/minhash.py`), which rolls, mixed with its
length. The hash alone decides nothing: whoever calls compares the words of each hit.
"""

# mypy: disable-error-code="assignment, call-arg"
# (numba types these functions itself)

import numpy as np

from llmanac.kernels.text import cached, grown_rows, inner, mix, slots_for

MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
LENGTHS = np.uint64(0xD6E8FEB86659FD93)


@inner(forceinline=True)
def _named(total, width):
    return mix(total ^ (np.uint64(width) * LENGTHS))


@cached
def gram_hashes(units, width):
    """(len(units) - width + 1,) uint64: the hash of every n-gram of `width` units."""
    count = max(0, units.shape[0] - width + 1)
    out, power, total = np.empty(count, np.uint64), np.uint64(1), np.uint64(0)
    for _ in range(width):
        power *= MULTIPLIER
    for i in range(units.shape[0]):
        total = total * MULTIPLIER + units[i]
        if i >= width:
            total -= units[i - width] * power
        if i + 1 >= width:
            out[i + 1 - width] = _named(total, width)
    return out


@cached
def make_table(keys):
    """A hash table of distinct keys: `(slots (2^k,) int32, filter (2^k / 4,) uint64)`.

    A slot holds a key's index, or -1, and at most half of them are used. The filter has sixteen bits a slot; a key
    whose bit is not set is not in the table, which is answered from the cache nearly always.
    """
    size = slots_for(keys.shape[0])
    slots = np.full(size, -1, np.int32)
    mask = np.uint64(size - 1)
    bits = np.zeros(size // 4, np.uint64)
    for i in range(keys.shape[0]):
        bit = (keys[i] >> np.uint64(32)) & np.uint64(size * 16 - 1)
        bits[bit >> np.uint64(6)] |= np.uint64(1) << (bit & np.uint64(63))
        slot = keys[i] & mask
        while slots[slot] >= 0:
            slot = (slot + np.uint64(1)) & mask
        slots[slot] = i
    return slots, bits


@cached
def find_grams(units, fresh, widths, slots, bits, keys):
    """Every known n-gram that ends at unit `fresh` or later.

    Args:
        units: (n,) uint64 hashes of a text's units; those before `fresh` were looked up before.
        widths: (lengths,) int64, the lengths that occur in the table.

    Returns:
        (hits, 3) int64: where it starts (a unit), its length, which key.
    """
    mask, bit_mask = np.uint64(slots.shape[0] - 1), np.uint64(slots.shape[0] * 16 - 1)
    powers, totals = np.ones(widths.shape[0], np.uint64), np.zeros(widths.shape[0], np.uint64)
    for w in range(widths.shape[0]):
        for _ in range(widths[w]):
            powers[w] *= MULTIPLIER
    out, count = np.empty((16, 3), np.int64), 0
    for i in range(units.shape[0]):
        for w in range(widths.shape[0]):
            width = widths[w]
            total = totals[w] * MULTIPLIER + units[i]
            if i >= width:
                total -= units[i - width] * powers[w]
            totals[w] = total
            if i < fresh or i + 1 < width:
                continue
            key = _named(total, width)
            bit = (key >> np.uint64(32)) & bit_mask
            if (bits[bit >> np.uint64(6)] >> (bit & np.uint64(63))) & np.uint64(1) == 0:
                continue
            slot = key & mask
            while slots[slot] >= 0:
                if keys[slots[slot]] == key:
                    if count == out.shape[0]:
                        out = grown_rows(out, 2 * count)
                    out[count, 0], out[count, 1], out[count, 2] = i + 1 - width, width, slots[slot]
                    count += 1
                    break
                slot = (slot + np.uint64(1)) & mask
    return out[:count]
