"""The words of a document, counted once for all the filters that look at it in a row."""

import functools
from typing import NamedTuple

import numpy as np

from llmanac.kernels.english import words as english


class WordSpans(NamedTuple):
    """The code points of a text and where its words are in them: `text[starts[i] : ends[i]]`."""

    text: np.ndarray
    starts: np.ndarray
    ends: np.ndarray


@functools.lru_cache(maxsize=2)
def code_points(text: str) -> np.ndarray:
    """(n,) uint32."""
    return english.code_points(text)


@functools.lru_cache(maxsize=2)
def words_of(text: str) -> WordSpans:
    """The words of a text, by the English rules of the filters' reference."""
    points = code_points(text)
    return WordSpans(points, *english.words(points, *english.tables()))
