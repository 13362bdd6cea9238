"""Products y = x W^T of a few rows x (B, K) with a matrix W (N, K) in one of its formats.

    float32, bfloat16     as torch keeps them; sums of 16 lanes over K
    q8_0, q4_0, q4_1      packed blocks (`blocks.py`); x in 8-bit integers with a scale every 32 numbers

    q8_0, q4_0:  y = sum_g d_g s_g sum_k (w_k - z) x_k         z = 128 and 8
    q4_1:        y = sum_g s_g (d_g sum_k w_k x_k + m_g sum_k x_k)

The integer sums are exact, and each number of y is made by the same operations in the same order whatever B, the number
of threads and the form (AVX-512 VNNI, AVX2, plain) are: a row's result does not depend on what it is computed with.
"""

# mypy: disable-error-code="no-untyped-def, call-arg"
# (numba types these functions itself)
from __future__ import annotations

import functools
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from llmanac.kernels.infer._machine import (
    AVX2,
    FLOAT,
    FORMS,
    I8,
    I16,
    I32,
    I64,
    PLAIN,
    VNNI,
    address,
    ahead,
    apply,
    bring,
    constant,
    fma,
    forms,
    literal,
    load,
    pick,
    splat,
    store,
    summed,
    vector,
    widened,
)  # fmt: skip
from llmanac.kernels.text import cached

F32, BF16, Q8_0, Q4_0, Q4_1 = range(5)
FORMATS = {"float32": F32, "bfloat16": BF16, "q8_0": Q8_0, "q4_0": Q4_0, "q4_1": Q4_1}
GROUP = 32  # numbers that share a scale
CODE_BYTES = {Q8_0: 512, Q4_0: 256, Q4_1: 256}  # of a group of 16 rows
SCALE_BYTES = {Q8_0: 32, Q4_0: 32, Q4_1: 64}
L2 = 1 << 18  # bytes of activations that are read again for each piece of the matrix

# weights, N, first row, last row, K, x, codes, scales, minus 128 sums, scaled sums, B, y, numbers in a row of y
SIGNATURE = types.int64(*[types.int64] * 13)
NUMBER = types.int64


# ---------------------------------------------------------------- quantized
def _dot4(builder: Any, form: int, total: Any, weights: Any, x: Any) -> Any:
    """Add 4 products for each of 16 rows: weights (64,) unsigned bytes, 4 a row; x four signed bytes in an i32."""
    if form == VNNI:
        x = splat(builder, x)
        return [apply(builder, "llvm.x86.avx512.vpdpbusd.512", vector(I32), total[0], weights, x)]
    x = builder.bitcast(x, vector(I8, 4))
    if form == AVX2:  # sums of two products, 4 rows a register
        wide = pick(builder, builder.sext(x, vector(I16, 4)), [0, 1, 2, 3] * 4)
        out = []
        for quarter, old in enumerate(total):
            own = builder.zext(pick(builder, weights, list(range(16 * quarter, 16 * quarter + 16))), vector(I16))
            pairs = apply(builder, "llvm.x86.avx2.pmadd.wd", vector(I32, 8), own, wide)
            out.append(builder.add(old, pairs))
        return out
    for k in range(4):
        own = builder.zext(pick(builder, weights, list(range(k, 64, 4))), vector(I32))
        one = builder.sext(builder.extract_element(x, ir.Constant(I32, k)), I32)
        total = [builder.add(total[0], builder.mul(own, splat(builder, one)))]
    return total


def _sums(builder: Any, form: int, total: Any) -> Any:
    """(16,) one sum a row."""
    if form != AVX2:
        return total[0]
    halves = []
    for low, high in (total[:2], total[2:]):
        even, odd = (pick(builder, low, list(range(n, 16, 2)), high) for n in (0, 1))
        halves.append(builder.add(even, odd))
    return pick(builder, halves[0], list(range(16)), halves[1])


