"""Products y = x W^T of a few rows x (B, K) with a matrix W (N, K) in one of its formats.

    float32, bfloat16, float16     as torch or the file keeps them; sums of 16 lanes over K
    q8_0, q4_k, ...                packed blocks (`blocks.py`); x in 8-bit integers with a scale every 32 numbers

    y = sum_g s_g (d_g sum_k v(w_k) x_k + m_g sum_k x_k)        v(w) = w - z, or a table; d_g, m_g of a part of 32 or 16

The integer sums are exact, and each number of y is made by the same operations in the same order whatever B, the number
of threads and the form (AVX-512 VNNI, AVX2, plain) are: a row's result does not depend on what it is computed with.
"""

# mypy: disable-error-code="no-untyped-def, call-arg"
# (numba types these functions itself)

import functools
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from llmanac.kernels.gguf.blocks import Kind
from llmanac.kernels.infer.kinds import BY_NUMBER, PACKED
from llmanac.kernels.infer.machine import (
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

F32, F16, BF16 = 0, 1, 30  # ggml's numbers, as those of `KINDS`
FLOATS = {"float32": F32, "float16": F16, "bfloat16": BF16}
GROUP, ROWS = 32, 16  # numbers that share a scale of x; rows of W that are multiplied at once
PLANES = {8: (8,), 6: (4, 2), 5: (4, 1), 4: (4,), 3: (2, 1), 2: (2,)}  # bits of a code -> widths of the planes
AHEAD = 8192  # bytes of codes
L2 = 1 << 18  # bytes of activations that are read again for each piece of the matrix

# weights, N, first row, last row, K, x, codes, scales, minus 128 sums, scaled sums, B, y, numbers in a row of y; of
# sums there are three a group of 32 numbers: of all, of the first 16 and of the last 16
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


def layout(kind: Kind) -> tuple[int, int, int]:
    """Bytes of 16 rows: codes of a group, scales of a group's parts, scale and minimum of a block."""
    each, width = 1 + kind.minimum, kind.layout["d"].itemsize
    return 64 * kind.bits, (GROUP // kind.part * each * ROWS if kind.part < kind.size else 0), width * ROWS * each


class _Codes:
    """The codes of a group, four numbers of each of 16 rows at a time: 8 steps, put together from planes of bits."""

    def __init__(self, builder: Any, form: int, kind: Kind, place: Any) -> None:
        self.builder, self.form, self.kind, self.place = builder, form, kind, place
        self.loaded: dict[int, Any] = {}

    def step(self, j: int) -> Any:
        builder, first, low, made = self.builder, 0, 0, None
        for width in PLANES[self.kind.bits]:
            at, shift = first + j * width // 8, j * width % 8 - low  # to the right, that the bits come to their place
            if at not in self.loaded:
                if len(PLANES[self.kind.bits]) > 1:  # takes so long that the processor does not look far enough ahead
                    bring(builder, ahead(builder, self.place, 64 * at + AHEAD))
                self.loaded[at] = load(builder, vector(I32), ahead(builder, self.place, 64 * at), 64)
            v = self.loaded[at]
            if shift:
                v = (builder.lshr if shift > 0 else builder.shl)(v, constant(I32, abs(shift)))
            if width < 8:
                v = builder.and_(v, constant(I32, ((1 << width) - 1 << low) * 0x01010101))
            made = v if made is None else builder.or_(made, v)
            first, low = first + width, low + width
        if not self.kind.table:
            return made if self.form == VNNI else builder.bitcast(made, vector(I8, 64))
        made = _looked_up(builder, self.form, builder.bitcast(made, vector(I8, 64)), [v + 128 for v in self.kind.table])
        return builder.bitcast(made, vector(I32)) if self.form == VNNI else made


def _looked_up(builder: Any, form: int, codes: Any, table: list[int]) -> Any:
    """The entries (of 16 bytes) that 64 codes name."""
    if form == PLAIN:
        made = constant(I8, table[0], 64)
        for code, value in enumerate(table[1:], start=1):
            same = builder.icmp_unsigned("==", codes, constant(I8, code, 64))
            made = builder.select(same, constant(I8, value, 64), made)
        return made
    count, name = (64, "llvm.x86.avx512.pshuf.b.512") if form == VNNI else (32, "llvm.x86.avx2.pshuf.b")
    entries = ir.Constant(vector(I8, count), table * (count // 16))
    parts = [pick(builder, codes, list(range(n, n + count))) for n in range(0, 64, count)]
    found = [apply(builder, name, entries.type, entries, part) for part in parts]
    return found[0] if len(found) == 1 else pick(builder, found[0], list(range(64)), found[1])


@intrinsic(prefer_literal=True)
def _tile(typing_context, form, kind, count, weights, scales, heads, groups, codes, s, t, f, out, width):
    """16 rows of a packed matrix with `count` rows of activations."""
    form_, kind_, count_ = literal(form), BY_NUMBER[literal(kind)], literal(count)
    code_bytes, scale_bytes, head_bytes = layout(kind_)
    parts, width_ = max(1, GROUP // kind_.part), kind_.layout["d"].itemsize
    offset = 128 if kind_.table else kind_.offset

    def generate(context, builder, signature, arguments):
        weights, scales, heads, groups, codes, s, t, f, out, width = arguments[3:]

        def rows(base, step):
            return [builder.add(base, builder.mul(step, ir.Constant(I64, i))) for i in range(count_)]

        def times(value, number):
            return builder.mul(value, ir.Constant(I64, number))

        def scale(place, part):  # of 16 rows: whole numbers of 8 bits
            whole = load(builder, vector(I8), ahead(builder, place, ROWS * part), 16)
            return builder.sext(whole, vector(I32))

        def headed(place):  # of a block
            if width_ == 4:
                return load(builder, vector(FLOAT), place, 64)
            return widened(builder, form_, load(builder, vector(I16), place, 32))

        x_rows, s_rows = rows(codes, times(groups, GROUP)), rows(s, times(groups, 4))
        t_rows, f_rows = rows(t, times(groups, 12)), rows(f, times(groups, 12))
        sums = [cgutils.alloca_once_value(builder, constant(FLOAT, 0.0)) for _ in range(count_)]
        for place in sums:
            builder.store(constant(FLOAT, 0.0), place)
        with cgutils.for_range(builder, groups, intp=I64) as loop:
            g = loop.index
            taken = _Codes(builder, form_, kind_, builder.add(weights, times(g, code_bytes)))
            block = builder.lshr(g, ir.Constant(I64, (kind_.size // GROUP).bit_length() - 1))
            head = builder.add(heads, times(block, head_bytes))
            scale_at, at, sum_at = builder.add(scales, times(g, scale_bytes)), times(g, 4), times(g, 12)
            x_at = times(g, GROUP)
            bases = [builder.add(row, x_at) for row in x_rows]
            each, whole, made = 1 + kind_.minimum, [None] * count_, [builder.load(place) for place in sums]
            for part in range(parts):
                own_sum = ahead(builder, sum_at, 0 if parts == 1 else 4 + 4 * part)
                if kind_.minimum:
                    m = headed(ahead(builder, head, ROWS * width_))
                    if scale_bytes:
                        m = builder.fmul(m, builder.sitofp(scale(scale_at, each * part + 1), vector(FLOAT)))
                totals = []
                for i in range(count_):
                    start = constant(I32, 0)
                    if offset:
                        start = splat(builder, load(builder, I32, builder.add(t_rows[i], own_sum)))
                        if offset != 128:
                            start = builder.ashr(start, constant(I32, 8 - offset.bit_length()))
                    # a second chain where there are few rows, so that one product need not wait for the one before it
                    chains = [[start]] if form_ != AVX2 else [_spread(builder, start)]
                    if count_ <= 2 and form_ == VNNI:
                        chains.append([constant(I32, 0)])
                    totals.append(chains)
                for j in range(8 // parts * part, 8 // parts * (part + 1)):
                    v = taken.step(j)
                    for i in range(count_):
                        chain = j % len(totals[i])
                        x = load(builder, I32, ahead(builder, bases[i], 4 * j))
                        totals[i][chain] = _dot4(builder, form_, totals[i][chain], v, x)
                for i in range(count_):
                    total = _sums(builder, form_, totals[i][0])
                    for further in totals[i][1:]:
                        total = builder.add(total, further[0])
                    if scale_bytes:  # exact: at most 32 x 127 x 63 x 127 in a group
                        total = builder.mul(total, scale(scale_at, each * part))
                    whole[i] = total if whole[i] is None else builder.add(whole[i], total)
                    if kind_.minimum:
                        scaled = splat(builder, load(builder, FLOAT, builder.add(f_rows[i], own_sum)))
                        made[i] = fma(builder, m, scaled, made[i])
            d = headed(head)
            for i, place in enumerate(sums):
                own = splat(builder, load(builder, FLOAT, builder.add(s_rows[i], at)))
                value = builder.sitofp(whole[i], vector(FLOAT))
                builder.store(fma(builder, value, builder.fmul(d, own), made[i]), place)
        for place, row in zip(sums, rows(out, times(width, 4)), strict=True):
            store(builder, builder.load(place), row)
        return context.get_dummy_value()

    return types.void(form, kind, count, *[NUMBER] * 10), generate


def _spread(builder: Any, start: Any) -> list[Any]:
    """A start (16,) as four registers of two sums a row, of which the second is 0."""
    zero = constant(I32, 0)
    return [
        pick(builder, start, [x for row in range(4 * n, 4 * n + 4) for x in (row, 16)], zero) for n in range(4)
    ]  # fmt: skip


def _packed(form, kind, most):
    codes_a_group, scales_a_group, heads_a_block = layout(BY_NUMBER[kind])
    size = BY_NUMBER[kind].size

    def products(weights, n, first, last, k, x, codes, s, t, f, batch, out, width):
        groups, tiles = k // GROUP, (n + 15) // 16
        scales = weights + tiles * groups * codes_a_group
        heads = scales + tiles * groups * scales_a_group
        block = max(most, L2 // k // most * most)
        for begin in range(0, batch, block):
            end = min(begin + block, batch)
            for tile in range(first // 16, (last + 15) // 16):
                own, own_scales = weights + tile * groups * codes_a_group, scales + tile * groups * scales_a_group
                own_heads = heads + tile * (k // size) * heads_a_block
                b = begin
                while b + most <= end:
                    _tile(
                        form, kind, most, own, own_scales, own_heads, groups, codes + b * k, s + b * groups * 4,
                        t + b * groups * 12, f + b * groups * 12, out + (b * width + tile * 16) * 4, width,
                    )  # fmt: skip
                    b += most
                while b + 2 <= end:
                    _tile(
                        form, kind, 2, own, own_scales, own_heads, groups, codes + b * k, s + b * groups * 4,
                        t + b * groups * 12, f + b * groups * 12, out + (b * width + tile * 16) * 4, width,
                    )  # fmt: skip
                    b += 2
                while b < end:
                    _tile(
                        form, kind, 1, own, own_scales, own_heads, groups, codes + b * k, s + b * groups * 4,
                        t + b * groups * 12, f + b * groups * 12, out + (b * width + tile * 16) * 4, width,
                    )  # fmt: skip
                    b += 1
        return 0

    return products


# ---------------------------------------------------------------- floating point
@intrinsic(prefer_literal=True)
def _dots(typing_context, form, kind, rows, count, weights, x, k, out, width):
    """`rows` rows of W, K numbers each, with `count` rows of activations."""
    form_, kind_, rows_, count_ = literal(form), literal(kind), literal(rows), literal(count)
    size = 4 if kind_ == F32 else 2

    def generate(context, builder, signature, arguments):
        weights, x, k, out, width = arguments[4:]

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
            v = load(builder, vector(kind, lanes), row(at), size)
            if kind_ == F16:
                v = widened(builder, form_ if lanes > 1 else PLAIN, v)
            elif kind_ == BF16:
                wide = builder.shl(builder.zext(v, vector(I32, lanes)), constant(I32, 16, lanes))
                v = builder.bitcast(wide, vector(FLOAT, lanes))
            return v if lanes > 1 else builder.extract_element(v, ir.Constant(I32, 0))

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

    return types.void(form, kind, rows, count, *[NUMBER] * 5), generate


def _floating(form, kind, most):
    size = 4 if kind == F32 else 2

    def products(weights, n, first, last, k, x, codes, s, t, f, batch, out, width):
        block = max(most, L2 // (4 * k) // most * most)
        for begin in range(0, batch, block):
            end = min(begin + block, batch)
            row = first
            while row + 4 <= last:
                own, b = weights + row * k * size, begin
                while b + most <= end:
                    _dots(form, kind, 4, most, own, x + b * k * 4, k, out + (b * width + row) * 4, width)
                    b += most
                while b < end:
                    _dots(form, kind, 4, 1, own, x + b * k * 4, k, out + (b * width + row) * 4, width)
                    b += 1
                row += 4
            while row < last:
                for b in range(begin, end):
                    own = weights + row * k * size
                    _dots(form, kind, 1, 1, own, x + b * k * 4, k, out + (b * width + row) * 4, width)
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
    if kind in PACKED:
        made = _packed(number, PACKED[kind].number, {VNNI: 8, AVX2: 2, PLAIN: 4}[number])
    else:
        made = _floating(number, FLOATS[kind], 6 if number == VNNI else 2)
    return address(cached(made, nogil=True, error_model="numpy", no_cfunc_wrapper=False), SIGNATURE)
