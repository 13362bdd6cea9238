"""What a block of each packed kind holds, byte by byte: its codes, and the scales of its parts.

    x = (d s) v(q) - (m t)        d, m of a block; s, t of a part of it, 1 in blocks of 32; v: code -> whole number

Blocks of 32 numbers are one part. A K block of 256 has parts of 32 or 16. This is the only place that knows where the
bits of a kind are: numbers in float32 and the order of the packed products (`kernels/infer/blocks.py`) both start here.
"""

# mypy: disable-error-code="no-untyped-def"
# (numba types these functions itself)

import numpy as np

from llmanac.kernels.text import cached, inner

Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K = 2, 3, 6, 7, 8, 10, 11, 12, 13, 14
IQ4_NL, IQ4_XS, MXFP4 = 20, 23, 39
BYTES = 256  # and above: a code a byte, from the block's start (`kernels/infer/kinds.py`)
ONES, BITS = np.uint64(0x0101010101010101), np.uint64(0x8040201008040201)  # of 8 bytes
LOWER = ONES * np.uint64(15)


@inner
def word(b, at):
    """8 bytes as one number: a single read, as it is written."""
    made = np.uint64(0)
    for i in range(8):
        made |= np.uint64(b[at + i]) << np.uint64(8 * i)
    return made


@inner
def _nibbles(b, at, wide, to):
    """32 numbers of 16 bytes: the lower halves of all, then the upper ones."""
    for j in range(2):
        both = word(b, at + 8 * j)
        wide[to + j], wide[to + 2 + j] = both & LOWER, both >> np.uint64(4) & LOWER


@inner
def _fifths(b, at, wide):
    """Bit i of a byte to the fifth bit of number i: times ONES it is there in all 8, BITS keeps one in each."""
    for i in range(4):
        kept = np.uint64(b[at + i]) * ONES & BITS
        wide[i] |= (kept + ONES * np.uint64(127)) >> np.uint64(7) << np.uint64(4) & ONES << np.uint64(4)


@inner
def _pairs(b, at, q):
    """Parts in pairs: one in the lower halves of 32 bytes, the other in the upper ones."""
    for p in range(4):
        for j in range(32):
            q[64 * p + j] = b[at + 32 * p + j] & 15
            q[64 * p + 32 + j] = b[at + 32 * p + j] >> 4


@inner
def _twos(b, at, q):
    for n in range(2):
        for p in range(4):
            for j in range(32):
                q[128 * n + 32 * p + j] = b[at + 32 * n + j] >> (2 * p) & 3


@inner
def _sixes(b, s, t):
    """12 bytes hold 8 scales and 8 minima of 6 bits: the first four of each whole, of the others 4 bits in the last
    four bytes and 2 bits on top of the first ones."""
    for i in range(4):
        low, mid, high = b[4 + i], b[8 + i], b[12 + i]
        s[i], s[4 + i] = low & 63, (high & 15) | (low >> 6 << 4)
        t[i], t[4 + i] = mid & 63, (high >> 4) | (mid >> 6 << 4)


@inner
def _q6_k(b, q, s):
    for n in range(2):
        for j in range(32):
            one, two, high = b[64 * n + j], b[64 * n + 32 + j], b[128 + 32 * n + j]
            q[128 * n + j] = (one & 15) | (high & 3) << 4
            q[128 * n + 32 + j] = (two & 15) | (high >> 2 & 3) << 4
            q[128 * n + 64 + j] = (one >> 4) | (high >> 4 & 3) << 4
            q[128 * n + 96 + j] = (two >> 4) | (high >> 6) << 4
    for i in range(16):
        s[i] = b[192 + i]


