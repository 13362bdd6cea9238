"""A double-array trie in numba, in the unit format of darts-clone that SentencePiece's files hold.

A trie over bytes is one array of 32-bit units. The child of `node` by the byte c is `node ^ offset(node) ^ c`, and is
there if its unit carries the label c. A node that ends a key has its value in the child by 0, a unit with the top bit
set. Bits of a unit: 0-7 label, 8 whether a key ends here, 9 whether the offset is counted in 256s, 10-30 offset.
"""

# mypy: disable-error-code="assignment, call-arg"
# (numba types these functions itself)

from collections.abc import Sequence

import numpy as np
from numba import njit

from llmanac.kernels.text import MIX_A, MIX_B, cached, grown, grown_rows, inner, mix, slots_for

BLOCK = 256
OPEN_BLOCKS = 16  # blocks behind the last that are still searched for room
LEAF, LABEL, ENDS, FAR = 1 << 31, 0x800000FF, 1 << 8, 1 << 9
NEAR = 1 << 21  # offsets below this need no FAR
# What `check` finds wrong.
CYCLE, TOO_DEEP, OUTSIDE = 1, 2, 3


@inner(forceinline=True)
def offset_of(unit):
    return (unit >> 10) << ((unit & FAR) >> 6)


@njit(forceinline=True)
def child(units, node, label):
    """The child of a node by a byte, or -1; never reads outside the array."""
    at = node ^ offset_of(np.int64(units[node])) ^ np.int64(label)
    if at >= units.shape[0] or (np.int64(units[at]) & LABEL) != label:
        return np.int64(-1)
    return np.int64(at)


@njit(forceinline=True)
def value_of(units, node):
    """The value of the key that ends at a node, or -1."""
    unit = np.int64(units[node])
    if unit & ENDS == 0:
        return np.int64(-1)
    at = node ^ offset_of(unit)
    if at >= units.shape[0]:
        return np.int64(-1)
    return np.int64(units[at]) & (LEAF - 1)


@njit
def longest(units, buffer, at, stop):
    """`(length, value)` of the longest key that `buffer[at:stop]` starts with; the length is 0 if there is none."""
    node, length, value = np.int64(0), np.int64(0), np.int64(-1)
    for i in range(at, stop):
        node = child(units, node, np.int64(buffer[i]))
        if node < 0:
            break
        found = value_of(units, node)
        if found >= 0:
            length, value = i + 1 - at, found
    return length, value


@inner
def _fits(base, node, labels, count, taken, used):
    if used[base]:
        return False
    offset = node ^ base
    if offset >= NEAR and offset & 255:
        return False
    for i in range(1, count):  # noqa: SIM110 (numba has no generators)
        if taken[base ^ labels[i]]:
            return False
    return True


@inner
def _tail_hash(letters, offsets, values, low, high, at):
    """Two hashes of the subtree of a node: the rest of each of its keys, and their values."""
    first, second = np.uint64(high - low), np.uint64(0x243F6A8885A308D3)
    for key in range(low, high):
        for i in range(offsets[key] + at, offsets[key + 1]):
            first = (first ^ np.uint64(letters[i])) * MIX_A
            first ^= first >> np.uint64(29)
            second = (second + np.uint64(letters[i]) + np.uint64(1)) * MIX_B
            second ^= second >> np.uint64(31)
        first = (first ^ (np.uint64(values[key]) << np.uint64(8))) * MIX_B
        first ^= first >> np.uint64(31)
        second = (second + (np.uint64(values[key]) << np.uint64(9)) + np.uint64(0x1FF)) * MIX_A
        second ^= second >> np.uint64(29)
    return first, second


@inner
def _shared_slot(shared, first, second):
    mask = np.uint64(shared.shape[0] - 1)
    slot = mix(first) & mask
    while shared[slot, 2] != 0 and (shared[slot, 0] != first or shared[slot, 1] != second):
        slot = (slot + np.uint64(1)) & mask
    return np.int64(slot)


