"""Tokenizers and their peers, one thread, on the standard library's sources of the Python that runs this.

    python benchmarks/tokenizer.py [--only NAME]

CPU seconds of this process, median of interleaved rounds; compilation (once a machine) is not included and is reported
in `more`. `bpe-encode` hands out Python lists, as tiktoken does. The word cache is emptied before each round, so
the figures are those of a first encounter with the text; `more` has the figure with a warm cache too. The unigram
measurements are in `_tokenizer_unigram.py`, those against gigatoken and gigabpe in `_tokenizer_rust.py`.
"""

from __future__ import annotations

import functools
import os
import sysconfig
import time
from pathlib import Path
from typing import Any

os.environ.update({"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"})

import _tokenizer_rust
import _tokenizer_unigram
from _harness import Benchmark, Result, find_peer, interleave

from llmanac.tokenizers._bpe import BPE
from llmanac.tokenizers._byte_level import written
from llmanac.tokenizers.load import train_tokenizer

bench = Benchmark("tokenizer", "BPE and unigram against tokenizers, tiktoken and sentencepiece, one thread.")
CPU = time.process_time
# tiktoken's own spelling of GPT-2's pattern, which is the faster one there.
TIKTOKEN_GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"


@functools.cache
def corpus() -> tuple[list[str], float]:
    """The sources and their megabytes."""
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = [path for path in sorted(root.rglob("*.py")) if "site-packages" not in path.parts]
    texts = [path.read_text("utf-8", errors="replace") for path in paths]
    return texts, sum(len(text.encode("utf-8")) for text in texts) / 1e6


def learn(vocab_size: int) -> BPE:
    made = train_tokenizer("bpe", corpus()[0], vocab_size=vocab_size, pattern="gpt2", special_tokens=())
    assert isinstance(made, BPE)
    return made


@functools.cache
def learned() -> BPE:
    return learn(32_000)


@functools.cache
def seconds_to_compile() -> float:
    """Wall seconds of the very first call: compilation, or loading what an earlier process compiled."""
    start = time.perf_counter()
    made = train_tokenizer("bpe", ["some words to compile with"], vocab_size=260, pattern="gpt2", special_tokens=())
    made.encode("some words")
    return time.perf_counter() - start


def training(name: str, vocab_size: int) -> Result:
    texts, megabytes = corpus()
    compiling = seconds_to_compile()
    peer, title = find_peer("tokenizers")

    def theirs() -> Any:
        made = peer.Tokenizer(peer.models.BPE())
        made.pre_tokenizer = peer.pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = peer.pre_tokenizers.ByteLevel.alphabet()
        trainer = peer.trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
        made.train_from_iterator(texts, trainer)
        return made

    runs: dict[str, Any] = {"ours": lambda: learn(vocab_size)} | ({"theirs": theirs} if peer else {})
    seconds = interleave(runs, rounds=3, clock=CPU)
    return Result.rate(
        name, megabytes, seconds, unit="MB/s", peer=title,
        seconds_ours=seconds["ours"], seconds_theirs=seconds.get("theirs"), first_call_seconds=compiling,
    )  # fmt: skip


bench.add("bpe-train-8k", training, 8192)


bench.add("bpe-train-32k", training, 32_000)


def cold(tokenizer: BPE) -> BPE:
    """The tokenizer with nothing in its word cache."""
    tokenizer.forget_words()
    return tokenizer


@bench.measure("bpe-encode")
def encode() -> Result:
    texts, megabytes = corpus()
    mine = learned()
    peer, title = find_peer("tiktoken")
    runs: dict[str, Any] = {
        "ours": lambda: [cold(mine).encode(text) for text in texts[:1]] + [mine.encode(text) for text in texts[1:]],
        "warm": lambda: [mine.encode(text) for text in texts],
        "arrays": lambda: cold(mine).encode_batch(texts),
    }
    if peer:
        theirs = peer.Encoding(
            "learned",
            pat_str=TIKTOKEN_GPT2,
            special_tokens={},
            mergeable_ranks={b: i for i, b in enumerate(mine.tokens)},
        )
        runs["theirs"] = lambda: [theirs.encode_ordinary(text) for text in texts]
        assert runs["ours"]() == runs["theirs"](), "the ids differ"
    seconds = interleave(runs, rounds=5, clock=CPU)
    return Result.rate(
        "bpe-encode", megabytes, seconds, unit="MB/s", peer=title, cache="cold at the first text",
        warm_cache=megabytes / seconds["warm"], numpy_arrays_out=megabytes / seconds["arrays"],
    )  # fmt: skip