@inner
def _q3_k(b, q, s):
    _twos(b, 32, q)
    for i in range(8):
        for j in range(32):
            q[32 * i + j] |= (b[j] >> i & 1) << 2
    for i in range(16):
        low, high = b[96 + i % 8] >> (i // 8 * 4) & 15, b[104 + i % 4] >> (i // 4 * 2) & 3
        s[i] = (low | high << 4) - 32


@inner
def _iq4_xs(b, wide, s):
    for i in range(8):
        low, high = b[4 + i // 2] >> (i % 2 * 4) & 15, b[2 + i // 4] >> (i % 4 * 2) & 3
        s[i] = (low | high << 4) - 32
        _nibbles(b, 8 + 16 * i, wide, 4 * i)


@inner
def codes(kind, b, q, wide, s, t):
    """Fill q with a block's codes; of a K block s, and where it has minima t, with those of its parts.

    Args:
        kind: ggml's number of it; b: the block, bytes; q: (256,) bytes; wide: the same as (32,) uint64.
        s, t: (16,) int8.
    """
    if kind == Q8_0:
        for j in range(4):
            wide[j] = word(b, 2 + 8 * j) ^ ONES << np.uint64(7)
    elif kind >= BYTES:
        for j in range(min(256, len(b))):
            q[j] = b[j]
    elif kind in (Q4_0, IQ4_NL):
        _nibbles(b, 2, wide, 0)
    elif kind == Q4_1:
        _nibbles(b, 4, wide, 0)
    elif kind == MXFP4:
        _nibbles(b, 1, wide, 0)
    elif kind == Q5_0:
        _nibbles(b, 6, wide, 0)
        _fifths(b, 2, wide)
    elif kind == Q5_1:
        _nibbles(b, 8, wide, 0)
        _fifths(b, 4, wide)
    elif kind == Q4_K:
        _pairs(b, 16, q)
        _sixes(b, s, t)
    elif kind == Q5_K:
        _pairs(b, 48, q)
        for i in range(8):
            for j in range(32):
                q[32 * i + j] |= (b[16 + j] >> i & 1) << 4
        _sixes(b, s, t)
    elif kind == Q6_K:
        _q6_k(b, q, s)
    elif kind == Q3_K:
        _q3_k(b, q, s)
    elif kind == Q2_K:
        _twos(b, 16, q)
        for i in range(16):
            s[i], t[i] = b[i] & 15, b[i] >> 4
    else:
        _iq4_xs(b, wide, s)


@inner
def _to_pairs(q, b, at, width):
    """The inverse of `_pairs`, and with a width of 16 that of `_nibbles`."""
    for p in range(len(q) // (2 * width)):
        for j in range(width):
            b[at + width * p + j] = (q[2 * width * p + j] & 15) | (q[2 * width * p + width + j] & 15) << 4


@inner
def _to_fifths(q, b, at, width):
    """The fifth bits: bit i of byte j is that of number `width i + j`, and for a width of 1 of `8 j + i`."""
    for j in range(len(q) // 8):
        b[at + j] = 0
        for i in range(8):
            b[at + j] |= (q[width * i + j if width > 1 else 8 * j + i] >> 4) << i


@inner
def fill(kind, q, s, t, b):
    """The inverse of `codes` for the kinds that are written; bytes of d and m are left as they are."""
    if kind == Q8_0:
        for j in range(32):
            b[2 + j] = q[j] ^ 128
    elif kind in (Q4_0, Q4_1):
        _to_pairs(q, b, 2 if kind == Q4_0 else 4, 16)
    elif kind in (Q5_0, Q5_1):
        at = 2 if kind == Q5_0 else 4
        _to_fifths(q, b, at, 1)
        _to_pairs(q, b, at + 4, 16)
    elif kind in (Q4_K, Q5_K):
        for i in range(4):
            b[4 + i], b[8 + i] = s[i] | s[4 + i] >> 4 << 6, t[i] | t[4 + i] >> 4 << 6
            b[12 + i] = (s[4 + i] & 15) | (t[4 + i] & 15) << 4
        if kind == Q5_K:
            _to_fifths(q, b, 16, 32)
        _to_pairs(q, b, 16 if kind == Q4_K else 48, 32)
    else:  # Q6_K
        for n in range(2):
            for j in range(32):
                at, high = 128 * n + j, 0
                for i in range(4):
                    high |= q[at + 32 * i] >> 4 << 2 * i
                b[128 + 32 * n + j] = high
                for i in range(2):
                    b[64 * n + 32 * i + j] = (q[at + 32 * i] & 15) | (q[at + 64 + 32 * i] & 15) << 4
        for i in range(16):
            b[192 + i] = s[i]


def _numbers(kind, data, d, m, part, values, out):
    q, s, t = np.empty(256, np.uint8), np.ones(16, np.int8), np.ones(16, np.int8)
    wide = q.view(np.uint64)
    for i in range(len(data)):
        codes(kind, data[i], q, wide, s, t)
        for p in range(out.shape[1] // part):
            scale, low = d[i] * np.float32(s[p]), m[i] * np.float32(t[p])
            for j in range(p * part, p * part + part):
                out[i, j] = scale * values[q[j]] - low


# kind, blocks (n, bytes), d (n,) and m (n,) float32, numbers in a part, values (256,) float32, out (n, size) float32
numbers = cached(_numbers, nogil=True, error_model="numpy")
