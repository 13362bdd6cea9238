"""MinHash on texts in memory: signatures, candidate pairs, exact similarities, and which texts stay.

The same choices as the stage `minhash` (`data/stages/minhash.py`), without
its files; for studies, tests and benchmarks.
"""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from llmanac.core.errors import DataError
from llmanac.data.stages._similarity import jaccard
from llmanac.data.stages.minhash import MinHash, Spec
from llmanac.kernels.dedup import minhash as kernel

PAIRS = 50_000_000  # more candidate pairs than this are not listed


def signatures(texts: Sequence[str], spec: Spec | None = None) -> np.ndarray:
    """(texts, permutations) uint32."""
    return (spec or Spec()).build().signer.sign(texts)[0]


def exact_jaccard(one: str, other: str, spec: Spec | None = None) -> float:
    """The Jaccard similarity of two texts' shingle sets (as 64-bit hashes)."""
    signer = (spec or Spec()).build().signer
    return jaccard(signer.sets(one), signer.sets(other))


def _buckets(keys: np.ndarray, counts: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each band: the texts in order of their keys, and where each bucket of two or more starts and stops."""
    some = np.flatnonzero(counts > 0)
    for band in keys:
        order = some[np.argsort(band[some], kind="stable")]
        ordered = band[order]
        edges = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1], [True]])) if len(order) else some
        starts, stops = edges[:-1], edges[1:]
        large = stops - starts > 1
        yield order, np.column_stack([starts[large], stops[large]])


def candidate_pairs(texts: Sequence[str], spec: Spec | None = None) -> set[tuple[int, int]]:
    """Every pair `(i, j)`, i < j, of texts that agree in a band: what an LSH index would answer for each text.

    Raises:
        DataError: more than `PAIRS` pairs, as of very many equal texts; `kept` needs no pairs and copes with them.
    """
    stage: MinHash = (spec or Spec()).build()
    signed, counts = stage.signer.sign(texts)
    pairs: set[tuple[int, int]] = set()
    for order, buckets in _buckets(stage.band_keys(signed), counts):
        sizes = (buckets[:, 1] - buckets[:, 0]).astype(np.int64)
        if len(pairs) + int((sizes * (sizes - 1) // 2).sum()) > PAIRS:
            raise DataError(f"texts: more than {PAIRS} candidate pairs; drop exact duplicates first, or use kept()")
        for start, stop in buckets.tolist():
            pairs.update(itertools.combinations(order[start:stop].tolist(), 2))
    return pairs


def kept(texts: Sequence[str], spec: Spec | None = None) -> list[int]:
    """The numbers of the texts that stay: of each cluster of candidates the first. The stage with `verify = "none"`
    and `keep = "first"` keeps the same."""
    stage: MinHash = (spec or Spec()).build()
    signed, counts = stage.signer.sign(texts)
    parents = np.arange(len(texts), dtype=np.int64)
    for order, buckets in _buckets(stage.band_keys(signed), counts):
        for start, stop in buckets.tolist():
            members = order[start:stop]
            kernel.union(parents, members[1:], np.repeat(members[:1], len(members) - 1))
    kernel.flatten(parents)
    return np.flatnonzero(parents == np.arange(len(texts))).tolist()
