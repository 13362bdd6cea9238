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

import numpy as np

from llmanac.kernels.constrain import items
from llmanac.kernels.text import cached, inner


@inner
def resume(g, m, count, wait, rule, own, start_list, texts):
    """Add what a waiting item becomes where the rule that it waits for has ended with `texts`."""
    if own != rule:
        return count
    if g.rules[rule, 1] == items.SCOPE:
        return items.add(m, count, wait)
    if items.list_of(wait) != start_list:
        return count
    return items.add(m, count, items.packed(items.state_of(wait), items.frame_of(wait), texts))


@inner
def after_fresh(g, m, count, frame, texts, text):
    """Add the items that go on after a Fresh terminal which matched `text`, where it is new in its scope; FULL."""
    more = items.list_with(m, texts, text)
    if more < 0:
        return np.int64(items.FULL)
    origin, rule = m.frames[frame, 0], m.frames[frame, 1]
    for i in range(m.sets[origin, items.WAIT_AT], m.sets[origin + 1, items.WAIT_AT]):
        count = resume(g, m, count, m.items[items.WAITING, i], rule, m.items[items.WAIT_RULES, i], texts, more)
        if count < 0:
            return count
    return count


@inner
def close(g, m, new, size):
    """Everything that follows from the kernel of set `new`, the first `size` items of `work`; DEAD, or FULL."""
    counts, work = m.counts, m.scratch[items.WORK]
    counts[items.STAMP] += 1
    counts[items.DONE] = 0
    count = np.int64(0)
    for i in range(size):
        count = items.add(m, count, m.items[items.KERNELS, m.sets[new, items.KERNEL_AT] + i])
    scans, waits, run = counts[items.ITEMS], counts[items.WAITS], 0
    m.sets[new, items.SCAN_AT], m.sets[new, items.WAIT_AT], m.sets[new, items.ACCEPTS] = scans, waits, False
    i = 0
    while i < count:
        item = work[i]
        i += 1
        state, frame, texts = items.state_of(item), items.frame_of(item), items.list_of(item)
        if g.states[state, items.MOVE_AT] < g.states[state + 1, items.MOVE_AT]:
            if scans >= m.items.shape[1]:
                return np.int64(items.FULL)
            m.items[items.SCANS, scans] = item
            scans += 1
            run = max(run, g.states[state, items.RUN])
        for j in range(g.states[state, items.EMPTY_AT], g.states[state + 1, items.EMPTY_AT]):
            count = items.add(m, count, items.packed(g.empties[j], frame, texts))
            if count < 0:
                return count
        for j in range(g.states[state, items.CALL_AT], g.states[state + 1, items.CALL_AT]):
            rule, to = g.calls[j, 0], g.calls[j, 1]
            kind = g.rules[rule, 1]
            if kind == items.PLAIN and g.states[to, items.TAIL]:
                count = items.add(m, count, items.packed(g.rules[rule, 0], frame, texts))
                if count < 0:
                    return count
                continue
            if waits >= m.items.shape[1]:
                return np.int64(items.FULL)
            first = np.int64(0) if kind == items.SCOPE else texts
            wait = items.packed(to, frame, texts)
            m.items[items.WAITING, waits], m.items[items.WAIT_RULES, waits] = wait, rule
            waits += 1
            called = items.frame_for(m, new, rule, first, items.HERE if kind == items.FRESH else 0)
            if called < 0:
                return called
            count = items.add(m, count, items.packed(g.rules[rule, 0], called, first))
            for d in range(counts[items.DONE]):  # rules of this set that matched the empty text already
                if count < 0:
                    return count
                over = m.scratch[items.OVER, d]
                row = m.frames[items.frame_of(over)]
                count = resume(g, m, count, wait, row[1], rule, row[2], items.list_of(over))
            if count < 0:
                return count
        if not g.states[state, items.FINAL]:
            continue
        if frame == 0:
            m.sets[new, items.ACCEPTS] = True
            continue
        row = m.frames[frame]
        origin, rule, first, start = row[0], row[1], row[2], row[3]
        if g.rules[rule, 1] == items.FRESH:
            if origin != new or start != items.HERE:
                continue  # `step` has gone on from here
            text = items.text_of(m, m.letters, 0, 0, True)
            if text < 0:
                return text
            if items.listed(m, texts, text):
                continue
            texts = items.list_with(m, texts, text)
            if texts < 0:
                return texts
        if origin == new:
            if counts[items.DONE] >= m.scratch.shape[1]:
                return np.int64(items.FULL)
            m.scratch[items.OVER, counts[items.DONE]] = items.packed(0, frame, texts)
            counts[items.DONE] += 1
            here, there = m.sets[new, items.WAIT_AT], waits
        else:
            here, there = m.sets[origin, items.WAIT_AT], m.sets[origin + 1, items.WAIT_AT]
        for j in range(here, there):
            count = resume(g, m, count, m.items[items.WAITING, j], rule, m.items[items.WAIT_RULES, j], first, texts)
            if count < 0:
                return count
    counts[items.ITEMS], counts[items.WAITS] = scans, waits
    m.sets[new + 1, items.SCAN_AT], m.sets[new + 1, items.WAIT_AT], m.sets[new, items.SET_RUN] = scans, waits, run
    return np.int64(0)


