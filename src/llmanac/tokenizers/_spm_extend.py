"""A SentencePiece vocabulary that goes on learning: new pieces behind the old ones, whose ids and scores stay.

A **BPE** model's new pieces are merges of what its old merges leave of the new text, with scores below all old ones: so
the old merges of a text are done before any new one, as before. A **unigram** model's new pieces are learned as in a
training, EM and pruning in turn, while the old pieces keep their scores; a new piece's score is how often
it is expected to be used among all pieces of the new text, and not below the lowest old one, from which the score of
what is unknown is reckoned. In both, characters without a piece come first, the most frequent ones before others.

Learning the pieces of a SentencePiece BPE model.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from llmanac.core.errors import DataError, TokenizerError
from llmanac.core.progress import progress
from llmanac.kernels.sentencepiece import bpe_train as unigram_bpe_train
from llmanac.kernels.text import pack
from llmanac.tokenizers import _pieces as spm
from llmanac.tokenizers import _unigram_train as training
from llmanac.tokenizers._added import AddedToken
from llmanac.tokenizers._counting import bounded_chunks
from llmanac.tokenizers._unigram_tables import inner
from llmanac.tokenizers._unigram_train import LONGEST_PIECE, Stretches


def learn(found: Stretches, size: int) -> list[tuple[str, float]]:
    """Up to `size` pieces with scores 0, -1, -2, ...: the merges in the order learned, then the alphabet."""
    alphabet = [character for character, _ in found.alphabet]
    most = max(0, size - len(alphabet))
    symbol_of = np.full(0x110000, -1, np.int32)
    symbol_of[[ord(character) for character in alphabet]] = np.arange(len(alphabet))
    merges = merge(found.letters, found.offsets, found.counts, symbol_of, alphabet, most)
    texts = list(alphabet)
    for left, right in merges.tolist():
        texts.append(texts[left] + texts[right])
    order = [*texts[len(alphabet) :], *alphabet]
    return [(text, -float(rank)) for rank, text in enumerate(order)]


def merge(
    words: np.ndarray, offsets: np.ndarray, counts: np.ndarray, symbol_of: np.ndarray, symbols: Sequence[str], most: int
) -> np.ndarray:
    """(n, 2) int64 left and right symbol of up to `most` merges; the merge i makes the symbol `len(symbols) + i`.

    Args:
        words, offsets, counts: UTF-8 of the words, one after the other; where each starts; how often each occurs.
        symbol_of: int32 by code point, which symbol a character of the words is; -1 for one that is never merged.
        symbols: the texts of the symbols that there are at first.
    """
    characters = int(np.count_nonzero((words[: int(offsets[-1])] & 0xC0) != 0x80))
    most = min(most, characters)  # a merge leaves the words at least one symbol fewer
    data = [text.encode("utf-8") for text in symbols]
    widths = np.array([len(text) for text in symbols], np.int64)
    lengths, starts = np.zeros(len(data) + most, np.int64), np.zeros(len(data) + most, np.int64)
    lengths[: len(data)] = [len(item) for item in data]
    starts[: len(data)] = np.cumsum(lengths[: len(data)]) - lengths[: len(data)]
    joined = b"".join(data)
    letters = np.zeros(len(joined) + 4 * LONGEST_PIECE * (most + 1) + 32, np.uint8)
    letters[: len(joined)] = np.frombuffer(joined, np.uint8)
    with progress("learn merges", unit="merges") as bar:
        merges = unigram_bpe_train.learn(
            words, offsets, counts, symbol_of, letters, starts, lengths, widths, len(data), most, LONGEST_PIECE,
        )  # fmt: skip
        bar.advance(len(merges))
    found: np.ndarray = merges
    return found


COVERAGE = 0.9995  # fraction of the new text whose characters may get a piece; rarer ones are left to the bytes
FIRST_SYMBOL = 0x10000  # the code point of the first symbol of a BPE whose words are already cut
MOST_SYMBOLS = 0x110000 - FIRST_SYMBOL - 1


def extended(tokenizer: Any, texts: Iterable[str], extra: int) -> tuple[spm.Model, list[AddedToken]]:
    """`(the model with up to extra more pieces, the added tokens)`; new ids start at the tokenizer's `vocab_size`.

    Raises:
        TokenizerError: `extra` is below 1 or too many; tokens behind the model's own ids that no model file can hold;
            scores to which no others can be added.
        DataError: no text at all, or an item that is no text.
    """
    between = _between(tokenizer)
    escape = tokenizer.rules.escape_whitespaces
    symbols = [token.text for token in tokenizer.added.tokens]
    symbols += [piece.text for piece in tokenizer.pieces if piece.type in (spm.UNKNOWN, spm.USER_DEFINED)]
    chunks = bounded_chunks(texts, sorted(symbols, key=len, reverse=True), "extend")
    words = training.gather(tokenizer.normalizer.pack(chunk) for chunk in chunks)
    found = words.stretches(COVERAGE, 0x110000, "" if escape else spm.SPACE)
    if not found.alphabet:
        raise DataError("extend: the texts to learn from are empty")
    taken = {piece.text for piece in tokenizer.pieces} | {token.text for token in tokenizer.added.tokens}
    known = {spm.SPACE if escape and c == " " else c for c in taken if len(c) == 1}
    fresh = [c for c, _ in found.alphabet if _written(c, escape) not in known][:extra]
    learn = _further_merges if tokenizer.kind == "bpe" else _further_pieces
    learned = learn(tokenizer, found, fresh, extra, {_read(text, escape) for text in taken})
    new = [*between, *(spm.ScoredPiece(_written(text, escape), score) for text, score in learned)]
    added = [*tokenizer.added.tokens]
    given = {token.id for token in added}
    for id, piece in enumerate(between, len(tokenizer.pieces)):
        if id not in given:
            added.append(AddedToken(id=id, text=piece.text))
    return spm.extended(tokenizer.model, new), added


def _written(text: str, escape: bool) -> str:
    return text.replace(" ", spm.SPACE) if escape else text


def _read(text: str, escape: bool) -> str:
    return text.replace(spm.SPACE, " ") if escape else text


def _between(tokenizer: Any) -> list[spm.ScoredPiece]:
    """Pieces for the ids from the model's last to the tokenizer's, which a configuration added."""
    tokens = {token.id: token for token in tokenizer.added.tokens}
    out = []
    for id in range(len(tokenizer.pieces), tokenizer.vocab_size):
        token = tokens.get(id, AddedToken(id=id, text=f"<|unused-{id}|>"))
        if token != AddedToken(id=id, text=token.text):
            raise TokenizerError(
                f"extend: the added token {token.text!r} (id {id}) is no plain control token, and a model file holds "
                "no other behind its pieces; leave it out of tokenizer_config.json"
            )
        out.append(spm.ScoredPiece(token.text, 0.0, spm.CONTROL))
    return out


def _ordinary(tokenizer: Any) -> dict[str, tuple[int, float]]:
    """`{text: (id, score)}` of the pieces that ordinary text is cut into, spaces as spaces."""
    escape = tokenizer.rules.escape_whitespaces
    return {
        key.decode("utf-8"): (id, piece.score)
        for id, piece in enumerate(tokenizer.pieces)
        if piece.type == spm.NORMAL and (key := inner(piece.text, escape))
    }


# ------------------------------------------------------------------------------------------------ BPE
def _further_merges(
    tokenizer: Any, found: training.Stretches, fresh: Sequence[str], extra: int, taken: set[str]
) -> list[tuple[str, float]]:
    """New characters, then the merges of the words' old pieces in the order learned, with falling scores."""
    old = _ordinary(tokenizer)
    symbols = [*old, *fresh]
    if len(symbols) > MOST_SYMBOLS:
        raise TokenizerError(f"extend: a vocabulary of {len(symbols)} pieces is too large to go on from")
    order = {text: i for i, text in enumerate(symbols)}
    number = {id: order[text] for text, (id, _) in old.items()}
    data, limits = found.letters.tobytes(), found.offsets.tolist()
    words = [data[a:b] for a, b in itertools.pairwise(limits)]
    buffer, used = pack(words)
    ends = np.empty(len(words), np.int64)
    ids, spans = tokenizer.tables.cut_placed(buffer, used, ends)
    letters = buffer.tobytes()
    pieces: list[int] = []  # the symbol of each token, or -1 for one that nothing may be merged with
    for id, (start, stop) in zip(ids.tolist(), spans.tolist(), strict=True):
        text = "" if id in number else letters[start:stop].decode("utf-8", "replace")
        pieces.append(number[id] if id in number else order.get(text, -1))
    marked = np.array(pieces, np.int64)
    outside = FIRST_SYMBOL + len(symbols)  # a code point that is no symbol
    marked = np.where(marked < 0, outside, marked + FIRST_SYMBOL).astype("<u4")
    symbol_of = np.full(0x110000, -1, np.int32)
    symbol_of[FIRST_SYMBOL : FIRST_SYMBOL + len(symbols)] = np.arange(len(symbols))
    offsets = np.concatenate([[0], 4 * ends]).astype(np.int64)  # every such character is four bytes of UTF-8
    as_text = np.frombuffer(bytearray(marked.tobytes().decode("utf-32-le").encode("utf-8") + bytes(32)), np.uint8)
    merges = merge(as_text, offsets, found.counts, symbol_of, symbols, extra - len(fresh))
    texts = list(symbols)
    for left, right in merges.tolist():
        texts.append(texts[left] + texts[right])
    new = [*fresh, *(text for text in texts[len(symbols) :] if text not in taken)]
    lowest = min((score for _, score in old.values()), default=0.0)
    scores = np.float32(lowest) - np.arange(1, len(new) + 1).astype(np.float32)
    if not np.isfinite(scores).all() or (np.diff(scores, prepend=np.float32(lowest)) >= 0).any():
        raise TokenizerError(f"extend: the lowest score is {lowest}, below which no {len(new)} more are distinct")
    return list(zip(new, scores.tolist(), strict=True))