@bench.measure("bpe-encode-hf")
def encode_hf() -> Result:
    texts, megabytes = corpus()
    mine = learned()
    peer, title = find_peer("tokenizers")
    runs: dict[str, Any] = {"ours": lambda: [ids.tolist() for ids in cold(mine).encode_batch(texts)]}
    if peer:
        merges = [
            (written(mine.tokens[a] or b""), written(mine.tokens[b] or b"")) for a, b in mine.merges[:2].T.tolist()
        ]
        vocabulary = {written(data or b""): id for id, data in enumerate(mine.tokens)}
        theirs = peer.Tokenizer(peer.models.BPE(vocab=vocabulary, merges=merges))
        theirs.pre_tokenizer = peer.pre_tokenizers.ByteLevel(add_prefix_space=False)
        runs["theirs"] = lambda: [encoding.ids for encoding in theirs.encode_batch_fast(texts)]
        assert runs["ours"]() == runs["theirs"](), "the ids differ"
    seconds = interleave(runs, rounds=3, clock=CPU)
    return Result.rate("bpe-encode-hf", megabytes, seconds, unit="MB/s", peer=title, cache="cold at the first text")


@bench.measure("word-train")
def word_train() -> Result:
    """A vocabulary of 30,000 words; the two must be equal, word for word."""
    texts, megabytes = corpus()
    special = ("[UNK]",)
    peer, title = find_peer("tokenizers")

    def ours() -> Any:
        return train_tokenizer("word", texts, vocab_size=30_000, special_tokens=special)

    def theirs() -> Any:
        made = peer.Tokenizer(peer.models.WordLevel(unk_token="[UNK]"))
        made.pre_tokenizer = peer.pre_tokenizers.Whitespace()
        trainer = peer.trainers.WordLevelTrainer(vocab_size=30_000, special_tokens=list(special), show_progress=False)
        made.train_from_iterator(texts, trainer)
        return made

    runs: dict[str, Any] = {"ours": ours} | ({"theirs": theirs} if peer else {})
    mine = ours()
    if peer:
        vocabulary = {(data or b"").decode(): id for id, data in enumerate(mine.tokens)}
        assert vocabulary == theirs().get_vocab(), "the vocabularies differ"
    seconds = interleave(runs, rounds=3, clock=CPU)
    return Result.rate("word-train", megabytes, seconds, unit="MB/s", peer=title)


@bench.measure("bpe-dropout")
def bpe_dropout() -> Result:
    """Segmentations drawn with dropout 0.1, against `tokenizers`, which draws from one stream for all. A tenth of the
    corpus: the peer is slow."""
    texts = corpus()[0][::10]
    megabytes = sum(len(text.encode("utf-8")) for text in texts) / 1e6
    mine = learned()
    peer, title = find_peer("tokenizers")
    runs: dict[str, Any] = {"ours": lambda: [mine.sample(text, seed=i, dropout=0.1) for i, text in enumerate(texts)]}
    if peer:
        spelled = [written(data or b"") for data in mine.tokens]
        merges = [(spelled[a], spelled[b]) for a, b in mine.merges[:2].T.tolist()]
        vocabulary = {text: id for id, text in enumerate(spelled)}
        theirs = peer.Tokenizer(peer.models.BPE(vocab=vocabulary, merges=merges, dropout=0.1))
        theirs.pre_tokenizer = peer.pre_tokenizers.ByteLevel(add_prefix_space=False)
        runs["theirs"] = lambda: [encoding.ids for encoding in theirs.encode_batch_fast(texts)]
    seconds = interleave(runs, rounds=3, clock=CPU)
    return Result.rate("bpe-dropout", megabytes, seconds, unit="MB/s", peer=title)


_tokenizer_rust.add(bench, corpus, learned)
_tokenizer_unigram.add(bench, corpus)


if __name__ == "__main__":
    bench.main()
