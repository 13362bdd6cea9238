"""Dense retrieval: texts and query as vectors of an encoder; the texts with the largest dot product.

    score(q, d) = e(q) . e(d)        e(x) = pooled hidden states (mean, CLS or last token), of length 1

Search is exact: a block of vectors (R, D) times the queries (B, D) is one BLAS product, and a compiled loop keeps each
query's k best, so that the (B, N) scores are never in memory together. Vectors are float32, or float16 in half the
memory, of which a block at a time becomes float32.

Karpukhin et al. 2020, arXiv:2004.04906; Reimers & Gurevych 2019, arXiv:1908.10084 (pooling).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from llmanac.core.errors import DataError, SpecError
from llmanac.core.progress import progress, say_once
from llmanac.retrieve import Hit, RetrieverSpec
from llmanac.retrieve._index import load_index, save_index

CARD = {
    "title": "Dense retrieval by an encoder's vectors, exact search",
    "paper": "Karpukhin et al. 2020, arXiv:2004.04906",
    "reference": "faiss.IndexFlatIP",
    "test": "tests/references/test_dense.py::test_search_equals_faiss",
}
FORMAT = "dense"
FEW = 4  # queries up to which a loop over the vectors is faster than a matrix product
BLOCK = 1 << 20  # numbers of a block of vectors: what is multiplied at once stays in the cache
TOGETHER = 64  # texts that are embedded between two lines of progress; folder indexes keep their vectors then
APART = 0.03  # of its length, that a vector may differ from what the same encoder gave its text before
CHANGED = (
    "its vectors are not those of the index: its files have changed since, or its name means another one here; remove "
    "the index, and name the encoder with --encoder again"
)
Encode = Callable[[Sequence[str]], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Spec(RetrieverSpec):
    """Choices of dense retrieval.

    Attributes:
        model: a folder or hub name of the encoder, of any family; empty where `build` is given an `encode` function.
        pooling: mean, cls or last; by default as the model's folder says.
        query_prefix, text_prefix: what the encoder was trained to see first, as "query: " and "passage: "; by default
            the prompts of the model's folder, if it has some.
        dtype: of the vectors that are kept.
    """

    model: str = ""
    pooling: Literal["mean", "cls", "last"] | None = None
    query_prefix: str | None = None
    text_prefix: str | None = None
    dtype: Literal["float32", "float16"] = "float32"

    def build(self, *, texts: Sequence[str] = (), encode: Encode | None = None) -> Dense:
        return Dense(texts, self, encode=encode)

    def prefixes(self) -> tuple[str, str]:
        """What comes before queries and before texts."""
        from llmanac.evaluate.embed import read_settings
        from llmanac.models.locate import model_folder

        query, text = self.query_prefix, self.text_prefix
        if self.model and None in (query, text):
            found = read_settings(model_folder(self.model))
            query = found.before("query") if query is None else query
            text = found.before("passage") if text is None else text
        return query or "", text or ""

    def encoder(self) -> Encode:
        """The model as a function from texts to vectors (N, D). Raises SpecError where none is named."""
        from llmanac.evaluate.embed import Embedder

        if not self.model:
            raise SpecError("model: name an encoder, for example the folder of all-MiniLM-L6-v2")
        embedder = Embedder.load(self.model, pooling=self.pooling, normalize=True)

        def encode(texts: Sequence[str]) -> np.ndarray:
            found = embedder.texts(texts, prompt="")
            if found.cut:
                say_once(
                    f"note: texts are longer than the {embedder.most} tokens that the encoder reads; only their "
                    "beginnings count (llmanac embed counts them)"
                )
            return found.vectors

        return encode


class Dense:
    """Vectors of texts, and their exact search.

    Args:
        encode: texts to vectors (N, D); by default the Spec's model, loaded at the first use.
        vectors: (N, D), where they are known already; then `texts` is left out.
        first: the text of the first of `vectors`, by which the encoder is known again before its first query.

    Raises:
        DataError: vectors that are not finite.
    """

    def __init__(
        self,
        texts: Sequence[str] = (),
        spec: Spec | None = None,
        *,
        encode: Encode | None = None,
        vectors: np.ndarray | None = None,
        first: str | None = None,
    ) -> None:
        self.spec, self._encode, self._first = spec or Spec(), encode, first
        self._prefixes: tuple[str, str] | None = None
        self.vectors = self.embed(texts) if vectors is None else vectors

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """(N, D) in the Spec's dtype, with progress."""
        parts = list(self.batches(texts))
        return np.concatenate(parts) if parts else np.empty((0, 0), self.spec.dtype)

    def batches(self, texts: Sequence[str]) -> Iterator[np.ndarray]:
        """`embed`, at most `TOGETHER` texts at a time."""
        with progress("embed", len(texts), "texts") as bar:
            for start in range(0, len(texts), TOGETHER):
                some = [self.prefixes[1] + text for text in texts[start : start + TOGETHER]]
                yield _finite(self._encoded(some)).astype(self.spec.dtype)
                bar.advance(len(some))

    @property
    def prefixes(self) -> tuple[str, str]:
        """What comes before queries and before texts; a function that was given gets only what the Spec sets."""
        if self._prefixes is None:
            own = self.spec.query_prefix or "", self.spec.text_prefix or ""
            self._prefixes = self.spec.prefixes() if self._encode is None else own
        return self._prefixes

    def _encoded(self, texts: Sequence[str]) -> np.ndarray:
        if self._encode is None:
            self._encode = self.spec.encoder()
        return np.asarray(self._encode(texts), np.float32)

    def __len__(self) -> int:
        return len(self.vectors)

    def top(self, query: str, k: int = 5) -> list[Hit]:
        """The `k` texts nearest to a query, best first; of equal ones the first."""
        if min(k, len(self)) < 1:
            return []
        places, scores = self.search(self.queries([query]), k)
        return [Hit(i, s) for i, s in zip(places[0].tolist(), scores[0].tolist(), strict=True)]

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        """(B, D) float32 vectors of queries. Raises DataError where the encoder is not that of the vectors any more."""
        first, self._first = self._first, None
        if first is not None and not same(self.embed([first])[0], self.vectors[0]):
            self._first = first
            raise DataError(f"{self.spec.model}: {CHANGED}")
        return _finite(self._encoded([self.prefixes[0] + text for text in texts]))

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions int64 and scores float32, both (B, min(k, N)), of queries (B, D).

        Raises:
            DataError: vectors of another size, or not finite.
        """
        from llmanac.retrieve._kernel import inner_products, merge_best

        queries = _finite(np.ascontiguousarray(queries, np.float32))
        size, width = self.vectors.shape
        if queries.ndim != 2 or (size and queries.shape[1] != width):
            raise DataError(f"queries: of shape {queries.shape}, but the texts have vectors of {width} numbers")
        k = max(0, min(k, size))
        places = np.empty((len(queries), k), np.int64)
        kept = np.empty((len(queries), k), np.float32)
        sizes = np.zeros(len(queries), np.int64)
        rows = max(64, BLOCK // max(1, width))
        for first in range(0, size if k else 0, rows):
            block = np.asarray(self.vectors[first : first + rows], np.float32)
            scores = inner_products(block, queries) if len(queries) <= FEW else queries @ block.T
            merge_best(scores, first, places, kept, sizes)
        return places, kept

    def save(self, folder: str | Path) -> None:
        """Write `index.json` and `index.safetensors` (atomic)."""
        save_index(folder, FORMAT, self.spec, {"vectors": np.asarray(self.vectors)}, {"size": len(self)})

    @classmethod
    def load(cls, folder: str | Path, *, encode: Encode | None = None) -> Dense:
        """Read an index back. Raises CheckpointError that names the file which is missing or damaged."""
        spec, arrays, _ = load_index(folder, FORMAT, Spec)
        return cls(spec=spec, encode=encode, vectors=arrays["vectors"])


def same(vector: np.ndarray, kept: np.ndarray) -> bool:
    """Whether two vectors (D,) are of one text and encoder, but for what float16 and the batch round."""
    one, other = vector.astype(np.float32), kept.astype(np.float32)
    return one.shape == other.shape and bool(np.linalg.norm(one - other) <= APART * np.linalg.norm(other))


def _finite(vectors: np.ndarray) -> np.ndarray:
    if not np.isfinite(vectors).all():
        raise DataError("vectors: some are not finite numbers; the encoder is damaged, or a text is empty")
    return vectors
