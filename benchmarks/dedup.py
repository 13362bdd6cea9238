"""Near-duplicate removal against datasketch and rensa, one thread, on the standard library's sources.

    python benchmarks/dedup.py [--only NAME]

From texts in memory to the list of those that stay: words, shingles of five, 128 permutations, bands for a threshold of
0.8. CPU seconds of this process, median of interleaved rounds; compilation (once a machine) is not included and is
reported in `more`. The peers get shingles made the way their users make them, one regular expression and a
comprehension, in the timed part; `more` has their time without that. datasketch inserts a text where a query finds
nothing. rensa runs its fastest documented path, the batch of token sets with "rho" sketches and one pass for
duplicate flags, which flags every text of a bucket and names no pairs, so its decisions are compared as flags, and
those of its slower deduplicator as what stays. Texts without a word are left out of both comparisons: the peers take
all of them for one.
"""

from __future__ import annotations

import functools
import os
import re
import time
from typing import Any

os.environ.update({"RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"})

from _corpora import library
from _harness import Benchmark, Result, find_peer, interleave

from evidence import _near_duplicates as near_duplicates
from llmanac.data.stages.minhash import Spec

bench = Benchmark("dedup", "MinHash deduplication against datasketch and rensa, one thread.")
CPU = time.process_time
SPEC = Spec(threshold=0.8, permutations=128, width=5)
_WORD = re.compile(r"\w+")


@functools.cache
def corpus() -> tuple[list[str], float]:
    """The sources and their megabytes."""
    texts = library()
    return texts, sum(len(text.encode("utf-8")) for text in texts) / 1e6


def shingles(text: str) -> list[str]:
    """As a user of the peers writes it."""
    words = _WORD.findall(text)
    return [" ".join(words[i : i + 5]) for i in range(max(1, len(words) - 4))] if words else []


@functools.cache
def seconds_to_compile() -> float:
    """Wall seconds of the very first call: compilation, or loading what an earlier process compiled."""
    start = time.perf_counter()
    near_duplicates.kept(["some words to compile with, and a few more"] * 2, SPEC)
    return time.perf_counter() - start


def agreement(ours: list[int], theirs: list[int], tokens: list[list[str]]) -> dict[str, Any]:
    """Of the texts that have shingles: how many each keeps, and how many only one does."""
    some = {i for i, shingled in enumerate(tokens) if shingled}
    mine, other = set(ours) & some, set(theirs) & some
    return {
        "texts": len(some), "kept_ours": len(mine), "kept_theirs": len(other), "kept_by_one_only": len(mine ^ other),
    }  # fmt: skip


@bench.measure("dedup-minhash")
def minhash() -> Result:
    texts, megabytes = corpus()
    compiling = seconds_to_compile()
    peer, title = find_peer("datasketch")

    def theirs(made: list[list[str]] | None = None) -> list[int]:
        index = peer.MinHashLSH(threshold=0.8, num_perm=128)
        kept = []
        for number, text in enumerate(texts):
            tokens = made[number] if made else shingles(text)
            if not tokens:
                kept.append(number)
                continue
            sketch = peer.MinHash(num_perm=128)
            sketch.update_batch([token.encode() for token in tokens])
            if not index.query(sketch):
                index.insert(number, sketch)
                kept.append(number)
        return kept

    runs: dict[str, Any] = {"ours": lambda: near_duplicates.kept(texts, SPEC)}
    more: dict[str, Any] = {"first_call_seconds": compiling}
    if peer:
        ready = [shingles(text) for text in texts]
        runs |= {"theirs": theirs, "given shingles": lambda: theirs(ready)}
        more |= agreement(near_duplicates.kept(texts, SPEC), theirs(ready), ready)
        pairs = near_duplicates.candidate_pairs(texts, Spec(threshold=0.8, hashing="sha1"))
        more["candidate_pairs_given_sha1"] = len(pairs)
        more["of_them_equal_to_the_peers"] = len(pairs & their_pairs(peer, texts))
    seconds = interleave(runs, rounds=3, clock=CPU)
    more |= {"seconds_ours": seconds["ours"], "seconds_theirs": seconds.get("theirs")}
    more["seconds_theirs_given_shingles"] = seconds.get("given shingles")
    return Result.rate("dedup-minhash", megabytes, seconds, unit="MB/s", peer=title, **more)


def their_pairs(peer: Any, texts: list[str]) -> set[tuple[int, int]]:
    """datasketch's candidates for the same shingles, hashed by its own default."""
    signer = SPEC.build().signer
    index, sketches = peer.MinHashLSH(threshold=0.8, num_perm=128), {}
    for number, text in enumerate(texts):
        tokens = signer.shingles(text)
        if tokens:
            sketches[number] = peer.MinHash(num_perm=128)
            sketches[number].update_batch([token.encode("utf-8", "surrogatepass") for token in tokens])
            index.insert(number, sketches[number])
    return {(i, j) for i, sketch in sketches.items() for j in index.query(sketch) if i < j}


@bench.measure("dedup-minhash-rust")
def minhash_rust() -> Result:
    texts, megabytes = corpus()
    compiling = seconds_to_compile()
    peer, title = find_peer("rensa")

    def flags(tokens: list[list[str]], rho: bool) -> list[bool]:
        make = peer.RMinHash.digest_matrix_from_token_sets_rho if rho else peer.RMinHash.digest_matrix_from_token_sets
        matrix = make(tokens, 128, 42)
        index = peer.RMinHashLSH(threshold=0.8, num_perm=128, num_bands=8)
        return list(index.query_duplicate_flags_matrix_one_shot(matrix))

    def pairs() -> list[bool]:
        index = peer.RMinHashDeduplicator(threshold=0.8, num_perm=128, use_lsh=True)
        return list(index.add_pairs((str(i), shingles(text)) for i, text in enumerate(texts)))

    runs: dict[str, Any] = {"ours": lambda: near_duplicates.kept(texts, SPEC)}
    more: dict[str, Any] = {"first_call_seconds": compiling}
    if peer:
        ready = [shingles(text) for text in texts]
        runs |= {
            "theirs": lambda: flags([shingles(text) for text in texts], True),
            "given shingles": lambda: flags(ready, True),
            "full sketches": lambda: flags([shingles(text) for text in texts], False),
            "deduplicator": pairs,
            "single words": lambda: flags([text.split() for text in texts], True),
        }
        mine = near_duplicates.candidate_pairs(texts, SPEC)
        flagged = {i for pair in mine for i in pair}
        for name, found in (("rho", flags(ready, True)), ("full", flags(ready, False))):
            marked = {i for i, flag in enumerate(found) if flag and ready[i]}
            more |= {f"flagged_{name}": len(marked), f"flagged_{name}_and_ours": len(marked & flagged)}
        more |= {"flagged_ours": len(flagged)}
        theirs = [i for i, kept in enumerate(pairs()) if kept]
        more |= agreement(near_duplicates.kept(texts, SPEC), theirs, ready)
    seconds = interleave(runs, rounds=3, clock=CPU)
    for name, value in seconds.items():
        more[f"seconds_{name.replace(' ', '_')}"] = value
    return Result.rate("dedup-minhash-rust", megabytes, seconds, unit="MB/s", peer=title, **more)


if __name__ == "__main__":
    bench.main()
