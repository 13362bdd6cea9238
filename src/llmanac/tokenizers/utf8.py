"""UTF-8 bytes as tokens (ByT5: Xue et al. 2022): nothing is learned and nothing is ever unknown.

The id of a byte b is `offset + b`, where `offset` is the number of special tokens before the bytes. A text of n bytes
has n tokens, the longest sequences of all tokenizers, in return for the smallest vocabulary: 256 ids and the special
ones. Latin letters take one byte each, Greek and Cyrillic two, most of Chinese three, so equal content costs languages
differently.

With the special tokens `<pad> </s> <unk>` the ids are ByT5's (offset 3); the alias `byt5` adds its 125 sentinels
`<extra_id_0>` ... after the bytes, from id 259 on. Half a surrogate pair has no UTF-8 form and becomes U+FFFD, as in
every tokenizer here; bytes that are no UTF-8 decode to U+FFFD (ByT5 leaves them out).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from llmanac.core.errors import SpecError
from llmanac.core.ranges import Range, within
from llmanac.tokenizers import TokenizerSpec
from llmanac.tokenizers._added import AddedToken
from llmanac.tokenizers._bpe import BPE, NO_MERGES
from llmanac.tokenizers._byte_level import BYTES
from llmanac.tokenizers._roles import check_special_tokens, roles_of
from llmanac.tokenizers.patterns.splitter import Splitter

CARD = {
    "title": "UTF-8 bytes",
    "paper": "Xue et al. 2022, ByT5: Towards a Token-Free Future with Pre-trained Byte-to-Byte Models, section 3.1",
    "reference": "transformers.ByT5Tokenizer; str.encode",
    "aliases": {"byt5": {"extra_ids": 125}},
}

BYT5 = ("<pad>", "</s>", "<unk>")


class UTF8(BPE):
    """A byte-level vocabulary without merges: encoding is one look-up a byte, however text is cut into pieces."""

    def _encode_plain(self, texts: Sequence[str]) -> list[np.ndarray]:
        data = [self._prepared(text).encode("utf-8") for text in texts]
        return [self._byte_ids[np.frombuffer(one, np.uint8)] for one in data]


@dataclass(frozen=True, kw_only=True)
class Spec(TokenizerSpec):
    """Which ids there are besides the bytes.

    Attributes:
        special_tokens: control tokens, which take the ids from 0 on; the bytes follow.
        extra_ids: how many sentinels `<extra_id_0>`, `<extra_id_1>`, ... come after the bytes (ByT5 and T5 mark
            masked spans with them).
        chat_template: Jinja source; unset, one made for `<|user|>` and `<|assistant|>` or `<|im_start|>`, if there.
    """

    learns: ClassVar[bool] = False

    special_tokens: tuple[str, ...] = BYT5
    extra_ids: int = 0
    chat_template: str | None = None

    ranges = within(Range(0, (1 << 20) - 1), "extra_ids")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_special_tokens(self.special_tokens)
        for i, text in enumerate(self.special_tokens):
            if text in BYTES:
                raise SpecError(f"special_tokens.{i}: {text!r} is how a vocabulary writes a byte; use a longer text")
        taken = set(self.special_tokens) & set(sentinels(self.extra_ids))
        if taken:
            raise SpecError(f"special_tokens: {min(taken)!r} is also one of the {self.extra_ids} extra ids")

    def train(self, texts: Iterable[str] = ()) -> UTF8:
        """The tokenizer; the texts are not read, since there is nothing to learn from them."""
        special = list(self.special_tokens)
        tokens: list[bytes | None] = [*(text.encode("utf-8") for text in special), *(bytes([b]) for b in range(256))]
        added = [AddedToken(id=id, text=text) for id, text in enumerate(special)]
        added += [AddedToken(id=len(tokens) + i, text=text) for i, text in enumerate(sentinels(self.extra_ids))]
        return UTF8(tokens=tokens, merges=NO_MERGES, splitter=Splitter([]), added=added, **roles_of(self, special))


def sentinels(count: int) -> list[str]:
    """`<extra_id_0>` and those that follow it."""
    return [f"<extra_id_{i}>" for i in range(count)]
