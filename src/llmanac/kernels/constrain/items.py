"""What a recognizer is made of: networks, memory, and items, frames and texts that are kept once.

An item is `(state, frame, texts)` in one number. A frame is `(set, rule, texts, start)`, a list of texts is `(the list
before, text)`. `recognize.py` says what they are for.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, assignment"
# (numba types these functions itself)

from typing import NamedTuple

import numpy as np

from llmanac.kernels.text import inner

DEAD, UNKNOWN, FULL = -1, -2, -4  # no text goes on; a move that is not computed yet; memory is used up
PLAIN, SCOPE, FRESH = 0, 1, 2  # kinds of rules
SETS, ITEMS, WAITS, FRAMES, TEXTS, LETTERS, LISTS, STAMP, DONE, VARIED = range(10)  # what is counted
LONGEST_TOKEN = 1024  # bytes; longer ones are never allowed
MANY = 1 << 24  # texts
HERE = -1  # a Fresh terminal that begins with the next byte
LATER = 0  # the text of a Fresh terminal that ends in a token which is only considered
FRAME_BITS, LIST_BITS = 21, 20
FRAME_MASK, LIST_MASK = (1 << FRAME_BITS) - 1, (1 << LIST_BITS) - 1
# columns of `Network.states`, rows of `Network.moves`, of `Memory.sets` and so on
MOVE_AT, EMPTY_AT, CALL_AT, FINAL, ENDS, TAIL, RUN, WORDS = range(8)
KERNEL_AT, SCAN_AT, WAIT_AT, ACCEPTS, SET_RUN = range(5)
KERNELS, SCANS, WAITING, WAIT_RULES = range(4)
SET_TABLE, FRAME_TABLE, LIST_TABLE, TEXT_TABLE = range(4)
WORK, MARKS, STAMPS, OVER = range(4)


class Network(NamedTuple):
    """A grammar, in few arrays, because passing one costs time.

    states (states + 1, 8) int32: where its moves, empty moves and calls begin; whether it ends a rule, whether empty
        moves lead to an end, whether nothing else follows; how many plain characters may follow, whatever they are; in
        the automata of Fresh terminals, how many texts may follow, MANY where they are not counted.
    moves (moves, 3): the lowest and highest class of bytes, where it leads; sorted by state and lowest class.
    empties (empties,); calls (calls, 2): rule, where it goes on; rules (rules, 2): start, kind.
    classes (256,) uint8: of each byte.
    """

    states: np.ndarray
    moves: np.ndarray
    empties: np.ndarray
    calls: np.ndarray
    rules: np.ndarray
    classes: np.ndarray


class ItemMemory(NamedTuple):
    """Sets, and what they are made of.

    counts: what is used; moves (sets, classes) int32; sets (sets + 1, 5): where its items begin, whether the text may
        end, how many plain characters may follow; items (4, items): of kernels, with moves on bytes, waiting for a
        rule, and that rule; tables (4, slots): hash tables of sets, frames, lists and texts; frames (frames, 4): set,
        rule, list of texts, start; lists (lists, 2): the list before, text; text_at, letters: texts; scratch (4, n).
    """

    counts: np.ndarray
    moves: np.ndarray
    sets: np.ndarray
    items: np.ndarray
    tables: np.ndarray
    frames: np.ndarray
    lists: np.ndarray
    text_at: np.ndarray
    letters: np.ndarray
    scratch: np.ndarray


def memory_for(classes: int, sets: int) -> ItemMemory:
    """Empty memory for so many sets. The system takes memory only for what is used of an array."""
    frames, lists = 4 * sets, 2 * sets
    made = ItemMemory(
        np.zeros(10, np.int64), np.empty((sets, classes), np.int32), np.zeros((sets + 1, 5), np.int64),
        np.empty((4, 16 * sets), np.int64), np.zeros((4, 8 * sets), np.int32), np.zeros((frames, 4), np.int32),
        np.zeros((lists, 2), np.int32), np.zeros(lists + 1, np.int64), np.empty(64 * lists, np.uint8),
        np.zeros((4, 8 * sets), np.int64),
    )  # fmt: skip
    made.counts[[FRAMES, LISTS, TEXTS]] = 1  # frame 0 is the whole text, list 0 is empty, text 0 is `LATER`
    return made


@inner
def packed(state, frame, texts):
    return (np.int64(state) << (FRAME_BITS + LIST_BITS)) | (np.int64(frame) << LIST_BITS) | np.int64(texts)


@inner
def state_of(item):
    return item >> (FRAME_BITS + LIST_BITS)


@inner
def frame_of(item):
    return (item >> LIST_BITS) & FRAME_MASK


@inner
def list_of(item):
    return item & LIST_MASK


@inner
def mixed(value):
    value = np.uint64(value) * np.uint64(0x9E3779B97F4A7C15)
    value ^= value >> np.uint64(29)
    return value * np.uint64(0xBF58476D1CE4E5B9)


@inner
def frame_for(m, origin, rule, texts, start):
    """The frame of these four numbers, made where it is new; FULL."""
    table = m.tables[FRAME_TABLE]
    slot = np.int64(
        mixed(mixed(mixed(mixed(origin) ^ np.uint64(rule)) ^ np.uint64(texts)) ^ np.uint64(start + 1)) >> 20
    )
    slot %= table.shape[0]
    while table[slot]:
        found = table[slot]
        row = m.frames[found]
        if row[0] == origin and row[1] == rule and row[2] == texts and row[3] == start:
            return np.int64(found)
        slot = (slot + 1) % table.shape[0]
    new = m.counts[FRAMES]
    if new >= m.frames.shape[0] or new > FRAME_MASK:
        return np.int64(FULL)
    m.counts[FRAMES] = new + 1
    m.frames[new, 0], m.frames[new, 1], m.frames[new, 2], m.frames[new, 3] = origin, rule, texts, start
    table[slot] = new
    return new


@inner
def list_with(m, before, text):
    """The list of texts with one more; FULL."""
    table = m.tables[LIST_TABLE]
    slot = np.int64(mixed(mixed(before) ^ np.uint64(text)) >> 20) % table.shape[0]
    while table[slot]:
        found = table[slot]
        if m.lists[found, 0] == before and m.lists[found, 1] == text:
            return np.int64(found)
        slot = (slot + 1) % table.shape[0]
    new = m.counts[LISTS]
    if new >= m.lists.shape[0] or new > LIST_MASK:
        return np.int64(FULL)
    m.counts[LISTS] = new + 1
    m.lists[new, 0], m.lists[new, 1] = before, text
    table[slot] = new
    return new


@inner
def text_of(m, buffer, start, stop, make):
    """The number of `buffer[start:stop]`; 0 where it is new and not to be made; FULL."""
    key = np.uint64(stop - start)
    for i in range(start, stop):
        key = mixed(key ^ np.uint64(buffer[i]))
    table = m.tables[TEXT_TABLE]
    slot = np.int64(key >> 20) % table.shape[0]
    while table[slot]:
        found = table[slot]
        at = m.text_at[found]
        same = m.text_at[found + 1] - at == stop - start
        i = start
        while same and i < stop:
            same = m.letters[at + i - start] == buffer[i]
            i += 1
        if same:
            return np.int64(found)
        slot = (slot + 1) % table.shape[0]
    if not make:
        return np.int64(0)
    new, used = m.counts[TEXTS], m.counts[LETTERS]
    if new + 1 >= m.text_at.shape[0] or used + stop - start > m.letters.shape[0]:
        return np.int64(FULL)
    for i in range(start, stop):  # a slice that an array is assigned to compiles for seconds
        m.letters[used + i - start] = buffer[i]
    m.text_at[new], m.text_at[new + 1] = used, used + stop - start
    m.counts[TEXTS], m.counts[LETTERS] = new + 1, used + stop - start
    table[slot] = new
    return new


@inner
def listed(m, texts, text):
    """Whether a list holds a text; one that is not known yet may be any."""
    while texts:
        if m.lists[texts, 1] == text or m.lists[texts, 1] == LATER:
            return True
        texts = m.lists[texts, 0]
    return False


@inner
def add(m, count, item):
    """`work[:count]` with an item that it lacks; the new count, or FULL."""
    work, marks, stamps = m.scratch[WORK], m.scratch[MARKS], m.scratch[STAMPS]
    stamp = m.counts[STAMP]
    slot = np.int64(mixed(item) >> 20) % marks.shape[0]
    while stamps[slot] == stamp:
        if marks[slot] == item:
            return count
        slot = (slot + 1) % marks.shape[0]
    if 2 * count >= work.shape[0]:
        return np.int64(FULL)
    marks[slot], stamps[slot], work[count] = item, stamp, item
    return count + 1


@inner
def sort(x):
    """Sort in place: Shell's sort, for short arrays."""
    gap = x.shape[0] // 2
    while gap:
        for i in range(gap, x.shape[0]):
            value, j = x[i], i
            while j >= gap and x[j - gap] > value:
                x[j] = x[j - gap]
                j -= gap
            x[j] = value
        gap //= 2


@inner
def begun(g, m, texts, state, buffer, start, stop):
    """How many of the listed texts begin with `buffer[start:stop]` and go on from a state of an automaton to its end.

    One that is not known yet is counted.
    """
    count = 0
    while texts:
        text, texts = m.lists[texts, 1], m.lists[texts, 0]
        if text == LATER:
            count += 1
            continue
        at, end, i, now = m.text_at[text], m.text_at[text + 1], start, state
        while at < end and i < stop and m.letters[at] == buffer[i]:
            at, i = at + 1, i + 1
        if i < stop:
            continue
        while at < end and now >= 0:
            letter, found = g.classes[m.letters[at]], -1
            for j in range(g.states[now, MOVE_AT], g.states[now + 1, MOVE_AT]):
                if g.moves[j, 0] <= letter <= g.moves[j, 1]:
                    found = g.moves[j, 2]
            now, at = found, at + 1
        count += now >= 0 and g.states[now, ENDS] != 0
    return count
