"""Reading UTF-8 bytes at native speed from numba: unaligned loads, word keys, and the buffer that makes them safe.

Texts are joined by the byte 0xFF, which UTF-8 never contains, and the buffer ends with one more 0xFF and `PADDING`
bytes, so that reading two blocks of 64 bytes from the last character on stays inside it.
"""

# mypy: disable-error-code="assignment, call-arg"
# (numba types these functions itself)

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from llmanac.core.progress import announced
from llmanac.kernels.cache import keep
from llmanac.kernels.part import inner, widened

SEPARATOR = b"\xff"
PADDING = 192
ONE, EIGHT = np.uint64(1), np.uint64(8)
SIXTEEN, THREE = np.uint64(16), np.uint64(3)
ALL_ONES = np.uint64(0xFFFFFFFFFFFFFFFF)
MIX_A, MIX_B, MIX_C = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93), np.uint64(0xFF51AFD7ED558CCD)
HIGH_BITS = np.uint64(0x8080808080808080)
COMPILES = "compiling for this machine; it is done once and kept, and takes up to a minute"
_COMPILING: list[bool] = []  # whether a kernel is being compiled, and its parts with it
_COMPILED: list[str] = []


def cached(function: Callable[..., Any], **options: Any) -> Any:
    """`njit` whose compiled form is kept on disk until any file of kernels changes; `_cache.py` says where.

    Args:
        options: of numba's njit: `nogil` (only for a kernel whose arrays nobody else writes), `fastmath`, ...
    """
    return _announcing(keep(widened(njit(**{"no_cfunc_wrapper": True, **options})(function))))


def _announcing(dispatcher: Any) -> Any:
    """The same dispatcher, which says so when compiling takes long; of a kernel's parts only the whole speaks.

    Its compiler is wrapped, not itself: reading what is kept is no compilation, however long a busy disk takes.
    """
    if not hasattr(dispatcher, "_compiler"):  # numba is switched off, and the function is plain Python
        return dispatcher
    compiled = dispatcher._compiler.compile

    def compile(*signature: Any) -> Any:
        if _COMPILING:
            return compiled(*signature)
        _COMPILING.append(True)
        name = dispatcher.py_func.__qualname__
        try:
            with announced(COMPILES, len(_COMPILED), name):
                return compiled(*signature)
        finally:
            _COMPILING.clear()
            _COMPILED.append(name)

    dispatcher._compiler.compile = compile
    return dispatcher


def compiled() -> list[str]:
    """The kernels that this process compiled so far, in order; what was read from the disk is not among them."""
    return list(_COMPILED)


def pack(texts: Sequence[bytes]) -> tuple[np.ndarray, int]:
    """`(buffer, bytes in use)`: the texts, each followed by 0xFF, then padding."""
    joined = SEPARATOR.join([*texts, bytes(PADDING)])
    return np.frombuffer(joined, np.uint8), len(joined) - PADDING


def _load(bits: int, kind: Any) -> Any:
    @intrinsic
    def load(typing_context, address):
        def generate(context, builder, signature, arguments):
            pointer = builder.inttoptr(arguments[0], ir.PointerType(ir.IntType(bits)))
            return builder.load(pointer, align=1)

        return kind(types.uint64), generate

    return load


def _store(bits: int) -> Any:
    @intrinsic
    def store(typing_context, address, value):
        def generate(context, builder, signature, arguments):
            kind = ir.IntType(bits)
            value = arguments[1] if bits == 64 else builder.trunc(arguments[1], kind)
            builder.store(value, builder.inttoptr(arguments[0], kind.as_pointer()), align=1)
            return context.get_dummy_value()

        return types.void(types.uint64, types.uint64), generate

    return store


load_byte = _load(8, types.uint8)
load_pair = _load(16, types.uint16)
load_word = _load(64, types.uint64)
store_word, store_half = _store(64), _store(32)  # eight and the lower four bytes of a number, at any address


@intrinsic
def add_one(typing_context, address):
    """Add one to the 64-bit number at an address."""

    def generate(context, builder, signature, arguments):
        pointer = builder.inttoptr(arguments[0], ir.PointerType(ir.IntType(64)))
        builder.store(builder.add(builder.load(pointer, align=8), ir.Constant(ir.IntType(64), 1)), pointer, align=8)
        return context.get_dummy_value()

    return types.void(types.uint64), generate


@intrinsic
def borrowed(typing_context, array):
    """An array whose references are not counted, for as long as its owner is kept by somebody else.

    Each call that takes an array counts a reference with an atomic operation, which costs more than a look-up.
    """

    def generate(context, builder, signature, arguments):
        kind = context.make_array(signature.return_type)
        found = kind(context, builder, value=arguments[0])
        found.meminfo = ir.Constant(found.meminfo.type, None)
        found.parent = ir.Constant(found.parent.type, None)
        return found._getvalue()

    return array(array), generate


@intrinsic
def trailing_zeros(typing_context, value):
    """Number of zero bits below the lowest one bit."""

    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), generate


@intrinsic
def count_ones(typing_context, value):
    """Number of one bits."""

    def generate(context, builder, signature, arguments):
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


@intrinsic
def prefetch(typing_context, address):
    """Ask the processor to bring a cache line in, without waiting for it."""

    def generate(context, builder, signature, arguments):
        i32, pointer_type = ir.IntType(32), ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [pointer_type, i32, i32, i32])
        function = builder.module.declare_intrinsic("llvm.prefetch", (pointer_type,), kind)
        pointer = builder.inttoptr(arguments[0], pointer_type)
        builder.call(function, [pointer, ir.Constant(i32, 0), ir.Constant(i32, 3), ir.Constant(i32, 1)])
        return context.get_dummy_value()

    return types.void(types.uint64), generate


