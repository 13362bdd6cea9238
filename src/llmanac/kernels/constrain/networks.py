"""What is computed once for a grammar's network and for a vocabulary: dead states, plain characters, the trie."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# (numba types these functions itself)

import numpy as np

from llmanac.kernels.constrain.items import CALL_AT, EMPTY_AT, FINAL, MANY, MOVE_AT
from llmanac.kernels.text import cached

LONGEST_RUN = 32  # plain characters; more are not counted


def _live(final, source, first, second, order, at):
    """(states,) bool: whether the end of its rule can be reached: from `source[i]` where both `first[i]` and
    `second[i]` are live.

    `order[at[s]:at[s + 1]]` are the places of 2E numbers at which s is: those below E of `first`, the others of
    `second`.
    """
    live, todo, count, steps = final.copy(), np.flatnonzero(final), np.int64(0), source.shape[0]
    waiting = np.empty(final.shape[0], np.int64)
    for state in todo:
        waiting[count] = state
        count += 1
    while count:
        count -= 1
        state = waiting[count]
        for i in range(at[state], at[state + 1]):
            step = order[i] % steps
            if live[first[step]] and live[second[step]] and not live[source[step]]:
                live[source[step]] = True
                waiting[count] = source[step]
                count += 1
    return live


live = cached(_live, nogil=True)


def _ends(g):
    """Whether empty moves lead to the end of a rule, and whether nothing else follows; (states,) bool each."""
    states = g.states.shape[0] - 1
    ends, tail = g.states[:-1, FINAL] != 0, np.ones(states, np.bool_)
    for state in range(states):
        tail[state] = (
            g.states[state, MOVE_AT] == g.states[state + 1, MOVE_AT]
            and g.states[state, CALL_AT] == g.states[state + 1, CALL_AT]
        )
    changed = True
    while changed:
        changed = False
        for state in range(states - 1, -1, -1):
            for i in range(g.states[state, EMPTY_AT], g.states[state + 1, EMPTY_AT]):
                to = g.empties[i]
                if ends[to] and not ends[state]:
                    ends[state] = changed = True
                if tail[state] and not tail[to]:
                    tail[state], changed = False, True
    return ends, tail & ends


ends = cached(_ends, nogil=True)


def _runs(g, known, first, target):
    """(states,) int32: plain characters that may follow a state: `known`, or over plain moves to other states.

    The plain moves of state i lead to `target[first[i]:first[i + 1]]`.
    """
    states = known.shape[0]
    run, changed = known.copy(), True
    while changed:
        changed = False
        for state in range(states - 1, -1, -1):
            best = run[state]
            for i in range(first[state], first[state + 1]):
                best = max(best, min(LONGEST_RUN, run[target[i]] + 1))
            for i in range(g.states[state, EMPTY_AT], g.states[state + 1, EMPTY_AT]):
                best = max(best, run[g.empties[i]])
            if best > run[state]:
                run[state], changed = best, True
    return run


runs = cached(_runs, nogil=True)


def _automaton_runs(moves, plain_moves, byte_class):
    """(states,) int32: how many plain characters may follow in a deterministic automaton `moves` (states, classes).

    `plain_moves` (P, 256): the automaton of a plain character's bytes; it starts in 0 and ends in 0.
    """
    states, parts = moves.shape[0], plain_moves.shape[0]
    run, held = np.zeros(states, np.int32), np.ones((states, parts), np.bool_)
    for length in range(1, LONGEST_RUN + 1):
        now, before = held.copy(), held[:, 0].copy()
        for turn in range(1, parts + 1):
            part = turn % parts  # a character's later bytes first, see `plain_automaton`
            for state in range(states):
                fits = True
                for letter in range(256):
                    to = plain_moves[part, letter]
                    if to < 0:
                        continue
                    reached = moves[state, byte_class[letter]]
                    if reached < 0 or not (before[reached] if to == 0 else now[reached, to]):
                        fits = False
                        break
                now[state, part] = fits
        for state in range(states):
            if now[state, 0]:
                run[state] = length
        if (now[:, 0] == before).all():
            for state in range(states):
                if now[state, 0]:
                    run[state] = LONGEST_RUN
            break
        held = now
    return run


automaton_runs = cached(_automaton_runs, nogil=True)


def _alive(moves, final):
    """(states,) bool: whether a final state can be reached in a deterministic automaton."""
    states, alive, changed = moves.shape[0], final.copy(), True
    while changed:
        changed = False
        for state in range(states - 1, -1, -1):
            if alive[state]:
                continue
            for letter in range(moves.shape[1]):
                to = moves[state, letter]
                if to >= 0 and alive[to]:
                    alive[state] = changed = True
                    break
    return alive


alive = cached(_alive, nogil=True)


def _words(moves, final, sizes):
    """(states,) int32: how many texts a deterministic automaton matches from each state, MANY for more.

    `sizes` (classes,): bytes of each class.
    """
    states = moves.shape[0]
    reaches, words = alive(moves, final), np.full(states, -1, np.int64)
    changed = True
    while changed:  # a state is counted once all that follow are; those on circles never are
        changed = False
        for state in range(states - 1, -1, -1):
            if words[state] >= 0:
                continue
            total, known = np.int64(final[state]), True
            for letter in range(moves.shape[1]):
                to = moves[state, letter]
                if to >= 0 and reaches[to]:
                    known &= words[to] >= 0
                    total += sizes[letter] * words[to]
            if known:
                words[state], changed = min(total, MANY), True
    for state in range(states):
        if words[state] < 0:
            words[state] = MANY
    return words


words = cached(_words, nogil=True)


def _trie(data, offsets, ids, same):
    """Sorted strings as a trie: (nodes, 4) int32, whose rows are byte, token that ends there or -1, and its children.

    Node 0 is the root; children stand side by side, `nodes[first:end]`, since most of them are looked at in vain.
    String i is `data[offsets[i]:offsets[i + 1]]` and belongs to token `ids[i]`; further tokens of the same bytes are
    chained in `same`.
    """
    most = data.shape[0] + 1
    letters, skips = (
        np.empty(most, np.uint8),
        np.empty(most, np.int32),
    )  # of nodes in preorder; its subtree's end
    tokens, path = np.empty(most, np.int32), np.empty(most, np.int32)
    letters[0], tokens[0], count, depth = 0, -1, 1, 0
    for i in range(ids.shape[0]):
        start, stop = offsets[i], offsets[i + 1]
        shared = 0
        while shared < depth and shared < stop - start and letters[path[shared]] == data[start + shared]:
            shared += 1
        while depth > shared:
            depth -= 1
            skips[path[depth]] = count
        for j in range(start + shared, stop):
            path[depth] = count
            letters[count], tokens[count] = data[j], -1
            depth += 1
            count += 1
        end = path[depth - 1]
        same[ids[i]] = tokens[end]
        tokens[end] = ids[i]
    while depth > 0:
        depth -= 1
        skips[path[depth]] = count
    skips[0] = count
    nodes, order, placed = np.empty((count, 4), np.int32), path, 1
    order[0] = 0
    for k in range(count):
        node = order[k]
        nodes[k, 0], nodes[k, 1], nodes[k, 2] = letters[node], tokens[node], placed
        child = node + 1
        while child < skips[node]:
            order[placed] = child
            placed += 1
            child = skips[child]
        nodes[k, 3] = placed
    return nodes


trie = cached(_trie, nogil=True)
