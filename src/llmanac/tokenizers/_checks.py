"""The arguments of `encode` and `decode`: texts, and ids in a list, an array or a tensor."""

import operator
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from llmanac.core.errors import TokenizerError


def id_list(ids: Iterable[Any], caller: str = "decode") -> list[int]:
    """The ids of a list, a one-dimensional array or tensor, or another iterable of integers.

    Raises:
        TokenizerError: not such a list, or an item that is not an integer; the message says which.
    """
    if hasattr(ids, "tolist"):
        found = ids.tolist()
        if not isinstance(found, list):
            raise TokenizerError(f"{caller}: expected a list of ids, got a single {type(found).__name__}")
        one_kind = (isinstance(ids, np.ndarray) and ids.dtype != object) or type(ids).__module__ == "torch"
        if one_kind and type(found[0] if found else 0) is int:
            return found
    else:
        try:
            found = list(ids)
        except TypeError:
            raise TokenizerError(
                f"{caller}: expected a list of ids, got {type(ids).__name__} {repr(ids)[:40]}"
            ) from None
    if set(map(type, found)) <= {int}:  # no slower than the numbers are looked up
        return found
    return [_whole(id, place, caller) for place, id in enumerate(found)]


def _whole(id: Any, place: int, caller: str) -> int:
    """An id as `int`: also numpy's integers and tensors of one number, but neither True nor 1.5, which are no ids."""
    is_bool = isinstance(id, (bool, np.bool_)) or str(getattr(id, "dtype", "")).endswith("bool")
    if not is_bool and not getattr(id, "ndim", 0):
        try:
            return operator.index(id)
        except (TypeError, ValueError, RuntimeError):  # torch has reasons of its own
            pass
    raise TokenizerError(
        f"{caller}: ids[{place}] is {type(id).__name__} {repr(id)[:40]}, not a whole number; give the ids of one text"
    )


def require_texts(texts: Sequence[str]) -> None:
    """Raises TokenizerError unless every item is a text."""
    if isinstance(texts, str):
        raise TokenizerError("encode_batch: expected a list of texts, got one text; use encode")
    for text in texts:
        if not isinstance(text, str):
            raise TokenizerError(f"encode: expected str, got {type(text).__name__} {str(text)[:40]!r}")
