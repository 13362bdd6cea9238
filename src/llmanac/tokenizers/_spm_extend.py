"""A SentencePiece vocabulary that goes on learning: new pieces behind the old ones, whose ids and scores stay.

A **BPE** model's new pieces are merges of what its old merges leave of the new text, with scores below all old ones: so
the old merges of a text are done before any new one, as before. A **unigram** model's new pieces are learned as in a
training, EM and pruning in turn, beside the old pieces with the scores that they have; a new piece's score is how often
it is expected to be used among all pieces of the new text, and not below the lowest old one, from which the score of
what is unknown is reckoned. In both, characters without a piece come first, the most frequent ones before others.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from llmanac.core.errors import DataError, TokenizerError
from llmanac.core.progress import progress
from llmanac.kernels import unigram_train
from llmanac.kernels.text import pack
from llmanac.tokenizers import _unigram_train as training
from llmanac.tokenizers._added import AddedToken
from llmanac.tokenizers._counting import chunks
from llmanac.tokenizers._spm_bpe_train import merge
from llmanac.tokenizers._unigram_tables import inner
from llmanac.tokenizers.spm import model as spm

if TYPE_CHECKING:
    from llmanac.tokenizers._unigram import SentencePiece

MOST_IDS = 1 << 30
COVERAGE = 0.9995  # share of the new text whose characters may get a piece; rarer ones are left to the bytes
BOUNDARY = "\0"  # stands for what is no ordinary text; no piece may hold it
FIRST_SYMBOL = 0x10000  # the code point that stands for the first symbol of a BPE where its words are cut already
MOST_SYMBOLS = 0x110000 - FIRST_SYMBOL - 1


def extend_sentencepiece(tokenizer: SentencePiece, texts: Iterable[str], extra: int) -> SentencePiece:
    """The tokenizer with up to `extra` more pieces, which take the ids from its `vocab_size` on.

    Raises:
        TokenizerError: `extra` is below 1 or too many; tokens behind the model's own ids that no model file can hold;
            scores to which no others can be added.
        DataError: no text at all, or an item that is no text.
    """
    from llmanac.tokenizers._unigram import SentencePiece

    if extra < 1:
        raise TokenizerError(f"extend: extra is {extra}; ask for one token or more")
    if tokenizer.vocab_size + extra > MOST_IDS:
        raise TokenizerError(f"extend: {tokenizer.vocab_size} + {extra} ids are more than can be numbered ({MOST_IDS})")
    between = _between(tokenizer)
    escape = tokenizer.rules.escape_whitespaces
    words = training.gather(tokenizer.normalizer.pack(held) for held in _bounded(tokenizer, texts))
    found = words.stretches(COVERAGE, 0x110000, "" if escape else spm.SPACE)
    if not found.alphabet:
        raise DataError("extend: the texts to learn from are empty")
    taken = {piece.text for piece in tokenizer.pieces} | {token.text for token in tokenizer.added.tokens}
    known = {spm.SPACE if escape and c == " " else c for c in taken if len(c) == 1}
    fresh = [c for c, _ in found.alphabet if _written(c, escape) not in known][:extra]
    learn = _further_merges if tokenizer.kind == "bpe" else _further_pieces
    learned = learn(tokenizer, found, fresh, extra, {_read(text, escape) for text in taken})
    new = [*between, *(spm.Piece(_written(text, escape), score) for text, score in learned)]
    added = [*tokenizer.added.tokens]
    given = {token.id for token in added}
    for id, piece in enumerate(between, len(tokenizer.pieces)):
        if id not in given:
            added.append(AddedToken(id=id, text=piece.text))
    texts_of = {token.id: token.text for token in added}
    return SentencePiece(
        spm.appended(tokenizer.model, new),
        added=added,
        adds_bos=tokenizer.adds_bos,
        chat_template=tokenizer.chat_template,
        **{role: texts_of.get(getattr(tokenizer, f"{role}_id")) for role in ("bos", "eos", "pad")},
    )


def _written(text: str, escape: bool) -> str:
    return text.replace(" ", spm.SPACE) if escape else text


def _read(text: str, escape: bool) -> str:
    return text.replace(spm.SPACE, " ") if escape else text


def _between(tokenizer: SentencePiece) -> list[spm.Piece]:
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
        out.append(spm.Piece(token.text, 0.0, spm.CONTROL))
    return out


def _bounded(tokenizer: SentencePiece, texts: Iterable[str]) -> Iterable[list[str]]:
    """The texts in lists, with a boundary for each symbol in them that is no ordinary text."""
    symbols = [token.text for token in tokenizer.added.tokens]
    symbols += [piece.text for piece in tokenizer.pieces if piece.type in (spm.UNKNOWN, spm.USER_DEFINED)]
    for held in chunks(texts, "extend"):
        for symbol in sorted(symbols, key=len, reverse=True):
            held = [text.replace(symbol, BOUNDARY) for text in held]
        yield held


def _ordinary(tokenizer: SentencePiece) -> dict[str, tuple[int, float]]:
    """`{text: (id, score)}` of the pieces that ordinary text is cut into, spaces as spaces."""
    escape = tokenizer.rules.escape_whitespaces
    return {
        key.decode("utf-8"): (id, piece.score)
        for id, piece in enumerate(tokenizer.pieces)
        if piece.type == spm.NORMAL and (key := inner(piece.text, escape))
    }


# ------------------------------------------------------------------------------------------------ BPE
def _further_merges(
    tokenizer: SentencePiece, found: training.Stretches, fresh: Sequence[str], extra: int, taken: set[str]
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
    ids, spans = tokenizer._cut(buffer, used, ends, True)
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
    as_text = np.frombuffer(marked.tobytes().decode("utf-32-le").encode("utf-8") + bytes(32), np.uint8)
    merges = merge(as_text, offsets, found.counts, symbol_of, symbols, extra - len(fresh))
    texts = list(symbols)
    for left, right in merges.tolist():
        texts.append(texts[left] + texts[right])
    new = [*fresh, *(text for text in texts[len(symbols) :] if text not in taken)]
    lowest = min((score for _, score in old.values()), default=0.0)
    scores = np.float32(lowest) - np.arange(1, len(new) + 1).astype(np.float32)
    if not np.isfinite(scores).all() or (np.diff(scores, prepend=np.float32(lowest)) >= 0).any():
        raise TokenizerError(f"extend: the lowest score is {lowest}, below which no {len(new)} more can be told apart")
    return list(zip(new, scores.tolist(), strict=True))


# ------------------------------------------------------------------------------------------------ unigram
def _further_pieces(
    tokenizer: SentencePiece, found: training.Stretches, fresh: Sequence[str], extra: int, taken: set[str]
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
    texts = sorted(text.encode("utf-8") for text in scores)
    values = np.array([scores[text.decode("utf-8")] for text in texts], np.float64)
    pieces = training.Pieces(texts, values, np.array([len(text.decode("utf-8")) for text in texts]))
    new = np.array([text.decode("utf-8") in start for text in texts])
    words = (found.letters, found.offsets, found.counts)
    goal = int(extra * 1.1)
    with progress("learn pieces", unit="pieces") as bar:
        while True:
            for _ in range(training.ROUNDS):
                pieces, new = _reckoned(pieces, new, words)
                bar.update(int(new.sum()), goal=goal)
            before = int(new.sum())
            kept = _worth_keeping(pieces, new, words, goal)
            pieces, new = pieces.only(kept), new[kept]
            if int(new.sum()) <= goal or int(new.sum()) == before:
                break
    return _best(pieces, new, fresh, extra, lowest)


def _reckoned(
    pieces: training.Pieces, new: np.ndarray, words: tuple[np.ndarray, ...]
) -> tuple[training.Pieces, np.ndarray]:
    """One round of EM: new pieces that are used get the score of their use, others go; the old ones stay as is."""
    expected = np.zeros(len(pieces.texts), np.float64)
    unigram_train.expectations(*words, pieces.nodes, pieces.scores, pieces.widths, pieces.unknown_score, expected)
    if not np.isfinite(expected).all():
        raise TokenizerError("extend: the model's scores are no log probabilities, so none can be learned beside them")
    chosen = np.flatnonzero(~new | (expected >= training.LEAST_USE))
    scores, new, used = pieces.scores[chosen].copy(), new[chosen], expected[chosen]
    scores[new] = training.digamma(used[new]) - training.digamma(used.sum(keepdims=True))
    return pieces.only(chosen, scores), new


def _worth_keeping(pieces: training.Pieces, new: np.ndarray, words: tuple[np.ndarray, ...], goal: int) -> np.ndarray:
    """Places of the old pieces, and of the new ones that are kept in a round of pruning."""
    used = unigram_train.usage(*words, pieces.nodes, pieces.scores, pieces.unknown_score)
    state, loss = unigram_train.losses(
        pieces.letters, pieces.offsets, pieces.nodes, pieces.scores.copy(), pieces.unknown_score, used,
        max(used.sum(), 1.0),
    )  # fmt: skip
    needed = np.flatnonzero(~new | (state == unigram_train.KEPT))
    candidates = np.flatnonzero(new & (state == unigram_train.CANDIDATE))
    room = max(goal, int(training.SHRINK * new.sum())) - int((new & (state == unigram_train.KEPT)).sum())
    best = candidates[np.argsort(-loss[candidates], kind="stable")[: max(room, 0)]]
    return np.sort(np.concatenate([needed, best]))


def _best(
    pieces: training.Pieces, new: np.ndarray, fresh: Sequence[str], extra: int, lowest: float
) -> list[tuple[str, float]]:
    """The new characters, and the best of the new pieces that some text is cut into."""
    ones = np.ones(len(pieces.texts))
    state, _ = unigram_train.losses(
        pieces.letters, pieces.offsets, pieces.nodes, pieces.scores.copy(), pieces.unknown_score, ones, ones.sum()
    )
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
