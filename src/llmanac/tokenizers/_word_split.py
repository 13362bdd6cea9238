r"""How a word-level tokenizer cuts text: by white space, or by any pattern that BPE can use.

`whitespace` is `\w+|[^\w\s]+` and `whitespace-split` is `\S+`, as the pre-tokenizers `Whitespace` and `WhitespaceSplit`
of Hugging Face have them: the white space itself is dropped, so a text comes back with one blank between its pieces.
Every other pattern keeps all of the text, white space included.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmanac.kernels import word_level, words
from llmanac.kernels.text import pack
from llmanac.tokenizers._patterns import Splitter, pattern_of

WHITESPACE, WHITESPACE_SPLIT = "whitespace", "whitespace-split"
DROPPING = (WHITESPACE, WHITESPACE_SPLIT)


class WordSplitter:
    """Cuts text into words.

    Attributes:
        steps: the patterns, one after the other; `whitespace` or `whitespace-split`, alone, drops white space.
        drops_space: whether pieces of white space are left out.

    Raises:
        SpecError: an unknown name, or no regex.
    """

    def __init__(self, steps: Sequence[str]) -> None:
        self.drops_space = len(steps) == 1 and steps[0] in DROPPING
        self.steps = tuple(steps) if self.drops_space else tuple(map(pattern_of, steps))
        self._inner = Splitter([] if self.drops_space else self.steps)
        self.mode = words.GIVEN
        self.kernel_mode = self._inner.mode

    @property
    def classes(self) -> tuple[np.ndarray, np.ndarray]:
        """The class tables for the kernels."""
        if self.drops_space:
            return word_level.run_classes(self.steps[0] == WHITESPACE)
        return self._inner.classes

    def pack(self, texts: Sequence[str]) -> tuple[np.ndarray, int, np.ndarray]:
        """`(buffer, bytes in use, ends of its pieces)`. The texts hold no surrogates."""
        if self.drops_space:
            buffer, used = pack([text.encode("utf-8") for text in texts])
            return buffer, used, word_level.run_ends(buffer, used, *self.classes)
        buffer, used, ends = self._inner.pack(texts)
        if self.kernel_mode != words.GIVEN:
            ends = words.piece_ends(buffer, used, *self.classes, self.kernel_mode)
        return buffer, used, ends

    def is_kept(self, word: bytes) -> bool:
        """Whether a piece becomes a token."""
        if not self.drops_space:
            return True
        first = word.decode("utf-8")[:1]
        return not first or int(self.classes[1][ord(first)]) != word_level.SPACE
