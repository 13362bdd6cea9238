"""Tokens that no text is ever encoded to: dead rows of a model's embedding."""

import numpy as np

from llmanac.kernels.split.words import GIVEN, piece_ends
from llmanac.kernels.text import pack
from llmanac.tokenizers._base import Tokenizer
from llmanac.tokenizers._bpe import BPE
from llmanac.tokenizers._word import WordLevel

NEVER_IN_UTF8 = frozenset(range(0xF5, 0x100)) | {0xC0, 0xC1}


def unreachable(tokenizer: Tokenizer) -> list[int] | None:
    """Ids of the tokens that no text is encoded to, without special tokens; None where the context decides.

    A token is reachable if its own bytes are encoded as this one token and are nothing that a text cannot hold. For a
    byte-level BPE the merges decide that also for parts of characters; elsewhere tokens that are not valid UTF-8 are
    ignored.
    """
    if not isinstance(tokenizer, (BPE, WordLevel)):
        return None
    control = set(tokenizer.special_tokens.values()) | {token.id for token in tokenizer.added.tokens}
    table = [
        (id, data)
        for id, data in enumerate(tokenizer._bytes)
        if data and id not in control and id != tokenizer.unknown_id
    ]
    never = NEVER_IN_UTF8
    if isinstance(tokenizer, BPE):
        never = never | {
            byte for byte, id in enumerate(tokenizer._byte_ids.tolist()) if id in (-1, tokenizer.unknown_id)
        }
    dead = {id for id, data in table if not never.isdisjoint(data)}
    table = [item for item in table if item[0] not in dead]
    whole: list[tuple[int, str]] = []
    for id, data in table:
        try:
            whole.append((id, data.decode("utf-8")))
        except UnicodeDecodeError:
            continue
    if isinstance(tokenizer, BPE):
        dead |= _not_merged(tokenizer, table)
        if tokenizer.splitter.steps:
            whole = [item for item in whole if item[0] not in dead]
            buffer, used, ends = tokenizer.splitter.pack([text for _, text in whole])
            pieces = _pieces(tokenizer, buffer, used, ends, len(whole))
            dead |= {id for (id, _), n in zip(whole, pieces, strict=True) if n > 1}
    else:
        encoded = tokenizer.encode_batch([text for _, text in whole])
        dead |= {id for (id, _), ids in zip(whole, encoded, strict=True) if ids.tolist() != [id]}
    return sorted(dead)


def _not_merged(tokenizer: BPE, table: list[tuple[int, bytes]]) -> set[int]:
    """Ids whose bytes, as one piece, are merged to something else."""
    if not table:
        return set()
    buffer, used = pack([data for _, data in table])
    sizes = np.array([len(data) for _, data in table], np.int64)
    text_ends = np.empty(len(table), np.int64)
    ids = tokenizer._encode_packed(buffer, used, GIVEN, np.cumsum(sizes + 1) - 1, text_ends)
    counts = np.diff(text_ends, prepend=0)
    last = ids[text_ends - 1]
    return {
        id for (id, _), n, found in zip(table, counts.tolist(), last.tolist(), strict=True) if n != 1 or found != id
    }


def _pieces(tokenizer: BPE, buffer: np.ndarray, used: int, ends: np.ndarray, texts: int) -> list[int]:
    """How many pieces each text of a packed buffer is cut into."""
    if tokenizer.splitter.mode != GIVEN:
        ends = piece_ends(buffer, used, *tokenizer.splitter.classes, tokenizer.splitter.mode)
    stops = np.flatnonzero(buffer[:used] == 0xFF)
    return np.diff(np.searchsorted(ends, stops, side="right"), prepend=0).tolist()[:texts]
