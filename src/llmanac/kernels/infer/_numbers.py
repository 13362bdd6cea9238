"""How a pass writes numbers: keys and values to a page, and 32 inputs of a product in integers of 8 bits."""

# mypy: disable-error-code="no-untyped-def, call-arg"
# (numba types these functions itself)

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from llmanac.kernels.infer.machine import (
    FLOAT,
    HALF,
    I8,
    I32,
    ahead,
    apply,
    forms,
    load,
    pick,
    splat,
    store,
    vector,
)  # fmt: skip


@intrinsic
def put_half(typing_context, place, value):
    def generate(context, builder, signature, values):
        if forms() != ("plain",):  # whose keys are float32, and which may have no instruction for it
            store(builder, builder.fptrunc(values[1], HALF), values[0], 2)
        return context.get_dummy_value()

    return types.void(types.int64, types.float32), generate


@intrinsic
def put_code(typing_context, place, value):
    """A number as the nearest whole one of 8 bits."""

    def generate(context, builder, signature, values):
        whole = builder.fptosi(apply(builder, "llvm.rint.f32", FLOAT, values[1]), I32)
        store(builder, builder.trunc(whole, I8), values[0], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.float32), generate


@intrinsic
def put(typing_context, place, value):
    def generate(context, builder, signature, values):
        store(builder, values[1], values[0])
        return context.get_dummy_value()

    return types.void(types.int64, types.float32), generate


@intrinsic
def code_group(typing_context, x, codes, s, t, f):
    """32 numbers in 8-bit integers: their codes, scale, and sums: minus 128 times those of codes, scaled ones.

    Sums are three: of all codes, of the first 16 and of the last 16.
    """

    def generate(context, builder, signature, places):
        x, codes, s, t, f = places
        parts = [load(builder, vector(FLOAT), ahead(builder, x, 64 * i)) for i in range(2)]
        sizes = [apply(builder, "llvm.fabs.v16f32", part.type, part) for part in parts]
        most = builder.select(builder.fcmp_ordered(">", sizes[0], sizes[1]), *sizes)
        for half in (8, 4, 2, 1):
            pair = [pick(builder, most, list(range(n, n + half))) for n in (0, half)]
            most = builder.select(builder.fcmp_ordered(">", *pair), *pair)
        most = builder.extract_element(most, ir.Constant(I32, 0))
        zero, limit = ir.Constant(FLOAT, 0.0), ir.Constant(FLOAT, 127.0)
        factor = builder.select(builder.fcmp_ordered(">", most, zero), builder.fdiv(limit, most), zero)
        scale = builder.fmul(most, ir.Constant(FLOAT, 1 / 127))
        store(builder, scale, s)
        totals = []
        for i, part in enumerate(parts):
            rounded = apply(builder, "llvm.rint.v16f32", part.type, builder.fmul(part, splat(builder, factor)))
            whole = builder.fptosi(rounded, vector(I32))
            store(builder, builder.trunc(whole, vector(I8)), ahead(builder, codes, 16 * i), 1)
            for half in (8, 4, 2, 1):
                whole = builder.add(*(pick(builder, whole, list(range(n, n + half))) for n in (0, half)))
            totals.append(builder.extract_element(whole, ir.Constant(I32, 0)))
        for i, total in enumerate((builder.add(*totals), *totals)):
            store(builder, builder.mul(total, ir.Constant(I32, -128)), ahead(builder, t, 4 * i))
            store(builder, builder.fmul(scale, builder.sitofp(total, FLOAT)), ahead(builder, f, 4 * i))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), generate
