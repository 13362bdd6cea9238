"""Where the pieces of GPT-2's pattern start, found 64 bytes at a time with bit masks, in numba.

Of each block of 64 bytes there is a mask a class (letters, numbers, white space, the rest), whose bit i is of byte i.
A piece starts where the class changes, unless the byte before is a blank, which belongs to the piece; at the first byte
of white space; and at its last, if more text follows. On a whole block this is a dozen operations of 64-bit words:

    starts = (L & ~L' | N & ~N' | O & ~O') & ~B'  |  S & ~S'  |  S & ~'S        X' : X << 1,  'X : X >> 1

with the neighbouring block's bit shifted in. The classes are compared by vector instructions of whatever width the
processor has; a block with characters above 0x7F has theirs put in one by one. Contractions ('s, 're) are put in
one by one too, where an apostrophe starts a piece and a letter follows.

The end of a text (0xFF) has a class and a piece of its own.
"""

# mypy: disable-error-code="assignment, call-arg, var-annotated"
# (numba types these functions itself)

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from llmanac.kernels.split.words import GIVEN, GPT2, TEXT_END, _class_at, _contraction, piece_end
from llmanac.kernels.text import ONE, THREE, count_ones, inner, load_byte, load_word, store_word, trailing_zeros
from llmanac.kernels.unicode import END, LETTER, NUMBER, SPACE

BYTES = np.uint64(64)  # of a block
BLOCKS = 64  # of a window; even, since the rows of two blocks take turns
PLACES = 64 * BLOCKS + 2  # most places that a window gives, the one kept from the window before and the end
ZERO, LAST_BIT, WORD = np.uint64(0), np.uint64(63), np.uint64(8)
# What `masks[block & 1]` holds.
LETTERS, NUMBERS, OTHERS, SPACES, BLANKS, SHORT_SPACES, ENDS, LAST_SPACES, APOSTROPHES = range(9)
# What `scan` holds: the address to go on from; the last bit of each mask of the block before; bits that a contraction
# clears and sets in the next block; bits of characters that reach into it; whether its masks are known; pieces read.
(AT, LETTER_BIT, NUMBER_BIT, OTHER_BIT, SPACE_BIT, BLANK_BIT, CLEARED, SET, LETTER_CARRY, NUMBER_CARRY, OTHER_CARRY,
 SPACE_CARRY, KNOWN, GIVEN_AT) = range(14)  # fmt: skip
SCAN = 14


@intrinsic
def _ascii_masks(typing_context, address):
    """`(letters, numbers, white space, blanks, above 0x7F, apostrophes)` of the 64 bytes at an address."""

    def generate(context, builder, signature, arguments):
        vector = ir.VectorType(ir.IntType(8), 64)

        def each(value):
            return ir.Constant(vector, [value] * 64)

        def within(values, first, count):
            return builder.icmp_unsigned("<", builder.sub(values, each(first)), each(count))

        text = builder.load(builder.inttoptr(arguments[0], vector.as_pointer()), align=1)
        letters, numbers = within(builder.or_(text, each(32)), 97, 26), within(text, 48, 10)
        blanks = builder.icmp_unsigned("==", text, each(32))
        spaces = builder.or_(blanks, within(text, 9, 5))
        above = builder.icmp_signed("<", text, each(0))
        apostrophes = builder.icmp_unsigned("==", text, each(39))
        found = [
            builder.bitcast(mask, ir.IntType(64)) for mask in (letters, numbers, spaces, blanks, above, apostrophes)
        ]
        return context.make_tuple(builder, signature.return_type, found)

    return types.UniTuple(types.uint64, 6)(types.uint64), generate


@inner(forceinline=True)
def _classify(at, row, scan, by_byte, by_code_point):
    """Fill a row with the masks of the block at an address."""
    letters, numbers, spaces, blanks, above, apostrophes = _ascii_masks(at)
    row[LETTERS], row[NUMBERS], row[OTHERS] = letters, numbers, ~(letters | numbers | spaces | above)
    row[SPACES], row[BLANKS], row[SHORT_SPACES], row[APOSTROPHES] = spaces, blanks, spaces, apostrophes
    row[ENDS], row[LAST_SPACES] = ZERO, ZERO
    if above:
        _classify_longer(at, above, row, scan, by_byte, by_code_point)


@inner(inline="never")
def _classify_longer(at, above, row, scan, by_byte, by_code_point):
    """Put the characters above 0x7F of a block into its masks; `scan` has those that reach into it, then out of it."""
    for i in range(4):
        carried = scan[LETTER_CARRY + i]
        row[LETTERS + i] |= carried
        above &= ~carried
        scan[LETTER_CARRY + i] = ZERO
    while above:
        bit = trailing_zeros(above)
        kind, length = _class_at(at + bit, by_byte, by_code_point)
        ones = (ONE << length) - ONE
        span, over = ones << bit, ZERO
        if bit + length > BYTES:
            over = ones >> (BYTES - bit)
        above &= ~span
        if kind == END:
            row[ENDS] |= span
            continue
        which = OTHERS
        if kind == LETTER:
            which = LETTERS
        elif kind == NUMBER:
            which = NUMBERS
        elif kind == SPACE:
            which = SPACES
            following = _class_at(at + bit + length, by_byte, by_code_point)[0]
            if following != SPACE and following != END:
                row[LAST_SPACES] |= ONE << bit
        row[which] |= span
        scan[LETTER_CARRY + which] = over