@inner(forceinline=True)
def mix(key):
    """Spread a 64-bit key over all its bits."""
    key ^= key >> np.uint64(32)
    key *= MIX_A
    key ^= key >> np.uint64(29)
    return key


@inner(forceinline=True)
def hash_of(first, second, length):
    """Hash of a word's key."""
    value = (first ^ (second * MIX_C) ^ length) * MIX_A
    return value ^ (value >> np.uint64(32))


@inner(forceinline=True)
def word_key(address, length):
    """`(first, second)` 64-bit keys of the bytes at an address: the bytes themselves up to 16, else two hashes."""
    if length <= EIGHT:
        first = load_word(address) & (ALL_ONES >> ((EIGHT - length) << THREE))
        return first, np.uint64(0)
    if length <= SIXTEEN:
        second = load_word(address + EIGHT) & (ALL_ONES >> ((SIXTEEN - length) << THREE))
        return load_word(address), second
    return _long_key(address, length)


@inner
def _long_key(address, length):
    first, second = np.uint64(0x243F6A8885A308D3), length
    last = address + length - EIGHT
    while address < last:
        eight = load_word(address)
        first = (first ^ eight) * MIX_A
        first ^= first >> np.uint64(29)
        second = (second + eight) * MIX_B
        second ^= second >> np.uint64(31)
        address += EIGHT
    eight = load_word(last)
    first = (first ^ eight) * MIX_A
    first ^= first >> np.uint64(29)
    second = (second + eight) * MIX_B
    second ^= second >> np.uint64(31)
    return first, second


@inner
def same_bytes(left, right, length):
    """Whether two addresses hold the same `length` bytes."""
    for i in range(length):  # noqa: SIM110 (numba has no generators)
        if load_byte(left + np.uint64(i)) != load_byte(right + np.uint64(i)):
            return False
    return True


@inner(forceinline=True)
def character_length(byte):
    """Bytes of the UTF-8 character that a byte begins."""
    if byte < 0xC0:
        return 1
    if byte < 0xE0:
        return 2
    return 3 if byte < 0xF0 else 4


@inner(forceinline=True)
def code_point(buffer, at):
    """The code point of the UTF-8 character that starts at an index of a byte array."""
    first = np.int64(buffer[at])
    if first < 0x80:
        return first
    if first < 0xE0:
        return (first & 31) << 6 | np.int64(buffer[at + 1]) & 63
    middle = (np.int64(buffer[at + 1]) & 63) << 6 | np.int64(buffer[at + 2]) & 63
    if first < 0xF0:
        return (first & 15) << 12 | middle
    return (first & 7) << 18 | middle << 6 | np.int64(buffer[at + 3]) & 63


@inner(forceinline=True)
def _continues(at, low, high):
    """Whether the byte at an address is between two others."""
    byte = load_byte(at)
    return byte >= low and byte <= high


@inner
def _character_end(at):
    """Where the UTF-8 character at an address ends, or the address itself if there is none."""
    first, tail = load_byte(at), at + np.uint64(2)
    if first < 0x80:
        return at + ONE
    if first < 0xC2 or first > 0xF4:
        return at
    if first < 0xE0:
        return tail if _continues(at + ONE, 0x80, 0xBF) else at
    low, high = 0x80, 0xBF  # of the second byte: no longer form than needed, no surrogate, nothing above U+10FFFF
    if first == 0xE0:
        low = 0xA0
    elif first == 0xED:
        high = 0x9F
    elif first == 0xF0:
        low = 0x90
    elif first == 0xF4:
        high = 0x8F
    if not _continues(at + ONE, low, high) or not _continues(tail, 0x80, 0xBF):
        return at
    if first < 0xF0:
        return tail + ONE
    return tail + np.uint64(2) if _continues(tail + ONE, 0x80, 0xBF) else at


@partial(cached, nogil=True)
def is_utf8(buffer, used):
    """Whether the bytes before `buffer[used]`, which is 0xFF, are UTF-8; 64 at a time where they are ASCII."""
    at = np.uint64(buffer.ctypes.data)
    stop = at + np.uint64(used)
    while at < stop:
        if at + np.uint64(64) <= stop:
            above = np.uint64(0)
            for i in range(8):
                above |= load_word(at + np.uint64(8 * i))
            if above & HIGH_BITS == 0:
                at += np.uint64(64)
                continue
        until = min(at + np.uint64(64), stop)
        while at < until:
            end = _character_end(at)
            if end == at:
                return False
            at = end
    return at == stop


@inner(forceinline=True)
def random_bits(state):
    """64 random bits (splitmix64; Steele, Lea, Flood 2014); advances the (1,) uint64 state."""
    state[0] += MIX_A
    bits = state[0]
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


@njit
def slots_for(entries):
    """A power of two of slots for a hash table that is at most half full."""
    size = 16
    while size < 2 * entries + 2:
        size *= 2
    return size


@inner
def grown_rows(table, needed):
    """A copy of a table with room for `needed` rows, at least doubled."""
    larger = np.empty((max(table.shape[0] * 2, needed), table.shape[1]), table.dtype)
    for i in range(table.shape[0]):
        for column in range(table.shape[1]):
            larger[i, column] = table[i, column]
    return larger


@inner
def grown(array, needed):
    """A copy of a one-dimensional array with room for `needed` items, at least doubled."""
    larger = np.empty(max(array.shape[0] * 2, needed), array.dtype)
    for i in range(array.shape[0]):  # a loop: slices cost numba seconds of compilation
        larger[i] = array[i]
    return larger
