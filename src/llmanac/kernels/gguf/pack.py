"""Numbers to blocks: the codes and scales of least weighted error.

    minimise sum_j w_j (x_j - x^_j)^2,   x^ = (d s) q - (m t),   w = importance sqrt(2 mean(x^2) + x^2)

For each part of a block, scales that map its largest number near the end of the codes are tried, and each is improved
by turns: nearest codes for the scale, least squares for the codes. The parts' scales are then codes themselves, found
by the same search. At last the whole numbers s and t are moved by one where that helps, and d and m are solved for all
numbers of the block. d and m are rounded to float16 before codes are chosen for them.
"""

# mypy: disable-error-code="no-untyped-def"
# (numba types these functions itself)

import math

import numpy as np

from llmanac.kernels.gguf.codes import fill
from llmanac.kernels.text import cached, inner

F = np.float32
NONE, POSITIVE, FREE = 0, 1, 2  # what minima a kind has
TRIED = 9  # scales to either side of the one that maps the largest number to the last code
STEP = F(0.1)  # of a code, between two of them
TURNS = 2  # of codes and least squares
ZERO, ONE, MANY = F(0), F(1), F(np.inf)
SPLIT, LARGEST, NORMAL, TINY = F(8193), F(65504), F(2.0**-14), F(0.75)  # of float16
FAST = {"reassoc", "contract", "nsz"}


@inner
def _half(v):
    """Rounded to float16, of which numba has none."""
    v = min(max(v, -LARGEST), LARGEST)
    if abs(v) < NORMAL:  # steps of 2^-24, as float32 has them at 0.75
        return F(F(v + TINY) - TINY)
    wide = F(v * SPLIT)
    return F(wide - F(wide - v))


@inner(fastmath=FAST)
def _assign(x, w, scale, low, least, most, q):
    """Fill q with the codes nearest to x; returns the weighted error of `scale q - low`."""
    inverse, error = ONE / scale if scale != ZERO else ZERO, ZERO
    for j in range(len(x)):
        code = min(max(np.rint((x[j] + low) * inverse), least), most)
        off = scale * code - low - x[j]
        q[j] = code
        error += w[j] * off * off
    return error


@inner(fastmath=FAST)
def _solve(x, w, q, t, minimum):
    """(scale, low) of the least weighted error of `scale q - low t`."""
    qq, qt, tt, xq, xt = ZERO, ZERO, ZERO, ZERO, ZERO
    for j in range(len(x)):
        a, b = w[j] * q[j], w[j] * t[j]
        qq += a * q[j]
        qt += a * t[j]
        tt += b * t[j]
        xq += a * x[j]
        xt += b * x[j]
    determinant = qq * tt - qt * qt
    if minimum != NONE and determinant > ZERO:
        low = (qt * xq - qq * xt) / determinant
        if minimum == FREE or low > ZERO:
            return (tt * xq - qt * xt) / determinant, low
    if minimum == FREE and tt > ZERO:  # all codes are the same
        return ZERO, -xt / tt
    return xq / qq if qq > ZERO else ZERO, ZERO


@inner
def _fit(x, w, least, most, minimum, q, ones):
    """(scale, low) of the least weighted error that is found; q: room for codes."""
    bottom, top = x[0], x[0]
    for j in range(len(x)):
        bottom, top = min(bottom, x[j]), max(top, x[j])
    start, end = ZERO, least if least < ZERO else most
    if minimum == NONE:
        width = bottom if -bottom > top else top
    else:
        start = -bottom if minimum == FREE else max(-bottom, ZERO)
        width = top + start
    best, kept = MANY, (ZERO, ZERO)
    for i in range(-TRIED, TRIED + 1):
        scale, low = F(width / (end + F(i) * STEP)), start
        for turn in range(TURNS + 1):
            error = _assign(x, w, scale, low, least, most, q)
            if error < best:
                best, kept = error, (scale, low)
            if turn < TURNS:
                scale, low = _solve(x, w, q, ones, minimum)
    return kept