@inner
def _contractions(at, apostrophes, starts, scan):
    """The starts of a block with its contractions made pieces; what of them falls into the next block is in `scan`."""
    while apostrophes:
        bit = trailing_zeros(apostrophes)
        apostrophes &= apostrophes - ONE
        length = _contraction(at + bit, GPT2)
        if length:
            inside = (ONE << (length - ONE)) - ONE  # the bytes after the apostrophe start no piece
            first, after = bit + ONE, bit + length
            if first < BYTES:
                starts &= ~(inside << first)
                scan[CLEARED] |= inside >> (BYTES - first)
            else:
                scan[CLEARED] |= inside
            if after < BYTES:
                starts |= ONE << after
            else:
                scan[SET] |= ONE << (after - BYTES)
    return starts


@inner
def _starts_of_blocks(base, stop, places, masks, scan, by_byte, by_code_point):
    """Write the places of the window's pieces to an address, as offsets from `base`; returns the address after."""
    at = scan[AT]
    if not scan[KNOWN]:
        _classify(at, masks[0], scan, by_byte, by_code_point)
        scan[KNOWN] = ONE
    letter, number, other = scan[LETTER_BIT], scan[NUMBER_BIT], scan[OTHER_BIT]
    space, blank = scan[SPACE_BIT], scan[BLANK_BIT]
    for block in range(BLOCKS):
        if at >= stop:
            break
        row, following = masks[block & 1], masks[1 - (block & 1)]
        _classify(at + BYTES, following, scan, by_byte, by_code_point)
        letters, numbers, others, spaces = row[LETTERS], row[NUMBERS], row[OTHERS], row[SPACES]
        changed = letters & ~(letters << ONE | letter)
        changed |= numbers & ~(numbers << ONE | number)
        changed |= others & ~(others << ONE | other)
        starts = changed & ~(row[BLANKS] << ONE | blank) | row[LAST_SPACES] | row[ENDS]
        goes_on = (spaces | row[ENDS]) >> ONE | (following[SPACES] | following[ENDS]) << LAST_BIT
        starts |= spaces & ~(spaces << ONE | space) | row[SHORT_SPACES] & ~goes_on
        apostrophes = row[APOSTROPHES] & starts & (letters >> ONE | following[LETTERS] << LAST_BIT)
        starts = starts & ~scan[CLEARED] | scan[SET]
        scan[CLEARED], scan[SET] = ZERO, ZERO
        if apostrophes:
            starts = _contractions(at, apostrophes, starts, scan)
        letter, number, other = letters >> LAST_BIT, numbers >> LAST_BIT, others >> LAST_BIT
        space, blank = spaces >> LAST_BIT, row[BLANKS] >> LAST_BIT
        offset, place = at - base, places
        places += count_ones(starts) << THREE
        while starts:
            store_word(place, offset + trailing_zeros(starts))
            starts &= starts - ONE
            place += WORD
        at += BYTES
    scan[LETTER_BIT], scan[NUMBER_BIT], scan[OTHER_BIT] = letter, number, other
    scan[SPACE_BIT], scan[BLANK_BIT], scan[AT] = space, blank, at
    return places


@inner
def next_pieces(base, used, mode, ends, places, masks, scan, by_byte, by_code_point):
    """Find the next pieces of a packed buffer, at most about four kilobytes of them.

    Args:
        ends: where the pieces end; read only where `mode` is GIVEN.
        places: (PLACES,) uint64, (2, 9) `masks` and (SCAN,) `scan`: the caller's, between calls too; `scan` begins with
            `base` at AT and zeros, and `places[0]` with 0.

    Returns:
        n: piece i < n is from `places[i]` to `places[i + 1]`; call `done` with n before the next call.
    """
    stop = base + np.uint64(used)
    first = np.uint64(places.ctypes.data)
    if mode == GPT2 and load_byte(by_byte + np.uint64(48)) == NUMBER:  # not where digits are set apart
        kept = ZERO if scan[AT] == base else WORD
        last = _starts_of_blocks(base, stop, first + kept, masks, scan, by_byte, by_code_point)
        if scan[AT] >= stop:
            while last > first and load_word(last - WORD) >= np.uint64(used):
                last -= WORD
            store_word(last, np.uint64(used))
            last += WORD
        return np.int64((last - first) >> THREE) - 1
    at, found = scan[AT], 1
    while at < stop and found < PLACES:
        if load_byte(at) == TEXT_END:
            at += ONE
        elif mode == GIVEN:
            at = base + np.uint64(ends[scan[GIVEN_AT]])
            scan[GIVEN_AT] += ONE
        else:
            at = piece_end(at, by_byte, by_code_point, mode)
        places[found] = at - base
        found += 1
    scan[AT] = at
    return found - 1
