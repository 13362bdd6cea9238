"""How text is cut into pieces before BPE: patterns by name or as a regex, with a numba kernel for the usual ones.

A pattern has the meaning that it has in a `tokenizer.json`: Oniguruma's. Without a kernel it runs in the `regex`
module, rewritten (`oniguruma.py`). Its Unicode version is newer than the one that tiktoken and Hugging Face
tokenizers are built with, so characters assigned since then are shown to it as unassigned.
"""

import re
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import regex

from llmanac.core.errors import SpecError, TokenizerError, nearest
from llmanac.kernels.split import words
from llmanac.kernels.text import pack
from llmanac.kernels.unicode import CATEGORIES, CATEGORY_MASK, newer_characters, split_classes, table
from llmanac.tokenizers.patterns.oniguruma import translated

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# cl100k as tiktoken has it today: unlike Llama-3's, white space at the very end is one piece.
GPT4 = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s+\z|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN3 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_UPPER, _LOWER, _TAIL = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}", "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
O200K = "|".join(
    [
        rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]*[{_LOWER}]+{_TAIL}",
        rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]+[{_LOWER}]*{_TAIL}",
        r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+",
    ]
)  # fmt: skip
UNKNOWN = "unknown-pattern"  # the code of an error
NAMED = {"gpt2": GPT2, "gpt4": GPT4, "llama3": LLAMA3, "o200k": O200K, "qwen3": QWEN3}
# Places where every pattern of NAMED ends a piece in any context, so that cutting there changes no piece: before white
# space that no pattern joins to what is before it, between two lines of which neither is blank there, and, for scripts
# without blanks, between a letter or number and a mark of punctuation that no pattern joins to it (an apostrophe is).
SPACED = re.compile(r"(?<=\S)(?= )|(?<=[^\W_])(?=[\t\r\n])|(?<=\S\n)(?=[^\s/])")
CUT = re.compile(
    SPACED.pattern + r"|(?<=[^\W_])(?=[,.;:!?()\u3001\u3002\uff0c\uff0e\uff01\uff1f\uff1a\uff1b\u300c\u0964])"
)
DIGIT, DIGITS = r"\p{N}", r"\p{N}+"  # what a `Digits` step sets apart

# Other spellings that mean the same, and the kernel for each.
_KERNELS = {
    GPT2: words.GPT2,
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": words.GPT2,
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s": words.GPT2,
    GPT4: words.GPT4,
    LLAMA3: words.LLAMA3,
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+": words.LLAMA3,
    QWEN3: words.QWEN,
}


# How tiktoken writes cl100k's pattern for an engine to which `{1,3}+` and `$` mean something else.
_OF_TIKTOKEN = {
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s": GPT4
}
_TRUSTED = frozenset([*NAMED.values(), *_KERNELS, DIGIT, DIGITS])
BASE_SECONDS, CHARACTERS_PER_SECOND = 2.0, 4e5  # the CPU time of untrusted patterns for one text


class TimeBudget:
    """The CPU time that untrusted patterns have for one text."""

    def __init__(self, characters: int) -> None:
        self.characters, self.seconds = characters, BASE_SECONDS + characters / CHARACTERS_PER_SECOND
        self._end = time.process_time() + self.seconds

    def remaining(self) -> float:
        """The remaining time in seconds."""
        return max(1e-3, self._end - time.process_time())


class Pattern:
    """A pattern of a `tokenizer.json`.

    Raises:
        SpecError: it is not a valid pattern, or has a construct that `oniguruma.py` does not know.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        text, self.least = translated(source)  # `least` characters are in any match
        try:
            self._compiled: Any = regex.compile(text, regex.V1)
        except (regex.error, RecursionError, MemoryError, OverflowError) as error:
            raise SpecError(f"not a pattern ({error})") from None

    def spans(self, text: str, budget: TimeBudget | None) -> Iterator[tuple[int, int]]:
        """Where the matches of a text start and end, one after the other; `shown` says which text to give.

        An empty match counts unless it is where the previous match ended.

        Raises:
            TokenizerError: the time is used up.
        """
        try:
            if self.least:
                limit = {} if budget is None else {"timeout": budget.remaining()}
                for match in self._compiled.finditer(text, **limit):
                    yield match.span()
                return
            at, last = 0, -1
            while at <= len(text):
                limit = {} if budget is None else {"timeout": budget.remaining()}
                match = self._compiled.search(text, at, **limit)
                if match is None:
                    return
                start, stop = match.span()
                if start == stop == last:
                    at += 1
                    continue
                yield start, stop
                at = last = stop
        except TimeoutError:
            assert budget is not None
            raise TokenizerError(
                f"pattern {self.source[:60]!r}: takes more than {budget.seconds:.0f} s over a text of "
                f"{budget.characters} characters; rewrite it without nested repeats"
            ) from None


def shown(text: str) -> str:
    """A text as `regex` is to see it: characters younger than the peers' Unicode are unassigned."""
    newer = newer_characters()
    if text.isascii() or newer.keys().isdisjoint(map(ord, set(text))):
        return text
    return text.translate(newer)