@inner
def set_of(g, m, count):
    """The set whose kernel is `work[:count]`, made where it is new; FULL."""
    kernel = m.scratch[items.WORK, :count]
    items.sort(kernel)
    key = np.uint64(count)
    for i in range(count):
        key = items.mixed(key ^ np.uint64(kernel[i]))
    table = m.tables[items.SET_TABLE]
    slot = np.int64(key >> 20) % table.shape[0]
    while table[slot]:
        found = table[slot] - 1
        at = m.sets[found, items.KERNEL_AT]
        same = m.sets[found + 1, items.KERNEL_AT] - at == count
        i = 0
        while same and i < count:
            same = m.items[items.KERNELS, at + i] == kernel[i]
            i += 1
        if same:
            return np.int64(found)
        slot = (slot + 1) % table.shape[0]
    new = m.counts[items.SETS]
    if new >= m.moves.shape[0] or m.sets[new, items.KERNEL_AT] + count > m.items.shape[1]:
        return np.int64(items.FULL)
    for i in range(count):
        m.items[items.KERNELS, m.sets[new, items.KERNEL_AT] + i] = kernel[i]
    m.sets[new + 1, items.KERNEL_AT] = m.sets[new, items.KERNEL_AT] + count
    m.moves[new] = items.UNKNOWN
    if close(g, m, new, count) < 0:
        return np.int64(items.FULL)
    m.counts[items.SETS] = new + 1
    table[slot] = new + 1
    return new


@inner
def step(g, m, origin, letter, buffer, at, real):
    """The set after a byte of class `letter`, DEAD or FULL.

    `buffer[:at + 1]` is the text with that byte, which Fresh terminals look at; `real` False: the text is only
    considered, and what it adds to the texts of a scope is not to be kept. Classes that no move tells apart from this
    one lead to the same set, so it is kept for all of them.
    """
    known = m.moves[origin, letter]
    if known >= items.DEAD:
        return np.int64(known)
    m.counts[items.STAMP] += 1
    count, varies = np.int64(0), False
    low, high = np.int64(0), np.int64(m.moves.shape[1] - 1)
    for i in range(m.sets[origin, items.SCAN_AT], m.sets[origin + 1, items.SCAN_AT]):
        item = m.items[items.SCANS, i]
        state, frame, texts = items.state_of(item), items.frame_of(item), items.list_of(item)
        fresh = frame != 0 and g.rules[m.frames[frame, 1], 1] == items.FRESH
        for j in range(g.states[state, items.MOVE_AT], g.states[state + 1, items.MOVE_AT]):
            if g.moves[j, 0] > letter:
                high = min(high, g.moves[j, 0] - 1)
                break
            if g.moves[j, 1] < letter:
                low = max(low, g.moves[j, 1] + 1)
                continue
            low, high = max(low, g.moves[j, 0]), min(high, g.moves[j, 1])
            to, own = g.moves[j, 2], frame
            if fresh:
                if m.frames[frame, 3] == items.HERE:
                    varies = True
                    own = items.frame_for(m, m.frames[frame, 0], m.frames[frame, 1], m.frames[frame, 2], at)
                    if own < 0:
                        return own
                if g.states[to, items.ENDS]:
                    varies = True
                    text = items.text_of(m, buffer, m.frames[own, 3], at + 1, real)
                    if text < 0:
                        return text
                    if not items.listed(m, texts, text):
                        count = after_fresh(g, m, count, own, texts, text if real else items.LATER)
                        if count < 0:
                            return count
                if g.states[to, items.TAIL]:
                    continue
                if texts and g.states[to, items.WORDS] < items.MANY:
                    varies = True
                    if g.states[to, items.WORDS] <= items.begun(g, m, texts, to, buffer, m.frames[own, 3], at + 1):
                        continue
            count = items.add(m, count, items.packed(to, own, texts))
            if count < 0:
                return count
    found = set_of(g, m, count) if count else np.int64(items.DEAD)
    if varies:
        m.counts[items.VARIED] += 1
    elif found != items.FULL:
        for kind in range(low, high + 1):
            m.moves[origin, kind] = found
    return found


