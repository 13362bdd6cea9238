"""BM25 against bm25s and rank_bm25: building an index and answering queries, over this machine's own documentation.

The texts are the docstrings of the standard library, repeated with other words mixed in until there are about `TEXTS`
of them; every engine is given the same lists of words, so only indexing and scoring are measured. One thread.
"""

from __future__ import annotations

import random

from _harness import Benchmark, Result, find_peer, interleave

TEXTS = 40_000
QUERIES = 300
K = 10

bench = Benchmark("retrieve", "BM25 against its peers: the same words in, ten best texts out; one thread.")


def corpus() -> tuple[list[list[str]], list[list[str]]]:
    """Lists of words of every text, and of every query (a few words of one text)."""
    from llmanac.core.spec import make_method
    from llmanac.retrieve._words import code_words

    rng = random.Random(0)
    entries = make_method("source", "python-docs").entries()
    own = [code_words(f"{entry.name}{entry.signature}\n{entry.doc}") for entry in entries]
    texts = list(own)
    while len(texts) < TEXTS:
        first, second = rng.choices(own, k=2)
        texts.append(first[: len(first) // 2] + second[len(second) // 2 :] or ["empty"])
    queries = [rng.sample(t, min(len(t), 6)) for t in rng.choices(texts, k=QUERIES)]
    return texts, queries


@bench.measure("bm25-index")
def index() -> Result:
    """Texts indexed a second."""
    from llmanac.retrieve.bm25 import BM25

    texts, _ = corpus()
    bm25s, peer = find_peer("bm25s")

    def theirs() -> None:
        bm25s.BM25(method="lucene").index(texts, show_progress=False)

    runs = {"ours": lambda: BM25(texts)} | ({"theirs": theirs} if bm25s else {})
    return Result.rate("bm25-index", len(texts), interleave(runs, rounds=5), unit="texts/s", peer=peer)


def queries_a_second(name: str, backend: str) -> Result:
    """Queries answered a second, the ten best of each, against one of bm25s's two backends."""
    from llmanac.retrieve.bm25 import BM25

    texts, queries = corpus()
    ours = BM25(texts)
    bm25s, peer = find_peer("bm25s")
    runs = {"ours": lambda: [ours.top(q, K) for q in queries]}
    if bm25s:
        index = bm25s.BM25(method="lucene", backend=backend)
        index.index(texts, show_progress=False)
        runs["theirs"] = lambda: index.retrieve(queries, k=K, show_progress=False, n_threads=1)
    return Result.rate(name, len(queries), interleave(runs, rounds=9), unit="queries/s", peer=f"{peer} ({backend})")


@bench.measure("bm25-query")
def query() -> Result:
    """Against bm25s with its default backend."""
    return queries_a_second("bm25-query", "numpy")


@bench.measure("bm25-query-numba")
def query_numba() -> Result:
    """Against bm25s's compiled backend."""
    return queries_a_second("bm25-query-numba", "numba")


@bench.measure("bm25-query-rank-bm25")
def query_rank_bm25() -> Result:
    """The same against rank_bm25, over fewer queries, since it scores every text in Python."""
    from llmanac.retrieve.bm25 import BM25, Spec

    texts, queries = corpus()
    few = queries[:20]
    ours = BM25(texts, Spec(variant="okapi"))
    rank_bm25, peer = find_peer("rank_bm25")
    runs = {"ours": lambda: [ours.top(q, K) for q in few]}
    if rank_bm25:
        other = rank_bm25.BM25Okapi(texts)
        runs["theirs"] = lambda: [other.get_top_n(q, texts, K) for q in few]
    return Result.rate("bm25-query-rank-bm25", len(few), interleave(runs, rounds=3), unit="queries/s", peer=peer)


if __name__ == "__main__":
    bench.main()
