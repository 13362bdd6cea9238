r"""How a word-level tokenizer cuts text: by white space, or by any pattern that BPE can use.

`whitespace` is `\w+|[^\w\s]+` and `whitespace-split` is `\S+`, as the pre-tokenizers `Whitespace` and `WhitespaceSplit`
of Hugging Face have them: the white space itself is dropped, so a text comes back with one blank between its pieces.
Every other pattern keeps all of the text, white space included.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmanac.core.errors import SpecError, nearest
from llmanac.kernels.split import word_level, words
from llmanac.kernels.text import pack
from llmanac.tokenizers.patterns.splitter import NAMED, UNKNOWN, Splitter, pattern_of

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
        """By one of the names, or by a regex. Raises SpecError for an unknown name."""
        if pattern in DROPPING:
            return cls(dropping=pattern)
        try:
            return cls([pattern_of(pattern)])
        except SpecError as error:
            if error.code != UNKNOWN:
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

    def is_space(self, character: str) -> bool:
        """Whether a character is white space, by the property that the pieces follow."""
        return int(word_level.run_classes(False)[1][ord(character)]) == word_level.SPACE

    def kept(self, letters: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """(words,) bool: whether each of the distinct pieces that were counted becomes a token."""
        firsts = offsets[:-1]
        if not self.dropping:
            return np.ones(len(firsts), bool)
        classes = self.classes[0][letters[firsts]]
        chosen = classes != word_level.SPACE
        for word in np.flatnonzero(classes == word_level.MULTIBYTE).tolist():
            start = letters[firsts[word] : firsts[word] + 4].tobytes()
            chosen[word] = not self.is_space(start.decode("utf-8", "ignore")[0])
        return chosen