def _follow(g, m, state, buffer, start, stop):
    """The set after `buffer[start:stop]`, DEAD or FULL; `state` DEAD: from the start of the text."""
    if state < 0:
        m.scratch[items.WORK, 0] = items.packed(g.rules[0, 0], 0, 0)
        state = set_of(g, m, 1)
    for at in range(start, stop):
        if state < 0:
            break
        state = step(g, m, state, g.classes[buffer[at]], buffer, at, True)
    return np.int64(state)


follow = cached(_follow, nogil=True)


def _walk(g, m, nodes, same, state, mask, buffer, at):
    """Set the bits of the tokens of a trie that may follow; FULL where memory is used up, else 0.

    `buffer[:at]` is the text so far; it has room for a token behind it.
    """
    stack, depth = np.empty((items.LONGEST_TOKEN + 1, 3), np.int64), 0  # the state at a node, and what is left of it
    stack[0, 0], stack[0, 1], stack[0, 2] = state, nodes[0, 2], nodes[0, 3]
    while depth >= 0:
        origin, i, end = stack[depth, 0], stack[depth, 1], stack[depth, 2]
        to = np.int64(items.DEAD)
        while i < end and to < 0:
            letter = np.uint8(nodes[i, 0])
            kind = g.classes[letter]
            to = np.int64(m.moves[origin, kind])
            if to < items.DEAD:
                buffer[at + depth] = letter
                to = step(g, m, origin, kind, buffer, at + depth, False)
                if to == items.FULL:
                    return np.int64(items.FULL)
            i += 1
        if to < 0:
            depth -= 1
            continue
        stack[depth, 1] = i
        i -= 1
        token = nodes[i, 1]
        while token >= 0:
            mask[token >> 5] |= np.uint32(1) << np.uint32(token & 31)
            token = same[token]
        if nodes[i, 2] < nodes[i, 3]:
            buffer[at + depth] = np.uint8(nodes[i, 0])
            depth += 1
            stack[depth, 0], stack[depth, 1], stack[depth, 2] = to, nodes[i, 2], nodes[i, 3]
    return np.int64(0)


walk = cached(_walk, nogil=True)


def _forced(g, m, state, letters, buffer, at, most):
    """Write the bytes that must follow to `buffer[at:]`, up to `most`; their number, or FULL.

    `letters` (classes,) is the byte of each class that has only one, else -1.
    """
    count = 0
    while count < most and not m.sets[state, items.ACCEPTS]:
        found, after = np.int64(-1), np.int64(-1)
        for kind in range(letters.shape[0]):
            to = np.int64(m.moves[state, kind])
            if to < items.DEAD:
                buffer[at + count] = max(0, letters[kind])
                to = step(g, m, state, kind, buffer, at + count, False)
            if to == items.FULL:
                return np.int64(items.FULL)
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
    m.scratch[items.WORK, 0] = items.packed(g.rules[0, 0], 0, 0)
    state, buffer = set_of(g, m, 1), np.zeros(1, np.uint8)
    while 0 <= state < m.counts[items.SETS]:
        for letter in range(m.moves.shape[1]):
            if step(g, m, state, letter, buffer, 0, True) == items.FULL:
                return np.int64(items.FULL)
        state += 1
    return np.int64(state)


explore = cached(_explore, nogil=True)
