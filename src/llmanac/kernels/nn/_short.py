"""bfloat16 in numba loops: numbers are read as float32, computed with, and rounded once where they are stored.

numba has no such type, so an array of it comes as its bits, uint16. `widen` and `narrow` leave float32 and float64 as
they are, so that one loop serves all three: float64 to compare it with the plain formula, bfloat16 to train.
"""

# mypy: disable-error-code="no-untyped-def, call-arg"
# (numba types these functions itself)

import concurrent.futures
import functools
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload
from torch import Tensor

from llmanac.kernels.nn._exponential import RELAXED, exp2
from llmanac.kernels.text import cached

PIECE = 1 << 15  # numbers below which a second thread is not worth its start


@intrinsic
def _to_float(context: Any, bits: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = ir.IntType(32)
        high = builder.shl(builder.zext(arguments[0], word), ir.Constant(word, 16))
        return builder.bitcast(high, ir.FloatType())

    return types.float32(types.uint16), generate


@intrinsic
def _to_bits(context: Any, x: Any) -> Any:
    """To the nearest, ties to even, as torch rounds; NaN stays NaN."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word, short = ir.IntType(32), ir.IntType(16)
        bits = builder.bitcast(arguments[0], word)
        odd = builder.and_(builder.lshr(bits, ir.Constant(word, 16)), ir.Constant(word, 1))
        rounded = builder.add(bits, builder.add(odd, ir.Constant(word, 0x7FFF)))
        nan = builder.fcmp_unordered("uno", arguments[0], arguments[0])
        kept = builder.select(nan, ir.Constant(word, 0x7FC00000), rounded)
        return builder.trunc(builder.lshr(kept, ir.Constant(word, 16)), short)

    return types.uint16(types.float32), generate


def widen(x):
    """A stored number as the one to compute with."""
    return x


@overload(widen, inline="always")
def _widen(x):
    return (lambda x: _to_float(x)) if x == types.uint16 else (lambda x: x)


def narrow(x, like):
    """A computed number as it is stored in an array of which `like` is an element."""
    return x


@overload(narrow, inline="always")
def _narrow(x, like):
    return (lambda x, like: _to_bits(x)) if like == types.uint16 else (lambda x, like: x)


@intrinsic
def _ordered(context: Any, bits: Any) -> Any:
    """Bits as an int16 that is larger where the number is; it is its own inverse. NaN is above all, or below all."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        short = ir.IntType(16)
        sign = builder.ashr(arguments[0], ir.Constant(short, 15))
        return builder.xor(arguments[0], builder.and_(sign, ir.Constant(short, 0x7FFF)))

    return (types.int16 if bits == types.uint16 else types.uint16)(bits), generate


def largest(row):
    """The largest of stored numbers, one at least."""
    return row.max()


@overload(largest, jit_options={"fastmath": {"nnan", "nsz", "reassoc"}})
def _largest(row):
    return _largest_short if row.dtype == types.uint16 else _largest_plain


def _largest_short(row):
    top: Any = _ordered(row[0])
    for j in range(len(row)):
        x = _ordered(row[j])
        top = x if x > top else top
    return _to_float(_ordered(top))


def _largest_plain(row):
    top: Any = row[0]
    for j in range(len(row)):
        top = row[j] if row[j] > top else top
    return top


# Functions of their own, since LLVM vectorises the loops of a softmax in that form only.
def _exponentials(row, made, factor, shift):
    """made = 2^(factor row - shift), of a row of stored numbers; returns the sum."""
    total = factor * 0
    for j in range(len(row)):
        e = exp2(widen(row[j]) * factor - shift)
        made[j] = e
        total += e
    return total


def _store(row, made, share):
    """row = share made."""
    for j in range(len(row)):
        row[j] = narrow(made[j] * share, row[j])


exponentials, store = (cached(loop, nogil=True, fastmath=RELAXED) for loop in (_exponentials, _store))


def array(x: Tensor) -> Any:
    """The memory of a contiguous tensor as a numpy array of its shape; bfloat16 as uint16."""
    x = x.detach()
    return (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()


def kind(x: Tensor) -> Any:
    """The numpy type that a loop over `x` computes in."""
    return np.float64 if x.dtype == torch.float64 else np.float32


@functools.lru_cache(maxsize=1)
def _pool(threads: int, process: int) -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="loops")


def in_pieces(loop: Callable[..., None], count: int, size: int, *arguments: Any, piece: int = 1) -> None:
    """`loop(start, stop, *arguments)` over `count` items of `size` numbers, in as many parts as torch has threads.

    Args:
        piece: parts begin at multiples of it. A loop whose sums are kept for each piece gives the same ones whatever
            the number of threads.
    """
    threads = min(torch.get_num_threads(), count * size // PIECE, -(-count // piece))
    if threads <= 1:
        loop(0, count, *arguments)
        return
    step = -(-count // (threads * piece)) * piece
    parts = [(start, min(start + step, count)) for start in range(0, count, step)]
    running = [_pool(torch.get_num_threads(), os.getpid()).submit(loop, *part, *arguments) for part in parts[1:]]
    loop(*parts[0], *arguments)
    for one in running:
        one.result()