# ------------------------------------------------------------------------------------------------ unigram
def _further_pieces(
    tokenizer: Any, found: training.Stretches, fresh: Sequence[str], extra: int, taken: set[str]
) -> list[tuple[str, float]]:
    """New characters and the substrings that shorten the text most, with their log probabilities, best first."""
    old = {text: score for text, (_, score) in _ordinary(tokenizer).items()}
    lowest = min(old.values(), default=0.0)
    start = dict.fromkeys(fresh, 1.0)
    if len(fresh) < extra:
        start |= {t: n for t, n in training.seeds(found, max(100_000, 8 * extra)).items() if len(t) > 1 or t in start}
    start = {text: count for text, count in start.items() if text not in taken}
    if not start:
        return []
    total = sum(start.values())
    scores = old | {text: float(np.log(count / total)) for text, count in start.items()}
    pieces = training.Pieces.of(scores)
    new = np.array([text.decode("utf-8") in start for text in pieces.texts])
    pieces, new = training.fitted(pieces, new, found, int(extra * 1.1))
    return _best(pieces, new, fresh, extra, lowest)


def _best(
    pieces: training.Pieces, new: np.ndarray, fresh: Sequence[str], extra: int, lowest: float
) -> list[tuple[str, float]]:
    """The new characters, and the best of the new pieces that some text is cut into."""
    state, _ = pieces.losses(np.ones(len(pieces.texts)))
    known = {
        text.decode("utf-8"): max(score, lowest)
        for text, score, is_new, way in zip(pieces.texts, pieces.scores.tolist(), new.tolist(), state, strict=True)
        if is_new and (way or len(text.decode("utf-8")) == 1)
    }
    out = {c: known.get(c, lowest + 0.0001 * i) for i, c in enumerate(fresh)}  # none as good as another
    for text, score in sorted(known.items(), key=lambda item: (-item[1], item[0])):
        if len(out) >= extra:
            break
        out.setdefault(text, score)
    ranked = sorted(out.items(), key=lambda item: (-item[1], item[0]))
    return [(text, float(np.float32(score))) for text, score in ranked]
