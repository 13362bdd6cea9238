r"""How a word-level tokenizer cuts text: by white space, or by any pattern that BPE can use.

`whitespace` is `\w+|[^\w\s]+` and `whitespace-split` is `\S+`, as the pre-tokenizers `Whitespace` and `WhitespaceSplit`
of Hugging Face have them: the white space itself is dropped, so a text comes back with one blank between its pieces.
Every other pattern keeps all of the text, white space included.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmanac.core.errors import SpecError, nearest
from llmanac.kernels import word_level, words
from llmanac.kernels.text import pack
from llmanac.tokenizers._patterns import NAMED, Splitter, pattern_of

WHITESPACE, WHITESPACE_SPLIT = "whitespace", "whitespace-split"
DROPPING = (WHITESPACE, WHITESPACE_SPLIT)


class WordSplitter:
    """Cuts text into words.

    Args:
        steps: regexes, one after the other, each within the pieces of the one before; nothing of the text is lost.
        dropping: `whitespace` or `whitespace-split` instead, which drop white space.

    Raises:
        SpecError: what is no regex.
    """

    def __init__(self, steps: Sequence[str] = (), dropping: str = "") -> None:
        self.steps, self.dropping = tuple(steps), dropping
        self._inner = Splitter(self.steps)
        self.mode = words.GIVEN  # `pack` finds the ends of all pieces

    @classmethod
    def named(cls, pattern: str) -> WordSplitter:
        """By one of the names, or by a regex. Raises SpecError for a name that is none."""
        if pattern in DROPPING:
            return cls(dropping=pattern)
        try:
            return cls([pattern_of(pattern)])
        except SpecError as error:
            if "no split pattern named" not in str(error):
                raise
            known = (*DROPPING, *NAMED)
            near = nearest(pattern, known)
            raise SpecError(f"no split pattern named {pattern!r}{near} (known: {', '.join(known)})") from None

    @property
    def classes(self) -> tuple[np.ndarray, np.ndarray]:
        """The class tables for the kernels."""
        return word_level.run_classes(self.dropping == WHITESPACE) if self.dropping else self._inner.classes

    def pack(self, texts: Sequence[str]) -> tuple[np.ndarray, int, np.ndarray]:
        """`(buffer, bytes in use, ends of its pieces)`. The texts hold no surrogates."""
        if self.dropping:
            buffer, used = pack([text.encode("utf-8") for text in texts])
            return buffer, used, word_level.run_ends(buffer, used, *self.classes)
        buffer, used, ends = self._inner.pack(texts)
        if self._inner.mode != words.GIVEN:
            ends = words.piece_ends(buffer, used, *self.classes, self._inner.mode)
        return buffer, used, ends

    def is_kept(self, word: bytes) -> bool:
        """Whether a piece becomes a token."""
        if not self.dropping:
            return True
        first = word.decode("utf-8")[:1]
        return not first or int(self.classes[1][ord(first)]) != word_level.SPACE
