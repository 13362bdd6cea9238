"""How long a text is, in the units that likelihoods are divided by."""

import re
from collections.abc import Callable, Sequence

import numpy as np

_SPACE = re.compile(r"\s+")


def words(text: str) -> int:
    """Words as lm-eval counts them: the parts between runs of white space, so white space at an end adds an empty one
    and an empty text counts 1. Word perplexities of others can only be met with the same count."""
    return len(_SPACE.split(text))


def utf8_bytes(text: str) -> int:
    """Bytes of the text in UTF-8, surrogate pairs joined and lone ones read as U+FFFD, as tokenizers read them."""
    try:
        return len(text.encode("utf-8"))
    except UnicodeEncodeError:
        return len(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode("utf-8"))


UNITS: dict[str, Callable[[str], int]] = {"character": len, "byte": utf8_bytes, "word": words}


def sizes(texts: Sequence[str], unit: str) -> np.ndarray:
    """The length of each text in `character`, `byte` or `word`, (N,) int64."""
    return np.fromiter((UNITS[unit](text) for text in texts), np.int64, len(texts))
