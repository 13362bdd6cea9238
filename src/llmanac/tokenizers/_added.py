"""Added tokens: strings that become one id where a text contains them, before the rest is split.

The rules are those of Hugging Face `tokenizers`: the leftmost match wins, then the longest; `lstrip` and `rstrip`
absorb white space next to it; `single_word` refuses a match inside a word; tokens marked `normalized` are looked for
after normalisation, all others before. Special ones count only where the caller allows them.
"""

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from llmanac.core.errors import TokenizerError
from llmanac.kernels.split.word_level import WORD, run_classes
from llmanac.tokenizers._normal import SURROGATE

_SPACES = [*range(9, 14), 32, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000]
WHITE_SPACE = "".join(map(chr, _SPACES))
MOST_CHARACTERS = 1 << 22  # of all added tokens; the pattern that finds them takes 100 bytes for each
SPARE_IDS = 1_000_000  # ids without an entry before an added token; published files leave some thousands
Normalize = Callable[[str], tuple[str, np.ndarray | None]]


@dataclass(frozen=True, kw_only=True)
class AddedToken:
    """One added token. `special` ones are control tokens, which a user's text must not be able to write."""

    id: int
    text: str
    special: bool = True
    normalized: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False

    def __post_init__(self) -> None:
        if not self.text:
            raise TokenizerError(f"added token {self.id}: its text is empty")
        if SURROGATE.search(self.text):
            raise TokenizerError(f"added token {self.id}: {self.text!r} holds a surrogate, which no text can")

    def as_json(self) -> dict[str, Any]:
        """The entry of `added_tokens` in a `tokenizer.json`."""
        data = asdict(self)
        return {"id": data.pop("id"), "content": data.pop("text"), **data}


@dataclass(frozen=True)
class TextPart:
    """A stretch of a text: an added token, or plain text.

    `start` and `stop` are characters of the original text; `places` (len(text) + 1,) says where each character of
    `text` starts there, if that is not `start + i`.
    """

    text: str
    start: int
    stop: int
    token: AddedToken | None = None
    places: np.ndarray | None = None

    def place(self, at: int) -> int:
        """Where a character of `text` starts in the original text."""
        return self.start + at if self.places is None else int(self.places[at])


class AddedTokens:
    """All added tokens of a tokenizer. Raises TokenizerError for empty, repeated or long texts and repeated ids."""

    def __init__(self, tokens: Sequence[AddedToken]) -> None:
        self.tokens = tuple(sorted(tokens, key=lambda token: token.id))
        texts: dict[str, int] = {}
        ids: dict[int, str] = {}
        if (characters := sum(len(token.text) for token in self.tokens)) > MOST_CHARACTERS:
            raise TokenizerError(f"added tokens: have {characters:,} characters, at most {MOST_CHARACTERS:,} are read")
        for token in self.tokens:
            if token.text in texts:
                raise TokenizerError(f"added token {token.text!r}: given twice ({texts[token.text]} and {token.id})")
            if token.id in ids:
                raise TokenizerError(f"added tokens {ids[token.id]!r} and {token.text!r}: both have the id {token.id}")
            texts[token.text], ids[token.id] = token.id, token.text
        self.has_plain = any(not token.special for token in self.tokens)
        self._before = _Matcher([token for token in self.tokens if not token.normalized])
        self._after = _Matcher([token for token in self.tokens if token.normalized])

    def written(self, token: AddedToken) -> str:
        """A token as decoding writes it."""
        return token.text

    def vocab_size(self, own: int) -> int:
        """One more than the highest id of a vocabulary with `own` ids and these tokens.

        Raises:
            TokenizerError: an id so far beyond the others that its table would fill the memory with gaps.
        """
        if not self.tokens:
            return own
        last = self.tokens[-1]
        entries = own + len(self.tokens)
        if last.id >= 2 * entries + SPARE_IDS:
            raise TokenizerError(
                f"added token {last.text!r}: its id {last.id} is far beyond a vocabulary of {entries:,} entries; "
                "give it one of the next ids"
            )
        return max(own, last.id + 1)

    def split(self, text: str, allowed: frozenset[str], normalize: Normalize) -> list[TextPart]:
        """The added tokens in a text (special ones only if in `allowed`) and the plain text between them, in order."""
        parts: list[TextPart] = []
        for part in self._before.parts(TextPart(text, 0, len(text)), allowed):
            if part.token is not None or not self._after:
                parts.append(part)
                continue
            normal, places = normalize(part.text)
            moved = TextPart(normal, part.start, part.stop, None, None if places is None else places + part.start)
            parts += self._after.parts(moved, allowed)
        return parts


class _Matcher:
    def __init__(self, tokens: Sequence[AddedToken]) -> None:
        self._by_text = {token.text: token for token in tokens}
        longest_first = sorted(self._by_text, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if tokens else None
        swallows = next((token.text for token in tokens if token.rstrip), None)
        starts = next((token.text for token in tokens if token.text[0] in WHITE_SPACE), None)
        if swallows is not None and starts is not None:
            raise TokenizerError(
                f"added token {starts!r}: begins with white space, which {swallows!r} swallows (rstrip); not supported"
            )

    def __bool__(self) -> bool:
        return self._pattern is not None

    def parts(self, part: TextPart, allowed: frozenset[str]) -> Iterator[TextPart]:
        text, done = part.text, 0
        for match in self._pattern.finditer(text) if self._pattern else ():
            token = self._by_text[match[0]]
            start, stop = match.span()
            if start < done or (token.special and token.text not in allowed):
                continue
            if token.single_word and (_is_word(text[start - 1 : start]) or _is_word(text[stop : stop + 1])):
                continue
            if token.lstrip:
                start = max(done, len(text[:start].rstrip(WHITE_SPACE)))
            if token.rstrip:
                stop = len(text) - len(text[stop:].lstrip(WHITE_SPACE))
            if start > done:
                yield _cut(part, done, start)
            yield TextPart(text[start:stop], part.place(start), part.place(stop), token)
            done = stop
        if done < len(text):
            yield _cut(part, done, len(text)) if done else part


def _cut(part: TextPart, start: int, stop: int) -> TextPart:
    places = None if part.places is None else part.places[start : stop + 1]
    return TextPart(part.text[start:stop], part.place(start), part.place(stop), None, places)


def _is_word(character: str) -> bool:
    r"""Whether a character is of Rust's `\w`, which has combining marks and the two joiners."""
    return bool(character) and int(_word_classes()[ord(character)]) == WORD


@functools.cache
def _word_classes() -> np.ndarray:
    return run_classes(True)[1]
