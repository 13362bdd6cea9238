"""The unigram measurements of `benchmarks/tokenizer.py`: learning, encoding and sampling against sentencepiece.

Both learn 8000 ids with byte fallback from the lines of the corpus, text unchanged. Encoding and sampling then use the
model that the library learned, in both, over whole files, one call a file, and hand out Python lists.
"""

from __future__ import annotations

import functools
import io
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from _harness import Benchmark, Result, find_peer, interleave

from llmanac.tokenizers._unigram import SentencePiece
from llmanac.tokenizers.load import train_tokenizer
from llmanac.tokenizers.spm import files as spm
from llmanac.tokenizers.spm.files import written

CPU = time.process_time
VOCABULARY = 8000
Corpus = Callable[[], tuple[list[str], float]]


def add(bench: Benchmark, corpus: Corpus) -> None:
    """Give a benchmark the measurements `unigram-train`, `unigram-encode` and `unigram-sample`."""

    @functools.cache
    def lines() -> list[str]:
        return [line for text in corpus()[0] for line in text.split("\n") if line]

    def learn() -> SentencePiece:
        made = train_tokenizer("sentencepiece", lines(), vocab_size=VOCABULARY, special_tokens=("<s>", "</s>"))
        assert isinstance(made, SentencePiece)
        return made

    def learn_theirs(peer: Any) -> bytes:
        out = io.BytesIO()
        peer.SentencePieceTrainer.train(
            sentence_iterator=iter(lines()), model_writer=out, vocab_size=VOCABULARY, byte_fallback=True, num_threads=1,
            normalization_rule_name="identity", add_dummy_prefix=False, remove_extra_whitespaces=False, minloglevel=2,
        )  # fmt: skip
        return out.getvalue()

    @functools.cache
    def model() -> bytes:
        peer, _ = find_peer("sentencepiece")
        return learn_theirs(peer) if peer else written(learn().model)

    @functools.cache
    def tokenizer() -> SentencePiece:
        parsed = spm.parse(model())
        return SentencePiece(parsed)

    def cold() -> SentencePiece:
        tokenizer().forget_words()
        return tokenizer()

    @bench.measure("unigram-train")
    def train() -> Result:
        megabytes = sum(len(line.encode("utf-8")) for line in lines()) / 1e6
        train_tokenizer("sentencepiece", lines()[:2000], vocab_size=400, special_tokens=())  # compiles
        peer, title = find_peer("sentencepiece")
        runs: dict[str, Any] = {"ours": learn} | ({"theirs": lambda: learn_theirs(peer)} if peer else {})
        seconds = interleave(runs, rounds=3, warmup=0, clock=CPU)
        more: dict[str, Any] = {}
        if peer:
            own, other = (bits_per_byte(peer, data, lines()) for data in (written(learn().model), model()))
            more = {"bits_per_byte_ours": own, "bits_per_byte_theirs": other, "bits_per_byte_ratio": own / other}
        return Result.rate("unigram-train", megabytes, seconds, unit="MB/s", peer=title, **more)

    @bench.measure("unigram-encode")
    def encode() -> Result:
        texts, megabytes = corpus()
        mine = tokenizer()
        peer, title = find_peer("sentencepiece")
        runs: dict[str, Any] = {
            "ours": lambda: [cold().encode(text) for text in texts[:1]] + [mine.encode(text) for text in texts[1:]],
            "warm": lambda: [mine.encode(text) for text in texts],
            "arrays": lambda: cold().encode_batch(texts),
        }
        if peer:
            theirs = peer.SentencePieceProcessor(model_proto=model())
            runs["theirs"] = lambda: [theirs.encode(text) for text in texts]
            assert runs["ours"]() == runs["theirs"](), "the ids differ"
        seconds = interleave(runs, rounds=5, clock=CPU)
        return Result.rate(
            "unigram-encode", megabytes, seconds, unit="MB/s", peer=title, cache="cold at the first text",
            warm_cache=megabytes / seconds["warm"], numpy_arrays_out=megabytes / seconds["arrays"],
        )  # fmt: skip

    @bench.measure("unigram-sample")
    def sample() -> Result:
        texts = corpus()[0][:600]
        megabytes = sum(len(text.encode("utf-8")) for text in texts) / 1e6
        mine = tokenizer()
        peer, title = find_peer("sentencepiece")
        # A new tokenizer a round, so that its tables of draws are made anew.
        runs: dict[str, Any] = {
            "ours": lambda: [
                fresh.sample(text, seed=i) for fresh in [SentencePiece(mine.model)] for i, text in enumerate(texts)
            ]
        }
        if peer:
            theirs = peer.SentencePieceProcessor(model_proto=model())
            runs["theirs"] = lambda: [
                theirs.encode(text, enable_sampling=True, alpha=0.1, nbest_size=-1) for text in texts
            ]
        seconds = interleave(runs, rounds=3, clock=CPU)
        return Result.rate("unigram-sample", megabytes, seconds, unit="MB/s", peer=title, alpha=0.1)


def bits_per_byte(peer: Any, model: bytes, lines: list[str]) -> float:
    """Of the lines, by the model's own probabilities; a byte of fallback counts 16 bits."""
    processor = peer.SentencePieceProcessor(model_proto=model)
    scores = [16 * np.log(2) if processor.is_byte(i) else -processor.get_score(i) for i in range(len(processor))]
    counts = np.zeros(len(processor))
    for start in range(0, len(lines), 100_000):
        ids = np.concatenate([np.array(ids, np.int64) for ids in processor.encode(lines[start : start + 100_000])])
        counts += np.bincount(ids, minlength=len(counts))
    return float(counts @ np.array(scores)) / np.log(2) / sum(len(line.encode("utf-8")) for line in lines)
