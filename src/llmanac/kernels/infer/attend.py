"""Attention of a few queries over the pages of a row.

    s_t = c(q . k_t)      p = softmax(s)      o = sum_t p_t v_t        for the last `window` t up to the query's place

A block has pages of 16 tokens: of each layer and head keys (pages, d, 16) and values (pages, 16, d), in float32,
float16 or q8_0, d filled up to a multiple of 16. Of q8_0 a page has codes of 8 bits, d filled up to a multiple of 32,
and behind them scales, a float16 for 32 numbers of a token: (d / 32, 16) of keys and (16, d / 32) of values. Queries of
one key-value head (of a group's heads, and of several tokens while a prompt is read) share each page that is read.
Every query's numbers are made in the same order whatever it shares its pages with.
"""

# mypy: disable-error-code="no-untyped-def, call-arg, var-annotated"
# (numba types these functions itself)

import functools
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic

from llmanac.kernels.infer.machine import (
    FLOAT,
    FORMS,
    I8,
    I16,
    I32,
    I64,
    address,
    ahead,
    bring,
    constant,
    fma,
    forms,
    literal,
    load,
    pick,
    splat,
    store,
    vector,
    widened,
)  # fmt: skip
from llmanac.kernels.nn._exponential import RELAXED, exp2, tanh
from llmanac.kernels.text import cached, inner

PAGE = 16
LINE = 64  # bytes of a cache line
AHEAD = 6  # pages: their memory takes longer than one page's work
QUERIES = 8  # that walk over the pages together
KINDS, SIZES = {"float32": 0, "float16": 1, "q8_0": 2}, (4, 2, 1)  # bytes of a number
CODED, GROUP = 2, 32
NUMBER = types.int64
LOG2E32 = np.float32(1.4426950408889634)
LOWEST = np.float32(-3.0e38)

# queries (n, d), places (n,), n, d, blocks (count,) of 2^shift pages, the layer and head's first byte in one, bytes of
# one, keys, values, window, cap (a float32, 0 for none), scores (n, 16 pages), numbers in a row of scores, out (n, d)
SIGNATURE = types.int64(*[NUMBER] * 15)


def _narrow(builder: Any, kind: int, form: int, place: Any) -> Any:
    """16 numbers at an address in float32."""
    if kind == KINDS["float32"]:
        return load(builder, vector(FLOAT), place)
    if kind == CODED:
        return builder.sitofp(builder.sext(load(builder, vector(I8), place, 1), vector(I32)), vector(FLOAT))
    return widened(builder, form, load(builder, vector(I16), place, 2))