def cuts(text: str, start: int = 0, pattern: re.Pattern[str] = CUT) -> Iterator[int]:
    """The places of a text, from one on, where it may be cut; never after a character younger than our tables."""
    classes = table()
    for match in pattern.finditer(text, start):
        if CATEGORIES[classes[ord(text[match.start() - 1])] & CATEGORY_MASK] != "Cn":
            yield match.start()


def pattern_of(name: str) -> str:
    """The regex of a pattern given by name, or the regex itself.

    Raises:
        SpecError: an unknown name that does not look like a regex.
    """
    if name in NAMED:
        return NAMED[name]
    if name in _OF_TIKTOKEN:
        return _OF_TIKTOKEN[name]
    if name.replace("-", "").replace("_", "").isalnum():
        known = ", ".join(NAMED)
        raise SpecError(f"no split pattern named {name!r}{nearest(name, NAMED)} (known: {known})", code=UNKNOWN)
    return name


class Splitter:
    """Cuts text by one pattern after the other, each within the pieces of the one before.

    What a pattern does not match is a piece of its own, so nothing of the text is ever lost.

    Raises:
        SpecError: an invalid pattern, or a construct that is not supported, by its name.
    """

    def __init__(self, steps: Sequence[str]) -> None:
        self.steps = tuple(steps)
        isolate = self.steps[:1] == (DIGIT,) and self.steps[1:] in [(pattern,) for pattern in _KERNELS]
        single = self.steps[1:] if isolate and _KERNELS[self.steps[1]] == words.GPT2 else self.steps
        self.mode = _KERNELS.get(single[0], words.GIVEN) if len(single) == 1 else words.GIVEN
        self.isolate_digits = single != self.steps and self.mode != words.GIVEN
        if self.mode == words.GIVEN:
            _ = self._compiled

    @property
    def covers_everything(self) -> bool:
        """Whether it is known that the last pattern matches every character of every text."""
        return self.mode != words.GIVEN or self.steps[-1] == O200K

    def cut_after(self, text: str, start: int) -> int:
        """The next place where a text may be cut without a change of its pieces; its end if there is none known."""
        if self.mode == words.GIVEN and self.steps != (O200K,):
            return len(text)
        return next(cuts(text, start), len(text))

    @property
    def classes(self) -> tuple[np.ndarray, np.ndarray]:
        """The class tables for the kernels."""
        return split_classes(self.isolate_digits)

    @cached_property
    def _compiled(self) -> list[Pattern]:
        compiled = []
        for step in self.steps:
            try:
                compiled.append(Pattern(step))
            except SpecError as error:
                raise SpecError(f"split pattern {step[:60]!r}: {error}") from None
        return compiled

    def pieces(self, text: str) -> list[int]:
        """Where each piece of a text ends, in characters, by `regex`."""
        text = shown(text)
        spans = [(0, len(text))] if text else []
        budget = TimeBudget(len(text))
        for step, pattern in zip(self.steps, self._compiled, strict=True):
            following: list[tuple[int, int]] = []
            limit = None if step in _TRUSTED else budget
            for start, stop in spans:
                at = start
                whole = start == 0 and stop == len(text)
                for first, last in pattern.spans(text if whole else text[start:stop], limit):
                    first, last = first + start, last + start
                    if first > at:
                        following.append((at, first))
                    if last > first:
                        following.append((first, last))
                        at = last
                    else:
                        at = max(at, first)
                if at < stop:
                    following.append((at, stop))
            spans = following
        return [stop for _, stop in spans]

    def pack(self, texts: Sequence[str]) -> tuple[np.ndarray, int, np.ndarray]:
        """`(buffer, bytes in use, ends)`: the input of the kernels. The texts hold no surrogates."""
        encoded = [text.encode("utf-8") for text in texts]
        buffer, used = pack(encoded)
        if self.mode != words.GIVEN:
            return buffer, used, words.NO_ENDS
        ends, base = [], 0
        for text, data in zip(texts, encoded, strict=True):
            places = np.array(self.pieces(text), np.int64)
            if len(data) != len(text):  # characters to bytes
                starts = np.flatnonzero((np.frombuffer(data, np.uint8) & 0xC0) != 0x80)
                places = np.append(starts, len(data))[places]
            ends.append(places + base)
            base += len(data) + 1
        return buffer, used, np.concatenate(ends) if ends else words.NO_ENDS
