"""The byte tokenizer at work: a byte-level BPE that has no merges, so encoding is one look-up a byte."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from llmanac.core.errors import TokenizerError
from llmanac.tokenizers._added import AddedToken
from llmanac.tokenizers._bpe import BPE, NO_MERGES
from llmanac.tokenizers.patterns.splitter import Splitter

BYT5_SPECIAL = 3


class UTF8(BPE):
    """A byte-level vocabulary without merges; how text is cut into pieces decides nothing here."""

    def _encode_plain(self, texts: Sequence[str]) -> list[np.ndarray]:
        data = [self._prepared(text).encode("utf-8") for text in texts]
        return [self._byte_ids[np.frombuffer(one, np.uint8)] for one in data]


def is_bytes_only(tokens: Sequence[bytes | None], merges: np.ndarray, whole_pieces: bool) -> bool:
    """Whether a byte-level BPE from a file is this: every byte a token, and no way to make a longer one."""
    single = {data for data in tokens if data is not None and len(data) == 1}
    return merges.shape[1] == 0 and len(single) == 256 and not whole_pieces


def from_byt5(added: Sequence[AddedToken], **roles: Any) -> UTF8:
    """The tokenizer of a folder that `transformers.ByT5Tokenizer` wrote, which has no vocabulary file.

    Raises:
        TokenizerError: its added tokens leave no room for 256 bytes from id 3 on.
    """
    before = {token.id: token.text.encode("utf-8") for token in added if token.id < BYT5_SPECIAL}
    within = [token.id for token in added if BYT5_SPECIAL <= token.id < BYT5_SPECIAL + 256]
    if len(before) != BYT5_SPECIAL or within:
        raise TokenizerError("added tokens: ByT5 has three from id 0 on, then 256 bytes, then all others; these differ")
    tokens: list[bytes | None] = [before[id] for id in range(BYT5_SPECIAL)]
    tokens += [bytes([byte]) for byte in range(256)]
    # ByT5 writes its own three as plain tokens, which a user's text could then spell.
    control = [replace(token, special=True) if token.id < BYT5_SPECIAL else token for token in added]
    return UTF8(tokens=tokens, merges=NO_MERGES, splitter=Splitter([]), added=control, **roles)
