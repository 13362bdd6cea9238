"""Against gigatoken and gigabpe, two young tokenizers in Rust: encoding to arrays, training from a file, two threads.

Neither is in [bench], since gigabpe has no wheel for some systems and gigatoken's batches need awkward besides:
`pip install gigatoken gigabpe awkward`. One thread is CPU seconds of this process; two threads are seconds of the
clock, and so only mean something on a quiet machine with two processors or more.
"""

from __future__ import annotations

import base64
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _harness import Benchmark, Result, find_peer, interleave

from llmanac.core.threads import VARIABLE
from llmanac.tokenizers._bpe import BPE
from llmanac.tokenizers._byte_level import written
from llmanac.tokenizers.load import train_tokenizer

ROUNDS = 5
Corpus = Callable[[], tuple[list[str], float]]


def add(bench: Benchmark, corpus: Corpus, learned: Callable[[], BPE]) -> None:
    """Give a benchmark the measurements `bpe-encode-array`, `bpe-train-file-8k` and `-32k`, and `threads-2`."""

    @bench.measure("bpe-encode-array")
    def encode_array() -> Result:
        texts, megabytes = corpus()
        mine = learned()
        peer, title = find_peer("gigatoken")
        peer = peer if find_peer("awkward")[0] else None

        def first() -> Any:
            mine.forget_words()
            return mine.encode_batch(texts)

        runs: dict[str, Any] = {"ours": lambda: mine.encode_batch(texts), "first": first}
        if peer:
            # A new one a round, made before the clock starts, has seen no word.
            fresh = [of_gigatoken(peer, mine) for _ in range(ROUNDS + 1)]
            known = of_gigatoken(peer, mine)
            runs["theirs"] = lambda: known.encode_batch(texts, parallel=False)
            runs["their first"] = lambda: fresh.pop().encode_batch(texts, parallel=False)
            for ours, theirs in zip(mine.encode_batch(texts), known.encode_batch(texts), strict=True):
                assert np.array_equal(ours, np.asarray(theirs)), "the ids differ"
        seconds = interleave(runs, rounds=ROUNDS, clock=time.process_time)
        more: dict[str, Any] = {"first_encounter_ours": megabytes / seconds["first"]}
        if peer:
            more["first_encounter_theirs"] = megabytes / seconds["their first"]
            more["first_encounter_ratio"] = seconds["their first"] / seconds["first"]
        return Result.rate("bpe-encode-array", megabytes, seconds, unit="MB/s", peer=title, cache="warm", **more)

    @bench.measure("threads-2")
    def two_threads() -> Result:
        """Encoding and training from a file on two threads against one, by the clock."""
        texts, megabytes = corpus()
        mine = learned()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "corpus.txt"
            path.write_text("\n".join(texts), "utf-8", newline="")
            runs = {
                "ours": lambda: with_threads(2, lambda: mine.encode_batch(texts)),
                "theirs": lambda: with_threads(1, lambda: mine.encode_batch(texts)),
                "two": lambda: with_threads(2, lambda: learn(path, 8192)),
                "one": lambda: with_threads(1, lambda: learn(path, 8192)),
            }
            seconds = interleave(runs, rounds=ROUNDS)
        training = seconds["one"] / seconds["two"]
        return Result.rate("threads-2", megabytes, seconds, unit="MB/s", peer="one thread", training_ratio=training)

    def training(name: str, vocab_size: int) -> Result:
        texts, megabytes = corpus()
        peer, title = find_peer("gigabpe")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "corpus.txt"
            path.write_text("\n".join(texts), "utf-8", newline="")

            lines = [line + "\n" for text in texts for line in text.split("\n")]

            def theirs(size: int, threads: int = 1) -> Any:
                return peer.train_bpe(  # type: ignore[union-attr]
                    [str(path)], vocab_size=size, special_tokens=[], pretokenizer="bytelevel", threads=threads
                )

            runs: dict[str, Any] = {"ours": lambda: learn(path, vocab_size)}
            if peer:
                # Its alphabet has only the bytes that occur; as many merges for both.
                size = vocab_size - 256 + alphabet(theirs(300))
                runs["theirs"] = lambda: theirs(size)
                # It takes each line for a text of its own, so that no piece goes on over the end of a line.
                assert merges_of(learn(lines, vocab_size)) == theirs(size)[1], "the merges differ"
            seconds = interleave(runs, rounds=3, clock=time.process_time)
            clocks = {"ours": lambda: with_threads(2, lambda: learn(path, vocab_size))}
            clocks |= {"theirs": lambda: theirs(size, 2)} if peer else {}
            both = interleave(clocks, rounds=3)
        more = {f"two_threads_clock_{whose}": value for whose, value in both.items()}
        return Result.rate(name, megabytes, seconds, unit="MB/s", peer=title, **more)

    bench.add("bpe-train-file-8k", training, 8192)

    bench.add("bpe-train-file-32k", training, 32_000)


def learn(source: Path | list[str], vocab_size: int) -> BPE:
    made = train_tokenizer("bpe", source, vocab_size=vocab_size, pattern="gpt2", special_tokens=())
    assert isinstance(made, BPE)
    return made


def with_threads(count: int, run: Callable[[], Any]) -> Any:
    """What a function returns with so many threads."""
    before = os.environ.get(VARIABLE, "")
    os.environ[VARIABLE] = str(count)
    try:
        return run()
    finally:
        os.environ[VARIABLE] = before


def of_gigatoken(peer: Any, mine: BPE) -> Any:
    """The same vocabulary in gigatoken."""
    lines = [f"{base64.b64encode(data or b'').decode()} {id}\n" for id, data in enumerate(mine.tokens)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "learned.tiktoken"
        path.write_text("".join(lines), "ascii")
        return peer.Tokenizer.from_tiktoken(path, pretokenizer="gpt2", special_tokens={})


def alphabet(learned: tuple[dict[str, int], list[tuple[str, str]]]) -> int:
    """How many single bytes gigabpe's vocabulary has."""
    return sum(len(token) == 1 for token in learned[0])


def merges_of(made: BPE) -> list[tuple[str, str]]:
    """The merges in the letters of a `tokenizer.json`."""
    spelled = [written(data or b"") for data in made.tokens]
    return [(spelled[left], spelled[right]) for left, right in made.merges[:2].T.tolist()]
