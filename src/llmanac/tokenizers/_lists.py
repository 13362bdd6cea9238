"""Lists of ids made from Python integers that exist already, several times as fast as `ndarray.tolist` makes them.

CPython keeps a list as an array of addresses. A small kernel writes those of the integers there and counts the
references to them; before it is used, a list made this way is compared with an ordinary one. Where that differs
(another interpreter, no lock, no compiled code), numpy makes the list.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import sysconfig
from typing import Any

import numpy as np

from llmanac.kernels.lists import fill

ITEMS = 24  # bytes of a list's head, before the address of its array
FEW = 64  # ids; below this, `tolist` is as fast


class Numbers:
    """The integers from 0 to `count - 1`, of which lists are made."""

    def __init__(self, count: int) -> None:
        self._all = np.array(range(count), dtype=object)

    def list_of(self, ids: np.ndarray) -> list[int]:
        """A list of (n,) int32 ids, each of them at least 0 and below `count`."""
        if len(ids) <= FEW:
            return ids.tolist()  # type: ignore[no-any-return]
        if not _fills():
            return self._all.take(ids).tolist()  # type: ignore[no-any-return]
        return _filled(self._all, ids)


def _filled(numbers: np.ndarray, ids: np.ndarray) -> list[int]:
    made = _new_list()(len(ids))
    fill(np.uint64(id(made) + ITEMS), np.uint64(numbers.ctypes.data), ids)
    return made  # type: ignore[no-any-return]


@functools.cache
def _new_list() -> Any:
    """`PyList_New`: a list of so many places, all of them empty."""
    found = ctypes.pythonapi.PyList_New
    found.restype, found.argtypes = ctypes.py_object, [ctypes.c_ssize_t]
    return found


@functools.cache
def _fills() -> bool:
    """Whether lists may be filled here."""
    head = list.__basicsize__ == ITEMS + 16 and tuple.__basicsize__ == ITEMS and object.__basicsize__ == 16
    locked = not sysconfig.get_config_var("Py_GIL_DISABLED")
    if sys.implementation.name != "cpython" or not head or not locked or not hasattr(fill, "signatures"):
        return False
    numbers = np.array([0, 1000, 2000], dtype=object)
    before = sys.getrefcount(numbers[1])
    made = _filled(numbers, np.array([2, 1, 0, 1], np.int32))
    return made == [2000, 1000, 0, 1000] and sys.getrefcount(numbers[1]) == before + 2