@intrinsic(prefer_literal=True)
def _scores(typing_context, form, kind, count, queries, d, keys, following, out, width):
    """q . k of `count` queries and the 16 tokens of a page; the `following` page is brought near meanwhile."""
    form_, kind_, count_ = literal(form), literal(kind), literal(count)
    size = 16 * SIZES[kind_]

    def generate(context, builder, signature, arguments):
        queries, d, keys, following, out, width = arguments[3:]
        four = ir.Constant(I64, 4)
        rows = [builder.add(queries, builder.mul(builder.mul(d, ir.Constant(I64, i)), four)) for i in range(count_)]
        sums = [[cgutils.alloca_once_value(builder, constant(FLOAT, 0.0)) for _ in range(2)] for _ in rows]
        ends = [cgutils.alloca_once_value(builder, constant(FLOAT, 0.0)) for _ in rows]

        def add(begin, count):  # products of the numbers begin to begin + count of queries and keys
            for place in (place for pair in sums for place in pair):
                builder.store(constant(FLOAT, 0.0), place)
            with cgutils.for_range(builder, builder.lshr(count, ir.Constant(I64, 1)), intp=I64) as loop:
                first = builder.add(begin, builder.shl(loop.index, ir.Constant(I64, 1)))
                for n in range(0, 2 * size, LINE):
                    own = builder.add(following, builder.mul(first, ir.Constant(I64, size)))
                    bring(builder, ahead(builder, own, n))
                for n in range(2):
                    at = builder.add(first, ir.Constant(I64, n))
                    k = _narrow(builder, kind_, form_, builder.add(keys, builder.mul(at, ir.Constant(I64, size))))
                    for row, pair in zip(rows, sums, strict=True):
                        q = splat(builder, load(builder, FLOAT, builder.add(row, builder.mul(at, four))))
                        builder.store(fma(builder, q, k, builder.load(pair[n])), pair[n])
            return [builder.fadd(builder.load(pair[0]), builder.load(pair[1])) for pair in sums]

        for place in ends:
            builder.store(constant(FLOAT, 0.0), place)
        group = d if kind_ != CODED else ir.Constant(I64, GROUP)
        with cgutils.for_range(builder, builder.udiv(d, group), intp=I64) as groups:
            made = add(builder.mul(groups.index, group), group)
            if kind_ == CODED:
                behind = builder.add(builder.mul(d, ir.Constant(I64, PAGE)), builder.mul(groups.index, group))
                scale = widened(builder, form_, load(builder, vector(I16), builder.add(keys, behind), 2))
                made = [builder.fmul(scale, one) for one in made]
            for one, place in zip(made, ends, strict=True):
                builder.store(builder.fadd(one, builder.load(place)), place)
        for i, end in enumerate(ends):
            place = builder.add(out, builder.mul(builder.mul(width, ir.Constant(I64, i)), four))
            store(builder, builder.load(end), place)
        return context.get_dummy_value()

    return types.void(form, kind, count, *[NUMBER] * 6), generate


