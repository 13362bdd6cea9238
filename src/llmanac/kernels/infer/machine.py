"""What compiled decoding needs of the machine: the form of its vector code, calls by address, threads that meet.

A kernel is compiled by itself and called by its address, so that the forward pass is the same code whatever formats its
matrices have and whatever the processor can do.
"""

# mypy: disable-error-code="no-untyped-def, call-arg, var-annotated, attr-defined"
# (numba types these functions itself)

import functools
import os
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import config, types
from numba.extending import intrinsic

from llmanac.kernels.text import inner

FORMS = ("plain", "avx2", "vnni")
PLAIN, AVX2, VNNI = range(3)
NEEDS = {"avx2": ("avx2", "fma", "f16c"), "vnni": ("avx512f", "avx512bw", "avx512vl", "avx512vnni", "f16c")}
I8, I16, I32, I64, HALF, FLOAT = (
    ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.HalfType(), ir.FloatType()
)  # fmt: skip
LANES = 16
PATIENCE = 2000  # looks at a barrier before a thread lets others run


@functools.cache
def forms() -> tuple[str, ...]:
    """The forms that numba can compile here, best first: NUMBA_CPU_FEATURES may allow less than the processor has."""
    if config.CPU_FEATURES is None:
        features = {name for name, there in llvm.get_host_cpu_features().items() if there}
    else:  # of a processor that NUMBA_CPU_NAME calls generic, none
        features = {name[1:] for name in config.CPU_FEATURES.split(",") if name.startswith("+")}
    return tuple(f for f in reversed(FORMS) if features.issuperset(NEEDS.get(f, ())))


def address(kernel: Any, signature: Any) -> int:
    """Where the compiled form of a `cached` function begins; it takes and returns 64-bit integers, as in C."""
    kernel.compile(signature)
    made = kernel.overloads[signature.args]
    return int(made.library.get_pointer_to_function(made.fndesc.llvm_cfunc_wrapper_name))


@intrinsic
def call(typing_context, place, arguments):
    """Call what is at an address with a tuple of 64-bit integers."""

    def generate(context, builder, signature, values):
        count = len(signature.args[1])
        kind = ir.FunctionType(I64, [I64] * count)
        function = builder.inttoptr(values[0], kind.as_pointer())
        builder.call(function, [builder.extract_value(values[1], i) for i in range(count)])
        return context.get_dummy_value()

    return types.void(types.int64, types.UniTuple(types.int64, len(arguments))), generate


@intrinsic
def _arrive(typing_context, place):
    """Add one to the counter at an address, for all threads to see; returns what it was."""

    def generate(context, builder, signature, values):
        pointer = builder.inttoptr(values[0], I64.as_pointer())
        return builder.atomic_rmw("add", pointer, ir.Constant(I64, 1), "seq_cst")

    return types.int64(types.int64), generate


@intrinsic
def _look(typing_context, place):
    """The counter at an address, as other threads left it."""

    def generate(context, builder, signature, values):
        return builder.load_atomic(builder.inttoptr(values[0], I64.as_pointer()), "acquire", 8)

    return types.int64(types.int64), generate


@intrinsic
def _step_aside(typing_context):
    """Let another thread have the processor, where the system has a call for it."""

    def generate(context, builder, signature, values):
        if os.name == "posix":
            kind = ir.FunctionType(I32, [])
            function = builder.module.globals.get("sched_yield") or ir.Function(builder.module, kind, "sched_yield")
            builder.call(function, [])
        return context.get_dummy_value()

    return types.void(), generate


@inner
def meet(counter, threads):
    """Wait until all threads are here; what they wrote before is there for all of them afterwards."""
    if threads > 1:
        before = _arrive(counter)
        target = (before // threads + 1) * threads
        looks = 0
        while _look(counter) < target:
            looks += 1
            if looks > PATIENCE:
                _step_aside()


# ---------------------------------------------------------------- pieces of vector code, for intrinsics
def literal(kind: Any) -> int:
    """The value of an argument that is written as a number where the intrinsic is called."""
    return int(kind.literal_value)


def vector(kind: Any, count: int = LANES) -> Any:
    return ir.VectorType(kind, count)


def constant(kind: Any, value: Any, count: int = LANES) -> Any:
    return ir.Constant(vector(kind, count), [value] * count)


def load(builder: Any, kind: Any, place: Any, align: int = 4) -> Any:
    """What is at an address (an i64)."""
    return builder.load(builder.inttoptr(place, kind.as_pointer()), align=align)


def store(builder: Any, value: Any, place: Any, align: int = 4) -> None:
    builder.store(value, builder.inttoptr(place, value.type.as_pointer()), align=align)


def bring(builder: Any, place: Any) -> None:
    """Ask for a cache line without waiting for it."""
    kind = ir.FunctionType(ir.VoidType(), [I8.as_pointer(), I32, I32, I32])
    function = builder.module.declare_intrinsic("llvm.prefetch", (I8.as_pointer(),), kind)
    pointer = builder.inttoptr(place, I8.as_pointer())
    builder.call(function, [pointer, ir.Constant(I32, 0), ir.Constant(I32, 2), ir.Constant(I32, 1)])


def ahead(builder: Any, place: Any, step: Any) -> Any:
    """An address some bytes (a number or an i64) further."""
    return builder.add(place, ir.Constant(I64, step) if isinstance(step, int) else step)


def splat(builder: Any, value: Any, count: int = LANES) -> Any:
    """A vector of one value."""
    kind = vector(value.type, count)
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(I32, 0))
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), ir.Constant(vector(I32, count), [0] * count))


def pick(builder: Any, value: Any, lanes: list[int], other: Any = None) -> Any:
    """These lanes of a vector (and of another one, whose lanes follow)."""
    other = ir.Constant(value.type, ir.Undefined) if other is None else other
    return builder.shuffle_vector(value, other, ir.Constant(vector(I32, len(lanes)), lanes))


def apply(builder: Any, name: str, result: Any, *values: Any) -> Any:
    """Call an LLVM intrinsic."""
    kind = ir.FunctionType(result, [v.type for v in values])
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    return builder.call(function, list(values))


def fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a b + c, rounded once."""
    name = "llvm.fma.f32" if a.type == FLOAT else f"llvm.fma.v{a.type.count}f32"
    return apply(builder, name, a.type, a, b, c)


def widened(builder: Any, form: int, halves: Any) -> Any:
    """Halves, given as 16-bit integers, in float32: exact, and where there is no instruction too."""
    count = halves.type.count
    if form != PLAIN:
        return builder.fpext(builder.bitcast(halves, vector(HALF, count)), vector(FLOAT, count))
    bits = builder.zext(halves, vector(I32, count))
    size = builder.shl(builder.and_(bits, constant(I32, 0x7FFF, count)), constant(I32, 13, count))
    value = builder.fmul(builder.bitcast(size, vector(FLOAT, count)), constant(FLOAT, float(2**112), count))
    sign = builder.shl(builder.and_(bits, constant(I32, 0x8000, count)), constant(I32, 16, count))
    return builder.bitcast(builder.or_(builder.bitcast(value, vector(I32, count)), sign), vector(FLOAT, count))


def summed(builder: Any, value: Any) -> Any:
    """The sum of 16 lanes, always in the same order: halves onto each other."""
    for half in (8, 4, 2, 1):
        lower, upper = pick(builder, value, list(range(half))), pick(builder, value, list(range(half, 2 * half)))
        value = builder.fadd(lower, upper)
    return builder.extract_element(value, ir.Constant(I32, 0))