@cached
def build(letters, offsets, values, share):
    """(n,) uint32 units of the trie of `keys + 1` offsets into the keys' bytes, sorted, distinct, without NUL.

    With `share`, nodes below which the same tails lead to the same values have their children in common.
    """
    keys = values.shape[0]
    size = BLOCK
    # the nodes that exist already: two hashes of a node's tails, and 1 + the base of its children
    room = slots_for(letters.shape[0] if share else 0)
    shared, slot = np.zeros((room, 3), np.uint64), np.int64(0)
    units = np.zeros(size, np.uint32)
    taken, used = np.zeros(size, np.uint8), np.zeros(size, np.uint8)  # units that are nodes; bases that have children
    after = np.empty(size, np.int64)  # the next unit that may be free, within the open blocks
    stack, depth = np.empty((64, 4), np.int64), 1
    labels, ends = np.empty(257, np.int64), np.empty(257, np.int64)
    taken[0], used[0] = 1, 1
    for i in range(size):
        after[i] = i + 1
    first = np.int64(1)
    stack[0, 0], stack[0, 1], stack[0, 2], stack[0, 3] = 0, 0, keys, 0
    while depth > 0:
        depth -= 1
        node, low, high, at = stack[depth, 0], stack[depth, 1], stack[depth, 2], stack[depth, 3]
        if share:
            one, other = _tail_hash(letters, offsets, values, low, high, at)
            slot = _shared_slot(shared, one, other)
            if shared[slot, 2] != 0:
                offset = node ^ (np.int64(shared[slot, 2]) - 1)
                if offset < NEAR or offset & 255 == 0:
                    units[node] |= np.uint32(offset << 10) if offset < NEAR else np.uint32((offset << 2) | FAR)
                    if offsets[low] + at == offsets[low + 1]:
                        units[node] |= np.uint32(ENDS)
                    continue
            shared[slot, 0], shared[slot, 1] = one, other
        count = 0
        start = low
        while start < high:
            label = np.int64(0)
            if offsets[start] + at < offsets[start + 1]:
                label = np.int64(letters[offsets[start] + at])
            end = start + 1
            while end < high and label != 0 and np.int64(letters[offsets[end] + at]) == label:
                end += 1
            labels[count], ends[count] = label, end
            count += 1
            start = end
        # Look for a base whose units for all labels are free; full stretches are unlinked on the way.
        free, before, base = first, np.int64(-1), np.int64(-1)
        while base < 0:
            while free < size and taken[free]:
                free = after[free]
                if before >= 0:
                    after[before] = free
                else:
                    first = free
            if free >= size:
                larger = size + BLOCK
                if larger > units.shape[0]:
                    units, taken, used = grown(units, larger), grown(taken, larger), grown(used, larger)
                    after = grown(after, larger)
                for i in range(size, larger):
                    units[i], taken[i], used[i], after[i] = 0, 0, 0, i + 1
                size = larger
                closed = size - OPEN_BLOCKS * BLOCK
                if first < closed:  # what is free in older blocks stays so
                    first, before = closed, np.int64(-1)
                if free < closed:
                    free = closed
                continue
            candidate = free ^ labels[0]
            if _fits(candidate, node, labels, count, taken, used):
                base = candidate
            else:
                before, free = free, after[free]
        used[base] = 1
        if share:
            shared[slot, 2] = np.uint64(base + 1)
        offset = node ^ base
        units[node] |= np.uint32(offset << 10) if offset < NEAR else np.uint32((offset << 2) | FAR)
        begin = low
        if depth + count > stack.shape[0]:
            stack = grown_rows(stack, 2 * (depth + count))
        for i in range(count):
            place = base ^ labels[i]
            taken[place] = 1
            if labels[i] == 0:
                units[node] |= np.uint32(ENDS)
                units[place] = np.uint32(values[begin]) | np.uint32(LEAF)
            else:
                units[place] = np.uint32(labels[i])
                stack[depth, 0], stack[depth, 1], stack[depth, 2], stack[depth, 3] = place, begin, ends[i], at + 1
                depth += 1
            begin = ends[i]
    out = np.empty(size, np.uint32)
    for i in range(size):
        out[i] = units[i]
    return out


@cached
def walkable(units):
    """(n, 2) int32: each unit with the value of the key that ends there (-1: none), for one load a byte."""
    out = np.empty((units.shape[0], 2), np.int32)
    for node in range(units.shape[0]):
        out[node, 0] = np.int32(units[node])
        value = np.int64(-1)
        if units[node] < np.uint32(LEAF):
            value = value_of(units, np.int64(node))
        out[node, 1] = np.int32(value)
    return out


@inner(forceinline=True)
def step(nodes, node, label):
    """The child of a node of a `walkable` trie by a byte, or -1. Only for tries that `build` made."""
    unit = np.int64(nodes[node, 0])
    at = node ^ offset_of(unit) ^ np.int64(label)
    if (np.int64(nodes[at, 0]) & LABEL) != np.int64(label):
        return np.int64(-1)
    return np.int64(at)


@cached
def check(units, deepest, values):
    """Walk a trie from a file: `(what is wrong or 0, values found)`; `values` gets the value of each key's last unit.

    A trie whose keys share their ends is one too, so units may have several parents; a unit that leads back to itself
    is an error, and so is a key of more than `deepest` bytes.
    """
    height = np.full(units.shape[0], -1, np.int64)  # -2: on the path from the root
    path, labels = np.empty(deepest + 2, np.int64), np.empty(deepest + 2, np.int64)
    top, found = 0, 0
    path[0], labels[0], height[0] = 0, 1, -2
    if units.shape[0] == 0:
        return OUTSIDE, 0
    best = np.zeros(deepest + 2, np.int64)
    while top >= 0:
        node = path[top]
        if labels[top] == 1:
            unit = np.int64(units[node])
            if unit & ENDS:
                at = node ^ offset_of(unit)
                if at >= units.shape[0] or np.int64(units[at]) < LEAF:
                    return OUTSIDE, found
                values[found] = np.int64(units[at]) & (LEAF - 1)
                found += 1
        nxt = np.int64(-1)
        while labels[top] < 256 and nxt < 0:
            nxt = child(units, node, labels[top])
            labels[top] += 1
        if nxt < 0:
            height[node] = best[top]
            top -= 1
            if top >= 0:
                best[top] = max(best[top], height[node] + 1)
        elif height[nxt] == -2:
            return CYCLE, found
        elif height[nxt] >= 0:
            best[top] = max(best[top], height[nxt] + 1)
            if top + 1 + height[nxt] > deepest:
                return TOO_DEEP, found
        else:
            if top + 1 > deepest:
                return TOO_DEEP, found
            top += 1
            path[top], labels[top], height[nxt], best[top] = nxt, 1, -2, 0
    return 0, found


def trie_of(keys: Sequence[bytes], values: Sequence[int], *, share: bool = False) -> np.ndarray:
    """The units of the trie of distinct, non-empty keys without NUL bytes, in any order."""
    order = sorted(range(len(keys)), key=keys.__getitem__)
    ordered = [keys[i] for i in order]
    offsets = np.zeros(len(keys) + 1, np.int64)
    np.cumsum([len(key) for key in ordered], out=offsets[1:])
    letters = np.frombuffer(b"".join(ordered) or b"\0", np.uint8)
    return build(letters, offsets, np.array([values[i] for i in order], np.int64), share)