@intrinsic(prefer_literal=True)
def _read(typing_context, form, kind, count, wide, weights, width, values, scales, following, d, out):
    """Add the values of a page, 16 `wide` numbers of them, by the weights of `count` queries."""
    form_, kind_, count_, wide_ = literal(form), literal(kind), literal(count), literal(wide)
    size = SIZES[kind_]

    def generate(context, builder, signature, arguments):
        weights, width, values, scales, following, d, out = arguments[4:]

        def scaled(values, t):  # of one token
            own = builder.add(scales, builder.mul(builder.lshr(d, ir.Constant(I64, 5)), ir.Constant(I64, 2 * t)))
            factors = [
                widened(builder, form_, load(builder, vector(I16, 1), ahead(builder, own, 2 * g), 2))
                for g in range((len(values) + 1) // 2)
            ]
            return [
                builder.fmul(v, splat(builder, builder.extract_element(factors[w // 2], ir.Constant(I32, 0))))
                for w, v in enumerate(values)
            ]

        four = ir.Constant(I64, 4)
        places = [
            [ahead(builder, builder.add(out, builder.mul(builder.mul(d, ir.Constant(I64, i)), four)), 64 * w)
             for w in range(wide_)] for i in range(count_)
        ]  # fmt: skip
        rows = [builder.add(weights, builder.mul(builder.mul(width, ir.Constant(I64, i)), four)) for i in range(count_)]
        sums = [[load(builder, vector(FLOAT), place) for place in row] for row in places]
        for t in range(PAGE):
            step = builder.mul(d, ir.Constant(I64, t * size))
            row = builder.add(values, step)
            for n in range(0, 16 * size * wide_, LINE):
                bring(builder, ahead(builder, builder.add(following, step), n))
            vs = [_narrow(builder, kind_, form_, ahead(builder, row, 16 * size * w)) for w in range(wide_)]
            vs = scaled(vs, t) if kind_ == CODED else vs
            for i in range(count_):
                p = splat(builder, load(builder, FLOAT, ahead(builder, rows[i], 4 * t)))
                sums[i] = [fma(builder, p, v, old) for v, old in zip(vs, sums[i], strict=True)]
        for own, into in zip(sums, places, strict=True):
            for value, place in zip(own, into, strict=True):
                store(builder, value, place)
        return context.get_dummy_value()

    return types.void(form, kind, count, wide, *[NUMBER] * 7), generate


def _view(kind: Any) -> Any:
    @intrinsic
    def view(typing_context, place):
        """An address as a pointer, for `carray`."""
        pointer = types.CPointer(kind)

        def generate(context, builder, signature, values):
            return builder.inttoptr(values[0], context.get_value_type(pointer))

        return pointer(NUMBER), generate

    return view


floats_at, numbers_at = _view(types.float32), _view(types.int64)


@intrinsic
def largest(typing_context, place, count):
    """The largest of at least one float32 at an address; a NaN is none of them. A plain loop would be one by one."""

    def generate(context, builder, signature, arguments):
        place, count = arguments
        lowest = float(LOWEST)
        tops = [cgutils.alloca_once_value(builder, constant(FLOAT, lowest)) for _ in range(2)]
        for top in tops:
            builder.store(constant(FLOAT, lowest), top)

        def raise_to(top, value):
            old = builder.load(top)
            builder.store(builder.select(builder.fcmp_ordered(">", value, old), value, old), top)

        with cgutils.for_range(builder, builder.lshr(count, ir.Constant(I64, 5)), intp=I64) as loop:
            for n, top in enumerate(tops):
                at = builder.add(place, builder.shl(loop.index, ir.Constant(I64, 7)))
                raise_to(top, load(builder, vector(FLOAT), ahead(builder, at, 64 * n)))
        raise_to(tops[0], builder.load(tops[1]))
        value = builder.load(tops[0])
        for half in (8, 4, 2, 1):
            pair = [pick(builder, value, list(range(n, n + half))) for n in (0, half)]
            value = builder.select(builder.fcmp_ordered(">", *pair), *pair)
        one = cgutils.alloca_once_value(builder, builder.extract_element(value, ir.Constant(I32, 0)))
        builder.store(builder.extract_element(value, ir.Constant(I32, 0)), one)
        done = builder.and_(count, ir.Constant(I64, -32))
        with cgutils.for_range(builder, builder.sub(count, done), intp=I64) as loop:
            at = builder.shl(builder.add(done, loop.index), ir.Constant(I64, 2))
            raise_to(one, load(builder, FLOAT, builder.add(place, at)))
        return builder.load(one)

    return types.float32(NUMBER, NUMBER), generate


@inner(fastmath=RELAXED, error_model="numpy")
def _softmax(row, limit):
    if limit > np.float32(0):
        for t in range(len(row)):
            row[t] = limit * tanh(row[t] / limit)
    top = largest(np.int64(row.ctypes.data), np.int64(len(row)))
    total = np.float32(0)
    for t in range(len(row)):
        weight = exp2((row[t] - top) * LOG2E32)
        row[t] = weight
        total += weight
    scale = np.float32(1) / total
    for t in range(len(row)):
        row[t] *= scale


@inner
def _at(table, page, shift, block_bytes, part_bytes):
    """Where a page begins in a store."""
    return table[page >> shift] * block_bytes + (page & ((1 << shift) - 1)) * part_bytes


def _attention(form, kind):
    # accumulators for each of 8 and of 3 queries that fit the registers
    wide, most = (2, 4) if form == FORMS.index("vnni") else (1, 1)
    size, behind = SIZES[kind], 1 if kind == CODED else 0

    def attend(
        queries, places, n, d, blocks, shift, begins, block_bytes, keys, values, window, cap, scores, width, out
    ):
        where, table = carray(numbers_at(places), (n,)), carray(numbers_at(blocks), (1 << 31,))
        low = max(0, where[0] - window + 1) // PAGE if window > 0 else 0
        stop = where[n - 1] // PAGE + 1
        limit, part_bytes = carray(floats_at(cap), (1,))[0], (PAGE * size + behind) * d
        for page in range(low, stop):
            own = keys + _at(table, page, shift, block_bytes, part_bytes) + begins
            later = page + AHEAD  # past the last keys come the first values
            if later < stop:
                following = keys + _at(table, later, shift, block_bytes, part_bytes) + begins
            else:
                following = (
                    values + _at(table, min(low + later - stop, stop - 1), shift, block_bytes, part_bytes) + begins
                )
            into = scores + (page - low) * PAGE * 4
            i = 0
            while i + 8 <= n:
                _scores(form, kind, 8, queries + i * d * 4, d, own, following, into + i * width * 4, width)
                i += 8
            while i + 3 <= n:
                _scores(form, kind, 3, queries + i * d * 4, d, own, following, into + i * width * 4, width)
                i += 3
            while i < n:
                _scores(form, kind, 1, queries + i * d * 4, d, own, following, into + i * width * 4, width)
                i += 1
        for i in range(n):
            first = (max(0, where[i] - window + 1) if window > 0 else 0) - low * PAGE
            end = where[i] + 1 - low * PAGE
            row = carray(floats_at(scores + i * width * 4), ((stop - low) * PAGE,))
            row[:first] = np.float32(0)
            row[end:] = np.float32(0)
            _softmax(row[first:end], limit)
        carray(floats_at(out), (n * d,))[:] = np.float32(0)
        part = 0
        while part < d:
            # values are read in full where few queries leave enough registers, else one part after the other
            count, parts = (3, most) if n < 8 and part + 16 * most <= d else (8, wide)
            if part + 16 * parts > d:
                count, parts = 1, 1
            step = 16 * parts
            for page in range(low, stop):
                own = values + _at(table, page, shift, block_bytes, part_bytes) + begins
                scales, own = own + PAGE * d + part // GROUP * 2, own + part * size
                later = page + AHEAD  # past the last values: the first ones of the next part, or the next head's keys
                wrapped = min(low + later - stop, stop - 1)
                if later < stop:
                    following = values + _at(table, later, shift, block_bytes, part_bytes) + begins + part * size
                elif part + step < d:
                    following = values + _at(table, wrapped, shift, block_bytes, part_bytes) + begins
                    following += (part + step) * size
                else:
                    following = keys + _at(table, wrapped, shift, block_bytes, part_bytes) + begins
                    following += (part_bytes << shift) + part * size
                weights, into, line = scores + (page - low) * PAGE * 4, out + part * 4, width * 4
                i = 0
                while count == 8 and i + 8 <= n:
                    _read(form, kind, 8, wide, weights + i * line, width, own, scales, following, d, into + i * d * 4)
                    i += 8
                while count == 8 and i + 3 <= n:
                    _read(form, kind, 3, wide, weights + i * line, width, own, scales, following, d, into + i * d * 4)
                    i += 3
                while count == 3 and i + 3 <= n:
                    _read(form, kind, 3, most, weights + i * line, width, own, scales, following, d, into + i * d * 4)
                    i += 3
                while i < n:
                    if parts == 1:
                        _read(form, kind, 1, 1, weights + i * line, width, own, scales, following, d, into + i * d * 4)
                    elif parts == wide:
                        _read(
                            form, kind, 1, wide, weights + i * line, width, own, scales, following, d, into + i * d * 4
                        )
                    else:
                        _read(
                            form, kind, 1, most, weights + i * line, width, own, scales, following, d, into + i * d * 4
                        )
                    i += 1
            part += step
        return 0

    return attend


@functools.cache
def attention(kind: str, form: str | None = None) -> int:
    """The address of the kernel for keys and values of this kind, compiled; its arguments are those of `SIGNATURE`."""
    number = FORMS.index(form or forms()[0])
    made = cached(
        _attention(number, KINDS[kind]), nogil=True, error_model="numpy", fastmath=RELAXED, no_cfunc_wrapper=False
    )
    return address(made, SIGNATURE)
