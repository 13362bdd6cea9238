"""Near-duplicates by MinHash and locality-sensitive hashing: of each cluster of similar documents one stays.

A document is the set of its shingles (runs of `width` words). The Jaccard similarity of two sets is
`s = |A & B| / |A | B|`. For a random order of all shingles, the first of A and the first of B are the same with
probability s. A signature holds the first under each of `permutations` orders: the fraction of equal values estimates s
with a standard error of at most `0.5 / sqrt(permutations)`. A signature is cut into `bands` bands of `rows` values; two
documents that agree in one band are candidates, which happens with probability

    P(s) = 1 - (1 - s^rows)^bands

an S-curve that is steep near the threshold. Candidates are joined, and of each connected cluster one document stays.

Our choices, which other implementations may make otherwise: a document without a shingle (no word in it) is no
duplicate; a document of fewer words than `width` has one shingle, all of it; text is compared as it is unless
`letters` says otherwise. Words are runs of letters, numbers, marks and connectors; scripts that write no spaces are
better compared by `unit = "characters"`. The permutations, the mixing and the choice of bands are datasketch's
(scheme "affine32"): given the same shingle hashes the candidate pairs are the same, and with `hashing = "sha1"` the
signatures are those its default makes of the same shingles.

Clusters chain: A like B, B like C, and A goes with C though they differ. The report counts the documents that went
although they are less similar than the threshold to the one that stayed.

Broder 1997, "On the resemblance and containment of documents"; Indyk and Motwani 1998.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from llmanac.core.errors import SpecError
from llmanac.core.ranges import FRACTION, SOME, Range, within
from llmanac.data.documents import Document
from llmanac.data.stages import CorpusStage, Dropped, StageSpec
from llmanac.data.stages._blocks import BlockWriter, opened
from llmanac.data.stages._clusters import find_clusters, representatives, scratch
from llmanac.data.stages._positions import Positions, drop_matched, pack_names, write_drops
from llmanac.data.stages._signatures import Hashing, Letters, Signer, Unit, best_bands
from llmanac.data.stages._similarity import PairSimilarity
from llmanac.kernels.dedup import minhash as kernel

CARD = {
    "title": "Near-duplicates by MinHash and locality-sensitive hashing",
    "paper": "Broder 1997, On the resemblance and containment of documents",
    "reference": "datasketch.MinHashLSH",
    "aliases": {},
}

SIGNED, BYTES = 1 << 19, 8 << 20  # signatures and text that are worked on together


@dataclass(frozen=True, kw_only=True)
class Spec(StageSpec):
    """What is similar, how surely it is found, and which document stays.

    Attributes:
        threshold: Jaccard similarity from which documents count as near-duplicates.
        permutations: values in a signature.
        bands, rows: set both, or neither: then they are chosen for the threshold.
        false_positive_weight: how much a false candidate counts against a missed one in that choice.
        unit: "words", "spaced" (what `str.split` gives) or "characters".
        width: units in a shingle.
        letters: "as-is", "lower", or "nfkc-lower" (Unicode NFKC, then lower case).
        hashing: "fast", or "sha1" (slow; datasketch's default).
        verify: join every candidate ("none"), those whose signatures agree to the threshold ("signature"), or those
            whose shingle sets do ("exact"; sets are kept as 64-bit hashes).
        keep: the document that stays: the "first", the "longest", or the one with the smallest hash of id and text
            ("stable": the same in whatever order the shards come).
        seed: draws the permutations.
    """

    threshold: float = 0.8
    permutations: int = 128
    bands: int | None = None
    rows: int | None = None
    false_positive_weight: float = 0.5
    unit: Unit = "words"
    width: int = 5
    letters: Letters = "as-is"
    hashing: Hashing = "fast"
    verify: Literal["none", "signature", "exact"] = "none"
    keep: Literal["first", "longest", "stable"] = "first"
    seed: int = 1

    ranges = (
        within(SOME, "threshold")
        | within(Range(2, 4096), "permutations")
        | within(FRACTION, "false_positive_weight")
        | within(Range(1, 1000), "width")
        | within(Range(0, (1 << 32) - 1), "seed")
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.bands is None) != (self.rows is None):
            raise SpecError("bands: set bands and rows together, or neither")
        bands, rows = self.bands or 0, self.rows or 0
        if self.bands is not None and (min(bands, rows) < 1 or bands * rows > self.permutations):
            raise SpecError(f"bands: {self.bands} x {self.rows} rows do not fit {self.permutations} permutations")

    def build(self, **dims: Any) -> MinHash:
        return MinHash(self)


class MinHash(CorpusStage):
    """Reasons: `near-duplicate`. Memory of `decide` is bounded by its argument; of the passes, by one long document."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.signer = Signer(spec.permutations, spec.width, spec.unit, spec.letters, spec.hashing, spec.seed)
        chosen = (spec.bands, spec.rows)
        self.bands, self.rows = (
            (chosen[0], chosen[1])
            if chosen[0] and chosen[1]
            else best_bands(spec.threshold, spec.permutations, spec.false_positive_weight)
        )
        self._ordered = spec.keep != "first"

    def band_keys(self, signatures: np.ndarray) -> np.ndarray:
        """(bands, documents) uint64 keys; two different bands have one key with probability 2^-64."""
        return kernel.band_keys(signatures, self.bands, self.rows)

    def summarise(self, documents: Iterable[Document], summary: Path) -> None:
        """Signatures and band keys; the shingle sets where candidates are verified exactly."""
        with BlockWriter(summary) as writer:
            for batch in _batches(documents, max(8, SIGNED // (4 * self.spec.permutations))):
                texts = [document.text for document in batch]
                signatures, counts = self.signer.sign(texts)
                arrays = {"keys": self.band_keys(signatures), "signatures": signatures, "counts": counts}
                if self._ordered:
                    arrays["order"] = np.array([self._order(document) for document in batch], np.uint64)
                if self.spec.verify == "exact":
                    sets = [self.signer.sets(text) for text in texts]
                    arrays["sets"] = np.concatenate(sets)
                    arrays["set_ends"] = np.cumsum([len(s) for s in sets], dtype=np.int64)
                writer.add(**arrays, **pack_names([document.id for document in batch]))

    def _order(self, document: Document) -> int:
        if self.spec.keep == "longest":
            return (1 << 64) - 1 - len(document.text)
        data = json.dumps([document.id, document.text]).encode("ascii")
        return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")

    def decide(self, summaries: Sequence[Path], decisions: Sequence[Path], *, memory: int) -> dict[str, Any]:
        """Raises DataError for a memory that is too small for so many documents."""
        spec = self.spec
        with opened(summaries) as readers:
            positions = Positions(readers, "counts")
            pairs = PairSimilarity(positions, "exact" if spec.verify == "exact" else "signature", spec.threshold)
            found = find_clusters(
                positions,
                self.bands,
                memory=memory,
                folder=scratch(decisions, "sorting"),
                similarity=None if spec.verify == "none" else pairs.similarity,
                threshold=spec.threshold,
                ordered=self._ordered,
            )
            kept = representatives(positions, found.parents, self._ordered)
            write_drops(decisions, positions, pairs.drops(kept))
            sizes = np.bincount(found.parents, minlength=1)
            sizes = np.sort(sizes[sizes > 1])[::-1]
            dropped = int((kept != np.arange(len(kept))).sum())
            report = {
                "documents": positions.total, "kept": positions.total - dropped, "dropped": dropped,
                "without_shingles": pairs.without_shingles(),
                "threshold": spec.threshold, "bands": self.bands, "rows": self.rows,
                "clusters": len(sizes), "largest_clusters": sizes[:10].tolist(),
                "similarity_to_the_kept": pairs.report(),
            }  # fmt: skip
            if spec.verify != "none":
                report["verified"] = {
                    "by": spec.verify, "compared": found.compared, "rejected": found.rejected,
                    "unchecked": found.unchecked,
                }  # fmt: skip
            return report

    def apply(self, documents: Iterable[Document], decisions: Path) -> Iterator[Document | Dropped]:
        return drop_matched(documents, decisions, "near-duplicate", "of {kept}, Jaccard similarity {similarity}")


def _batches(documents: Iterable[Document], most: int) -> Iterator[list[Document]]:
    batch: list[Document] = []
    size = 0
    for document in documents:
        if batch and (len(batch) == most or size + len(document.text) > BYTES):
            yield batch
            batch, size = [], 0
        batch.append(document)
        size += len(document.text)
    if batch:
        yield batch