@intrinsic(prefer_literal=True)
def _tile(typing_context, form, kind, count, weights, scales, groups, codes, s, t, f, out, width):
    """16 rows of a packed matrix with `count` rows of activations."""
    form_, kind_, count_ = literal(form), literal(kind), literal(count)

    def generate(context, builder, signature, arguments):
        weights, scales, groups, codes, s, t, f, out, width = arguments[3:]
        bytes_a_row = builder.mul(groups, ir.Constant(I64, GROUP))
        four = builder.mul(groups, ir.Constant(I64, 4))

        def rows(base, step):
            return [builder.add(base, builder.mul(step, ir.Constant(I64, i))) for i in range(count_)]

        x_rows, s_rows, t_rows, f_rows = rows(codes, bytes_a_row), rows(s, four), rows(t, four), rows(f, four)
        sums = [cgutils.alloca_once_value(builder, constant(FLOAT, 0.0)) for _ in range(count_)]
        for place in sums:
            builder.store(constant(FLOAT, 0.0), place)
        with cgutils.for_range(builder, groups, intp=I64) as loop:
            g = loop.index
            own = ahead(builder, weights, builder.mul(g, ir.Constant(I64, CODE_BYTES[kind_])))
            scale_at = ahead(builder, scales, builder.mul(g, ir.Constant(I64, SCALE_BYTES[kind_])))
            at = builder.mul(g, ir.Constant(I64, 4))
            d = widened(builder, form_, load(builder, vector(I16), scale_at, 32))
            totals = []
            for i in range(count_):
                if kind_ == Q4_1:
                    start = constant(I32, 0)
                else:
                    start = splat(builder, load(builder, I32, builder.add(t_rows[i], at)))
                    if kind_ == Q4_0:
                        start = builder.ashr(start, constant(I32, 4))
                # a second chain where there are few rows, so that one product need not wait for the one before it
                zero = constant(I32, 0)
                chains = [[start]] if form_ != AVX2 else [_spread(builder, start)]
                if count_ <= 2 and form_ == VNNI:
                    chains.append([zero])
                totals.append(chains)
            steps = []
            for j in range(CODE_BYTES[kind_] // 64):
                v = load(builder, vector(I32), ahead(builder, own, 64 * j), 64)
                if kind_ == Q8_0:
                    steps.append((j, v))
                else:
                    mask = constant(I32, 0x0F0F0F0F)
                    steps.append((2 * j, builder.and_(v, mask)))
                    steps.append((2 * j + 1, builder.and_(builder.lshr(v, constant(I32, 4)), mask)))
            x_at = builder.mul(g, ir.Constant(I64, GROUP))
            bases = [builder.add(row, x_at) for row in x_rows]
            for j, v in steps:
                v = v if form_ == VNNI else builder.bitcast(v, vector(I8, 64))
                for i in range(count_):
                    chain = j % len(totals[i])
                    x = load(builder, I32, ahead(builder, bases[i], 4 * j))
                    totals[i][chain] = _dot4(builder, form_, totals[i][chain], v, x)
            if kind_ == Q4_1:
                m = widened(builder, form_, load(builder, vector(I16), ahead(builder, scale_at, 32), 32))
            for i in range(count_):
                total = _sums(builder, form_, totals[i][0])
                for further in totals[i][1:]:
                    total = builder.add(total, further[0])
                value = builder.sitofp(total, vector(FLOAT))
                scale = splat(builder, load(builder, FLOAT, builder.add(s_rows[i], at)))
                made = fma(builder, value, builder.fmul(d, scale), builder.load(sums[i]))
                if kind_ == Q4_1:
                    made = fma(builder, m, splat(builder, load(builder, FLOAT, builder.add(f_rows[i], at))), made)
                builder.store(made, sums[i])
        for place, row in zip(sums, rows(out, builder.mul(width, ir.Constant(I64, 4))), strict=True):
            store(builder, builder.load(place), row)
        return context.get_dummy_value()

    return types.void(form, kind, count, *[NUMBER] * 9), generate


def _spread(builder: Any, start: Any) -> list[Any]:
    """A start (16,) as four registers of two sums a row, of which the second is 0."""
    zero = constant(I32, 0)
    return [
        pick(builder, start, [x for row in range(4 * n, 4 * n + 4) for x in (row, 16)], zero) for n in range(4)
    ]  # fmt: skip


def _packed(form, kind, most):
    codes_a_group, scales_a_group = CODE_BYTES[kind], SCALE_BYTES[kind]

    def products(weights, n, first, last, k, x, codes, s, t, f, batch, out, width):
        groups = k // GROUP
        scales = weights + (n + 15) // 16 * groups * codes_a_group
        block = max(most, L2 // k // most * most)
        for begin in range(0, batch, block):
            end = min(begin + block, batch)
            for tile in range(first // 16, (last + 15) // 16):
                own = weights + tile * groups * codes_a_group
                own_scales = scales + tile * groups * scales_a_group
                b = begin
                while b + most <= end:
                    _tile(
                        form, kind, most, own, own_scales, groups, codes + b * k, s + b * groups * 4,
                        t + b * groups * 4, f + b * groups * 4, out + (b * width + tile * 16) * 4, width,
                    )  # fmt: skip
                    b += most
                while b + 2 <= end:
                    _tile(
                        form, kind, 2, own, own_scales, groups, codes + b * k, s + b * groups * 4,
                        t + b * groups * 4, f + b * groups * 4, out + (b * width + tile * 16) * 4, width,
                    )  # fmt: skip
                    b += 2
                while b < end:
                    _tile(
                        form, kind, 1, own, own_scales, groups, codes + b * k, s + b * groups * 4,
                        t + b * groups * 4, f + b * groups * 4, out + (b * width + tile * 16) * 4, width,
                    )  # fmt: skip
                    b += 1
        return 0

    return products


# ---------------------------------------------------------------- floating point
@intrinsic(prefer_literal=True)
def _dots(typing_context, kind, rows, count, weights, x, k, out, width):
    """`rows` rows of W, K numbers each, with `count` rows of activations."""
    kind_, rows_, count_ = literal(kind), literal(rows), literal(count)
    size = 4 if kind_ == F32 else 2

    def generate(context, builder, signature, arguments):
        weights, x, k, out, width = arguments[3:]

        def starts(base, step, count):
            return [builder.add(base, builder.mul(step, ir.Constant(I64, i))) for i in range(count)]

        w_rows = starts(weights, builder.mul(k, ir.Constant(I64, size)), rows_)
        following = builder.add(weights, builder.mul(k, ir.Constant(I64, rows_ * size)))
        x_rows = starts(x, builder.mul(k, ir.Constant(I64, 4)), count_)
        pairs = [(r, i) for r in range(rows_) for i in range(count_)]
        sums = {pair: cgutils.alloca_once_value(builder, constant(FLOAT, 0.0)) for pair in pairs}
        for place in sums.values():
            builder.store(constant(FLOAT, 0.0), place)

        def read(row, at, lanes):
            kind = FLOAT if kind_ == F32 else I16
            v = load(builder, vector(kind, lanes) if lanes > 1 else kind, row(at), size)
            if kind_ == F32:
                return v
            wide = vector(I32, lanes) if lanes > 1 else I32
            shift = constant(I32, 16, lanes) if lanes > 1 else ir.Constant(I32, 16)
            return builder.bitcast(builder.shl(builder.zext(v, wide), shift), vector(FLOAT) if lanes > 1 else FLOAT)

        def weight(r):
            return lambda at: builder.add(w_rows[r], builder.mul(at, ir.Constant(I64, size)))

        def given(i, at):
            return builder.add(x_rows[i], builder.mul(at, ir.Constant(I64, 4)))

        full = builder.lshr(k, ir.Constant(I64, 4))
        with cgutils.for_range(builder, full, intp=I64) as loop:
            at = builder.shl(loop.index, ir.Constant(I64, 4))
            for n in range(0, rows_ * 16 * size, 64):  # rows that take turns are no stream that the processor follows
                own = builder.mul(loop.index, ir.Constant(I64, rows_ * 16 * size))
                bring(builder, ahead(builder, builder.add(following, own), n))
            ws = [read(weight(r), at, 16) for r in range(rows_)]
            xs = [load(builder, vector(FLOAT), given(i, at)) for i in range(count_)]
            for r, i in pairs:
                builder.store(fma(builder, ws[r], xs[i], builder.load(sums[r, i])), sums[r, i])
        ends = {p: cgutils.alloca_once_value(builder, summed(builder, builder.load(sums[p]))) for p in pairs}
        for p in pairs:
            builder.store(summed(builder, builder.load(sums[p])), ends[p])
        done = builder.shl(full, ir.Constant(I64, 4))
        with cgutils.for_range(builder, builder.sub(k, done), intp=I64) as loop:
            at = builder.add(done, loop.index)
            for r, i in pairs:
                w, v = read(weight(r), at, 1), load(builder, FLOAT, given(i, at))
                builder.store(fma(builder, w, v, builder.load(ends[r, i])), ends[r, i])
        outs = starts(out, builder.mul(width, ir.Constant(I64, 4)), count_)
        for r, i in pairs:
            store(builder, builder.load(ends[r, i]), ahead(builder, outs[i], 4 * r))
        return context.get_dummy_value()

    return types.void(kind, rows, count, *[NUMBER] * 5), generate


def _floating(kind, most):
    size = 4 if kind == F32 else 2

    def products(weights, n, first, last, k, x, codes, s, t, f, batch, out, width):
        block = max(most, L2 // (4 * k) // most * most)
        for begin in range(0, batch, block):
            end = min(begin + block, batch)
            row = first
            while row + 4 <= last:
                b = begin
                while b + most <= end:
                    _dots(kind, 4, most, weights + row * k * size, x + b * k * 4, k, out + (b * width + row) * 4, width)
                    b += most
                while b < end:
                    _dots(kind, 4, 1, weights + row * k * size, x + b * k * 4, k, out + (b * width + row) * 4, width)
                    b += 1
                row += 4
            while row < last:
                for b in range(begin, end):
                    _dots(kind, 1, 1, weights + row * k * size, x + b * k * 4, k, out + (b * width + row) * 4, width)
                row += 1
        return 0

    return products


@functools.cache
def product(kind: str, form: str | None = None) -> int:
    """The address of the kernel of a format, compiled; `form` is the best one of this machine by default.

    Its arguments are those of `SIGNATURE`: rows `first` to `last` of the matrix (multiples of 16 but for the end) are
    multiplied, and rows past N of the last piece of 16 are written too where the matrix is packed.
    """
    number = FORMS.index(form or forms()[0])
    wide = number == VNNI
    if FORMATS[kind] in CODE_BYTES:
        made = _packed(number, FORMATS[kind], {VNNI: 8, AVX2: 2, PLAIN: 4}[number])
    else:
        made = _floating(FORMATS[kind], 6 if wide else 2)
    return address(cached(made, nogil=True, error_model="numpy"), SIGNATURE)
