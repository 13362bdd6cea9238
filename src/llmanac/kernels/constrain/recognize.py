"""Earley's parser over bytes whose sets of items are kept, so that it is an automaton that is built on demand.

A grammar is a network: states with moves on bytes, empty moves, and calls (go through a rule, then go on at a state).
An item is `(state, frame, texts)`. A frame `(set, rule)` says where a rule was called: at its end every item of that
set which waits for the rule goes on. A set is known by the items that its last byte led to (its kernel): the same
kernel is the same set, whatever the text, so that sets act as states and moves between them are looked up.

Left recursion gives frames of the set itself, a call at the end of a rule keeps the caller's frame, and both need
bounded memory a byte. `texts` is a list of what `Fresh` terminals matched in the scope so far.
Earley 1970, An efficient context-free parsing algorithm; Leo 1991 for right recursion.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, assignment"
# (numba types these functions itself)
from __future__ import annotations

import numpy as np
from numba import njit

from llmanac.kernels.constrain.items import (  # noqa: F401
    ACCEPTS,
    CALL_AT,
    DEAD,
    DONE,
    EMPTY_AT,
    ENDS,
    FINAL,
    FRESH,
    FULL,
    HERE,
    ITEMS,
    KERNEL_AT,
    KERNELS,
    LATER,
    LONGEST_TOKEN,
    MANY,
    MOVE_AT,
    OVER,
    PLAIN,
    RUN,
    SCAN_AT,
    SCANS,
    SCOPE,
    SET_RUN,
    SET_TABLE,
    SETS,
    STAMP,
    TAIL,
    UNKNOWN,
    VARIED,
    WAIT_AT,
    WAIT_RULES,
    WAITING,
    WAITS,
    WORDS,
    WORK,
    Memory,
    Network,
    add,
    begun,
    frame_for,
    frame_of,
    list_of,
    list_with,
    listed,
    mixed,
    packed,
    sort,
    state_of,
    text_of,
)
from llmanac.kernels.text import cached


@njit
def resume(g, m, count, wait, rule, own, start_list, texts):
    """Add what a waiting item becomes where the rule that it waits for has ended with `texts`."""
    if own != rule:
        return count
    if g.rules[rule, 1] == SCOPE:
        return add(m, count, wait)
    if list_of(wait) != start_list:
        return count
    return add(m, count, packed(state_of(wait), frame_of(wait), texts))


@njit
def after_fresh(g, m, count, frame, texts, text):
    """Add the items that go on after a Fresh terminal which matched `text`, where it is new in its scope; FULL."""
    more = list_with(m, texts, text)
    if more < 0:
        return np.int64(FULL)
    origin, rule = m.frames[frame, 0], m.frames[frame, 1]
    for i in range(m.sets[origin, WAIT_AT], m.sets[origin + 1, WAIT_AT]):
        count = resume(g, m, count, m.items[WAITING, i], rule, m.items[WAIT_RULES, i], texts, more)
        if count < 0:
            return count
    return count


@njit
def close(g, m, new, size):
    """Everything that follows from the kernel of set `new`, the first `size` items of `work`; DEAD, or FULL."""
    counts, work = m.counts, m.scratch[WORK]
    counts[STAMP] += 1
    counts[DONE] = 0
    count = np.int64(0)
    for i in range(size):
        count = add(m, count, m.items[KERNELS, m.sets[new, KERNEL_AT] + i])
    scans, waits, run = counts[ITEMS], counts[WAITS], 0
    m.sets[new, SCAN_AT], m.sets[new, WAIT_AT], m.sets[new, ACCEPTS] = scans, waits, False
    i = 0
    while i < count:
        item = work[i]
        i += 1
        state, frame, texts = state_of(item), frame_of(item), list_of(item)
        if g.states[state, MOVE_AT] < g.states[state + 1, MOVE_AT]:
            if scans >= m.items.shape[1]:
                return np.int64(FULL)
            m.items[SCANS, scans] = item
            scans += 1
            run = max(run, g.states[state, RUN])
        for j in range(g.states[state, EMPTY_AT], g.states[state + 1, EMPTY_AT]):
            count = add(m, count, packed(g.empties[j], frame, texts))
            if count < 0:
                return count
        for j in range(g.states[state, CALL_AT], g.states[state + 1, CALL_AT]):
            rule, to = g.calls[j, 0], g.calls[j, 1]
            kind = g.rules[rule, 1]
            if kind == PLAIN and g.states[to, TAIL]:
                count = add(m, count, packed(g.rules[rule, 0], frame, texts))
                if count < 0:
                    return count
                continue
            if waits >= m.items.shape[1]:
                return np.int64(FULL)
            first = np.int64(0) if kind == SCOPE else texts
            wait = packed(to, frame, texts)
            m.items[WAITING, waits], m.items[WAIT_RULES, waits] = wait, rule
            waits += 1
            called = frame_for(m, new, rule, first, HERE if kind == FRESH else 0)
            if called < 0:
                return called
            count = add(m, count, packed(g.rules[rule, 0], called, first))
            for d in range(counts[DONE]):  # rules of this set that matched the empty text already
                if count < 0:
                    return count
                over = m.scratch[OVER, d]
                row = m.frames[frame_of(over)]
                count = resume(g, m, count, wait, row[1], rule, row[2], list_of(over))
            if count < 0:
                return count
        if not g.states[state, FINAL]:
            continue
        if frame == 0:
            m.sets[new, ACCEPTS] = True
            continue
        row = m.frames[frame]
        origin, rule, first, start = row[0], row[1], row[2], row[3]
        if g.rules[rule, 1] == FRESH:
            if origin != new or start != HERE:
                continue  # `step` has gone on from here
            text = text_of(m, m.letters, 0, 0, True)
            if text < 0:
                return text
            if listed(m, texts, text):
                continue
            texts = list_with(m, texts, text)
            if texts < 0:
                return texts
        if origin == new:
            if counts[DONE] >= m.scratch.shape[1]:
                return np.int64(FULL)
            m.scratch[OVER, counts[DONE]] = packed(0, frame, texts)
            counts[DONE] += 1
            here, there = m.sets[new, WAIT_AT], waits
        else:
            here, there = m.sets[origin, WAIT_AT], m.sets[origin + 1, WAIT_AT]
        for j in range(here, there):
            count = resume(g, m, count, m.items[WAITING, j], rule, m.items[WAIT_RULES, j], first, texts)
            if count < 0:
                return count
    counts[ITEMS], counts[WAITS] = scans, waits
    m.sets[new + 1, SCAN_AT], m.sets[new + 1, WAIT_AT], m.sets[new, SET_RUN] = scans, waits, run
    return np.int64(0)


@njit
def set_of(g, m, count):
    """The set whose kernel is `work[:count]`, made where it is new; FULL."""
    kernel = m.scratch[WORK, :count]
    sort(kernel)
    key = np.uint64(count)
    for i in range(count):
        key = mixed(key ^ np.uint64(kernel[i]))
    table = m.tables[SET_TABLE]
    slot = np.int64(key >> 20) % table.shape[0]
    while table[slot]:
        found = table[slot] - 1
        at = m.sets[found, KERNEL_AT]
        same = m.sets[found + 1, KERNEL_AT] - at == count
        i = 0
        while same and i < count:
            same = m.items[KERNELS, at + i] == kernel[i]
            i += 1
        if same:
            return np.int64(found)
        slot = (slot + 1) % table.shape[0]
    new = m.counts[SETS]
    if new >= m.moves.shape[0] or m.sets[new, KERNEL_AT] + count > m.items.shape[1]:
        return np.int64(FULL)
    m.items[KERNELS, m.sets[new, KERNEL_AT] : m.sets[new, KERNEL_AT] + count] = kernel
    m.sets[new + 1, KERNEL_AT] = m.sets[new, KERNEL_AT] + count
    m.moves[new] = UNKNOWN
    if close(g, m, new, count) < 0:
        return np.int64(FULL)
    m.counts[SETS] = new + 1
    table[slot] = new + 1
    return new


@njit
def step(g, m, origin, letter, buffer, at, real):
    """The set after a byte of class `letter`, DEAD or FULL.

    `buffer[:at + 1]` is the text with that byte, which Fresh terminals look at; `real` False: the text is only
    considered, and what it adds to the texts of a scope is not to be kept.
    """
    known = m.moves[origin, letter]
    if known >= DEAD:
        return np.int64(known)
    m.counts[STAMP] += 1
    count, varies = np.int64(0), False
    for i in range(m.sets[origin, SCAN_AT], m.sets[origin + 1, SCAN_AT]):
        item = m.items[SCANS, i]
        state, frame, texts = state_of(item), frame_of(item), list_of(item)
        fresh = frame != 0 and g.rules[m.frames[frame, 1], 1] == FRESH
        for j in range(g.states[state, MOVE_AT], g.states[state + 1, MOVE_AT]):
            if g.moves[j, 0] > letter:
                break
            if g.moves[j, 1] < letter:
                continue
            to, own = g.moves[j, 2], frame
            if fresh:
                if m.frames[frame, 3] == HERE:
                    varies = True
                    own = frame_for(m, m.frames[frame, 0], m.frames[frame, 1], m.frames[frame, 2], at)
                    if own < 0:
                        return own
                if g.states[to, ENDS]:
                    varies = True
                    text = text_of(m, buffer, m.frames[own, 3], at + 1, real)
                    if text < 0:
                        return text
                    if not listed(m, texts, text):
                        count = after_fresh(g, m, count, own, texts, text if real else LATER)
                        if count < 0:
                            return count
                if g.states[to, TAIL]:
                    continue
                if texts and g.states[to, WORDS] < MANY:
                    varies = True
                    if g.states[to, WORDS] <= begun(g, m, texts, to, buffer, m.frames[own, 3], at + 1):
                        continue
            count = add(m, count, packed(to, own, texts))
            if count < 0:
                return count
    found = set_of(g, m, count) if count else np.int64(DEAD)
    if varies:
        m.counts[VARIED] += 1
    elif found != FULL:
        m.moves[origin, letter] = found
    return found


def _follow(g, m, state, buffer, start, stop):
    """The set after `buffer[start:stop]`, DEAD or FULL; `state` DEAD: from the start of the text."""
    if state < 0:
        m.scratch[WORK, 0] = packed(g.rules[0, 0], 0, 0)
        state = set_of(g, m, 1)
    for at in range(start, stop):
        if state < 0:
            break
        state = step(g, m, state, g.classes[buffer[at]], buffer, at, True)
    return np.int64(state)


follow = cached(_follow, nogil=True)


def _walk(g, m, trie, state, mask, buffer, at):
    """Set the bits of the tokens of a trie that may follow; the number of nodes seen, or FULL.

    `buffer[:at]` is the text so far; it has room for a token behind it.
    """
    letters, depths, skips, tokens, same = trie
    states = np.empty(LONGEST_TOKEN + 1, np.int64)
    states[0] = state
    i, seen = 0, 0
    while i < letters.shape[0]:
        seen += 1
        depth, letter = depths[i], letters[i]
        kind = g.classes[letter]
        to = np.int64(m.moves[states[depth], kind])
        if to < DEAD:
            buffer[at + depth] = letter
            to = step(g, m, states[depth], kind, buffer, at + depth, False)
            if to == FULL:
                return np.int64(FULL)
        if to < 0:
            i = skips[i]
            continue
        buffer[at + depth] = letter
        states[depth + 1] = to
        token = tokens[i]
        while token >= 0:
            mask[token >> 5] |= np.uint32(1) << np.uint32(token & 31)
            token = same[token]
        i += 1
    return np.int64(seen)


walk = cached(_walk, nogil=True)


def _forced(g, m, state, letters, buffer, at, most):
    """Write the bytes that must follow to `buffer[at:]`, up to `most`; their number, or FULL.

    `letters` (classes,) is the byte of each class that has only one, else -1.
    """
    count = 0
    while count < most and not m.sets[state, ACCEPTS]:
        found, after = np.int64(-1), np.int64(-1)
        for kind in range(letters.shape[0]):
            to = np.int64(m.moves[state, kind])
            if to < DEAD:
                buffer[at + count] = max(0, letters[kind])
                to = step(g, m, state, kind, buffer, at + count, False)
            if to == FULL:
                return np.int64(FULL)
            if to >= 0:
                if found >= 0 or letters[kind] < 0:
                    return np.int64(count)
                found, after = kind, to
        if found < 0:
            break
        buffer[at + count] = letters[found]
        state = after
        count += 1
    return np.int64(count)


forced = cached(_forced, nogil=True)


def _explore(g, m):
    """Make all sets that can be reached, as a deterministic automaton; their number, or FULL."""
    m.scratch[WORK, 0] = packed(g.rules[0, 0], 0, 0)
    state, buffer = set_of(g, m, 1), np.zeros(1, np.uint8)
    while 0 <= state < m.counts[SETS]:
        for letter in range(m.moves.shape[1]):
            if step(g, m, state, letter, buffer, 0, True) == FULL:
                return np.int64(FULL)
        state += 1
    return np.int64(state)


explore = cached(_explore, nogil=True)
