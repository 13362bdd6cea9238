"""Lists of integers from arrays of ids, without making the integers: those of a vocabulary are made once and shared.

`ndarray.tolist` makes an object of 32 bytes for each id, which takes longer than finding the id. Here a kernel puts
integers that exist already into a list, through two functions of Python's stable C interface (`Py_IncRef` and
`PyList_SetItem`). It holds the interpreter's lock, and the list is a valid one of `None`s from the start.
"""

# mypy: disable-error-code="call-arg"
# (numba types these functions itself)

import ctypes
import functools
import threading
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from llmanac.kernels.text import cached

SHORT = 512  # ids; of fewer, making the integers costs nothing that counts
_LOCK = threading.Lock()
_integers: tuple[np.ndarray, np.ndarray] = (np.empty(0, object), np.empty(0, np.uint64))


@intrinsic
def _put(typing_context, incref, set_item, into, at, item):
    """Put an object into a list, given the addresses of the two functions, of the list and of the object."""

    def generate(context, builder, signature, arguments):
        word = ir.IntType(64)
        count, put = (
            builder.inttoptr(address, ir.FunctionType(result, taken).as_pointer())
            for address, result, taken in (
                (arguments[0], ir.VoidType(), [word]),
                (arguments[1], ir.IntType(32), [word, word, word]),
            )
        )
        builder.call(count, [arguments[4]])
        builder.call(put, arguments[2:])
        return context.get_dummy_value()

    return types.void(*[types.uint64] * 5), generate


@cached
def _fill(ids, objects, into, incref, set_item):
    """Put the object of each id into a list; returns how many there were before one that has none."""
    for i in range(ids.shape[0]):
        if np.uint32(ids[i]) >= objects.shape[0]:
            return i
        _put(incref, set_item, into, np.uint64(i), objects[ids[i]])
    return ids.shape[0]


@functools.cache
def _functions() -> tuple[np.uint64, np.uint64]:
    names = ctypes.pythonapi.Py_IncRef, ctypes.pythonapi.PyList_SetItem
    incref, set_item = (np.uint64(ctypes.cast(name, ctypes.c_void_p).value or 0) for name in names)
    return incref, set_item


def _objects(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The integers from 0 to at least `count` - 1, which must be kept while their addresses are used, and those."""
    global _integers
    with _LOCK:
        if len(_integers[0]) < count:
            made = np.arange(count).astype(object)
            held: Any = (ctypes.c_uint64 * count).from_address(made.ctypes.data)
            _integers = made, np.frombuffer(held, np.uint64)
        return _integers


def listed(ids: np.ndarray, count: int) -> list[int]:
    """`ids.tolist()` of (n,) int32 ids that are below `count`."""
    if len(ids) < SHORT or not hasattr(_fill, "_compiler"):  # numba is switched off
        return ids.tolist()
    kept, addresses = _objects(count)
    made: list[Any] = [None] * len(ids)
    done = _fill(ids, addresses, np.uint64(id(made)), *_functions())
    del kept
    return made if done == len(ids) else ids.tolist()