@inner
def _moved(x, w, d, m, least, most, limits, s, t, p, q):
    """Move s[p] and t[p] by one where that helps; returns the error."""
    best, s0, t0 = MANY, s[p], t[p]
    for i in range(9 if m > ZERO else 3):  # what is there comes first, and stays where nothing is better
        a, b = s0 + (ZERO, ONE, -ONE)[i % 3], t0 + (ZERO, ONE, -ONE)[i // 3]
        if limits[0] <= a <= limits[1] and ZERO <= b <= limits[1]:
            error = _assign(x, w, d * a, m * b, least, most, q)
            if error < best:
                best, s[p], t[p] = error, a, b
    return best


@inner
def _block(x, w, part, least, most, minimum, limits, q, s, t, room):
    """Fill q with the codes of a block, s and t with those of its parts; returns d and m."""
    parts, ones = len(x) // part, room[0]
    ones[:] = ONE
    s[:], t[:] = ONE, ONE
    if parts == 1:
        d, m = _fit(x, w, least, most, minimum, q, ones)
    else:
        scales, lows, of_scale, of_low = room[1, :parts], room[2, :parts], room[3, :parts], room[4, :parts]
        for p in range(parts):
            at = slice(p * part, p * part + part)
            scales[p], lows[p] = _fit(x[at], w[at], least, most, minimum, q[at], ones)
            _assign(x[at], w[at], scales[p], lows[p], least, most, q[at])
            of_scale[p], of_low[p] = (w[at] * q[at] * q[at]).sum(), w[at].sum()
        d = _fit(scales, of_scale, limits[0], limits[1], NONE, s[:parts], ones)[0]
        m = _fit(lows, of_low, ZERO, limits[1], NONE, t[:parts], ones)[0]
        _assign(scales, of_scale, _half(d), ZERO, limits[0], limits[1], s[:parts])
        _assign(lows, of_low, _half(m), ZERO, ZERO, limits[1], t[:parts])
    best, kept, sq, ts = MANY, (ZERO, ZERO), room[1], room[2]
    for _ in range(TURNS + 1):
        d, m = _half(d), _half(m)
        error = ZERO
        for p in range(parts):
            at = slice(p * part, p * part + part)
            if parts > 1:
                _moved(x[at], w[at], d, m, least, most, limits, s, t, p, q[at])
            error += _assign(x[at], w[at], d * s[p], m * t[p], least, most, q[at])
            for j in range(p * part, p * part + part):
                sq[j], ts[j] = q[j] * s[p], t[p]
        if not error < best:
            break
        best, kept = error, (d, m)
        for p in range(16):
            room[3, p], room[4, p] = s[p], t[p]
        d, m = _solve(x, w, sq[: len(x)], ts[: len(x)], minimum)
    d, m = kept
    for p in range(16):
        s[p], t[p] = room[3, p], room[4, p]
    for p in range(parts):
        at = slice(p * part, p * part + part)
        _assign(x[at], w[at], d * s[p], m * t[p], least, most, q[at])
    return d, m


def _pack(kind, x, importance, part, least, most, minimum, limits, out, d, m):
    size = x.shape[1]
    q, s, t, w = np.empty(size, F), np.empty(16, F), np.empty(16, F), np.empty(size, F)
    room = np.empty((5, 256), F)
    codes, whole, wholes = np.empty(size, np.uint8), np.empty(16, np.int8), np.empty(16, np.int8)
    for i in range(len(x)):
        squares = ZERO
        for j in range(size):
            squares += x[i, j] * x[i, j]
        for j in range(size):
            w[j] = importance[i % len(importance), j] * F(math.sqrt(F(2) * squares / F(size) + x[i, j] * x[i, j]))
        d[i], m[i] = _block(x[i], w, part, least, most, minimum, limits, q, s, t, room)
        for j in range(size):
            codes[j] = int(q[j] - least)
        for p in range(16):
            whole[p], wholes[p] = int(s[p]), int(t[p])
        fill(kind, codes, whole, wholes, out[i])


# kind, x (n, size) and importance (blocks of a row, size) float32, numbers in a part, the least and the largest code,
# what minima, the limits of s (t has the upper one), out (n, bytes), of which all but d and m (n,) float32 are filled
pack = cached(_pack, nogil=True, error_model="numpy")
