"""A vocabulary that goes on learning: new tokens for new text, with all that was learned before left as it is.

The words of the new text are cut by the old merges first; training then goes on from there, and its merges come after
all old ones. So the old merges of a text are done before any new one, as before; a new token is of no old merge; and
what changes is only that neighbouring tokens of the old encoding become one where a new merge joins them.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from llmanac.core.errors import TokenizerError
from llmanac.kernels.bpe import extend as bpe_extend
from llmanac.kernels.split.words import GIVEN
from llmanac.kernels.text import pack
from llmanac.tokenizers._counting import count_pieces


def learn_further(tokenizer: Any, texts: Iterable[str], extra: int) -> tuple[list[bytes], np.ndarray]:
    """`(bytes of up to extra new tokens, (3, n) merges)`; their ids start at the tokenizer's `vocab_size`.

    Raises:
        TokenizerError: `extra` is below 1 or too many; text that is not cut into pieces, so any two tokens might join.
        DataError: no text at all, or an item that is no text.
    """
    if not tokenizer.splitter.steps:
        raise TokenizerError(
            "extend: this tokenizer cuts text into no pieces, so it has no words to learn; train a bpe"
        )
    words, offsets, counts = count_pieces(_prepared(tokenizer, texts), tokenizer.splitter, "extend")
    data, limits = words.tobytes(), offsets.tolist()
    pieces = [data[a:b] for a, b in itertools.pairwise(limits)]
    own_byte = np.array([id >= 0 and id != tokenizer.unknown_id for id in tokenizer._byte_ids.tolist()])
    if not own_byte.all():  # a byte that is unknown has no bytes of its own to be merged
        able = np.array([own_byte[np.frombuffer(piece, np.uint8)].all() for piece in pieces])
        pieces, counts = [piece for piece, good in zip(pieces, able, strict=True) if good], counts[able]
    ids, ends = _cut(tokenizer, pieces)
    known = [data or b"" for data in tokenizer.tokens] + [b""] * (tokenizer.vocab_size - len(tokenizer.tokens))
    for token in tokenizer.added.tokens:
        known[token.id] = token.text.encode("utf-8")
    most = min(extra, len(ids))  # a merge leaves the words at least one token fewer
    learned = bpe_extend.learn_further(ids, ends, counts, known, len(known), most)
    return _usable(learned.merges, known, tokenizer)


def _prepared(tokenizer: Any, texts: Iterable[str]) -> Iterator[str]:
    """The texts as they are cut: normalised, without the added tokens that they hold."""
    for text in texts:
        if not isinstance(text, str):
            yield text  # the counting says which it was
        elif tokenizer.added.has_plain:
            parts = tokenizer.added.split(text, frozenset(), tokenizer._normal_form)
            yield from (tokenizer._prepared(part.text) for part in parts if part.token is None)
        else:
            yield tokenizer._prepared(text)


def _cut(tokenizer: Any, pieces: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """The tokens of every piece, one after the other, and where each piece's end."""
    if not pieces:
        return np.empty(0, np.int32), np.empty(0, np.int64)
    buffer, used = pack(pieces)
    sizes = np.array([len(piece) for piece in pieces], np.int64)
    ends, text_ends = np.cumsum(sizes + 1) - 1, np.empty(len(pieces), np.int64)
    ids = tokenizer._encode_packed(buffer, used, GIVEN, ends, text_ends)
    return ids, text_ends


def _usable(learned: np.ndarray, known: list[bytes], tokenizer: Any) -> tuple[list[bytes], np.ndarray]:
    """`(bytes of the new tokens, (3, n) merges)` without merges that are old, or that would spell an added token."""
    old = set(zip(tokenizer.merges[0].tolist(), tokenizer.merges[1].tolist(), strict=True))
    barred = {token.id for token in tokenizer.added.tokens}
    moved: dict[int, int] = {}
    new: list[bytes] = []
    merges: list[tuple[int, int, int]] = []
    first = len(known)
    for left, right, made, _ in learned.tolist():
        if made in barred or left in barred or right in barred:
            barred.add(made)
            continue
        left, right = moved.get(left, left), moved.get(right, right)
        if made >= first and made not in moved:
            moved[made] = first + len(new)
            new.append(_bytes(known, new, left) + _bytes(known, new, right))
        if (left, right) not in old:
            old.add((left, right))
            merges.append((left, right, moved.get(made, made)))
    return new, np.array(merges, np.int32).reshape(-1, 3).T


def _bytes(known: list[bytes], new: list[bytes], id: int) -> bytes:
    return known[id] if id < len(known) else new[id - len(known)]
