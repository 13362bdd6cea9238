"""Which documents stay: recall along the theory's curve, clusters against plain union-find, memory kept to its cap."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from evidence import _near_duplicates as near_duplicates
from llmanac.core.errors import DataError
from llmanac.data.deduplicate import deduplicate, run_corpus_stage
from llmanac.data.documents import Document
from llmanac.data.stages import Dropped
from llmanac.data.stages.minhash import Spec


def planted(similarity: float, pairs: int, seed: int, shingles: int = 120) -> list[tuple[str, str, float]]:
    """Pairs of texts of one-word shingles with (nearly) a wanted Jaccard similarity, and that similarity."""
    rng = random.Random(seed)
    shared = round(2 * shingles * similarity / (1 + similarity))
    out = []
    for number in range(pairs):
        words = [f"w{number}x{rng.getrandbits(40):x}" for _ in range(2 * shingles - shared)]
        one, other = words[:shingles], words[shingles - shared :]
        out.append((" ".join(one), " ".join(other), shared / (2 * shingles - shared)))
    return out


@pytest.mark.parametrize("similarity", [0.2, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0])
def test_recall_follows_the_curve(similarity: float) -> None:
    pairs = planted(similarity, 400, int(similarity * 100))
    spec = Spec(width=1, threshold=0.75)
    stage = spec.build()
    texts = [text for one, other, _ in pairs for text in (one, other)]
    found = near_duplicates.candidate_pairs(texts, spec)
    hits = sum((2 * i, 2 * i + 1) in found for i in range(len(pairs)))
    exact = near_duplicates.exact_jaccard(*pairs[0][:2], spec)
    assert exact == pytest.approx(pairs[0][2], abs=1e-12)
    chance = 1 - (1 - exact**stage.rows) ** stage.bands
    low, high = stats.binom.ppf([1e-5, 1 - 1e-5], len(pairs), chance)
    assert low <= hits <= high, f"{hits} of {len(pairs)} at s = {exact:.3f}, where {chance:.3f} are expected"
    assert len(found) == hits, "texts that share nothing are no candidates"


def variants(seed: int, families: int = 150, extra: int = 250) -> list[str]:
    """Families of texts that differ in a few words, and texts of their own, shuffled."""
    rng = random.Random(seed)
    words = [f"{a}{b}" for a in "bcdfghjklmnp" for b in ("a", "e", "i", "o", "u", "an", "el", "or")]
    texts = []
    for _ in range(families):
        base = [rng.choice(words) for _ in range(80)]
        for _ in range(rng.randrange(1, 6)):
            texts.append(" ".join(w if rng.random() > 0.02 else rng.choice(words) for w in base))
    texts += [" ".join(rng.choice(words) for _ in range(60)) for _ in range(extra)]
    rng.shuffle(texts)
    return texts


def plain_clusters(count: int, pairs: set[tuple[int, int]]) -> list[int]:
    parents = list(range(count))

    def root(i: int) -> int:
        while parents[i] != i:
            i = parents[i]
        return i

    for i, j in pairs:
        a, b = sorted((root(i), root(j)))
        parents[b] = a
    return [root(i) for i in range(count)]


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9])
def test_kept_documents_equal_plain_union_find(threshold: float) -> None:
    texts = variants(1)
    spec = Spec(threshold=threshold, width=3)
    roots = plain_clusters(len(texts), near_duplicates.candidate_pairs(texts, spec))
    expected = [text if roots[i] == i else None for i, text in enumerate(texts)]
    kept, report = deduplicate(texts, spec)
    assert kept == expected
    assert near_duplicates.kept(texts, spec) == [i for i, text in enumerate(expected) if text is not None]
    assert report["dropped"] == sum(text is None for text in expected) > 20
    assert report["clusters"] == len({r for i, r in enumerate(roots) if r != i})


def test_exact_verification_joins_only_what_is_similar() -> None:
    texts = variants(2)
    spec = Spec(threshold=0.7, width=3, verify="exact", bands=40, rows=3)
    candidates = near_duplicates.candidate_pairs(texts, spec)
    alike = {p for p in candidates if near_duplicates.exact_jaccard(texts[p[0]], texts[p[1]], spec) >= 0.7}
    roots = plain_clusters(len(texts), alike)
    kept, report = deduplicate(texts, spec)
    assert kept == [text if roots[i] == i else None for i, text in enumerate(texts)]
    assert report["verified"]["rejected"] > 10 and report["verified"]["unchecked"] == 0
    loose, loose_report = deduplicate(texts, Spec(threshold=0.7, width=3, bands=40, rows=3))
    assert sum(text is None for text in loose) > report["dropped"]
    assert loose_report["similarity_to_the_kept"]["below_threshold"] > 0
    assert report["similarity_to_the_kept"]["by"] == "shingle sets"


def outcome(shards: Sequence[list[Document]], spec: Spec, folder: Path, memory: int = 1 << 30) -> dict[str, bool]:
    results, _ = run_corpus_stage(spec.build(), [lambda s=shard: s for shard in shards], folder, memory=memory)
    out = {}
    for shard, result in zip(shards, results, strict=True):
        for document, made in zip(shard, result, strict=True):
            out[document.id] = not isinstance(made, Dropped)
    return out


@pytest.mark.parametrize("verify", ["none", "signature", "exact"])
def test_stable_keeps_the_same_in_any_order_of_shards(tmp_path: Path, verify: Any) -> None:
    documents = [Document(f"d{i}", text, "") for i, text in enumerate(variants(3))]
    spec = Spec(threshold=0.6, width=3, keep="stable", verify=verify)
    expected = outcome([documents], spec, tmp_path / "one")
    rng = random.Random(0)
    for trial in range(3):
        rng.shuffle(documents)
        cuts = sorted(rng.sample(range(len(documents)), 4))
        shards = [documents[a:b] for a, b in zip([0, *cuts], [*cuts, None], strict=True)]
        assert outcome(shards, spec, tmp_path / str(trial), memory=80 * len(documents) + 4_000_000) == expected
    assert not all(expected.values())


def test_the_longest_stays_and_the_detail_names_it(tmp_path: Path) -> None:
    base = " ".join(f"word{i}" for i in range(100))
    documents = [
        Document("short", base, ""),
        Document("long", base + " more", ""),
        Document("other", "a b c d e f", ""),
    ]
    results, report = run_corpus_stage(Spec(keep="longest").build(), [lambda: documents], tmp_path, memory=1 << 23)
    dropped, *rest = results[0]
    assert isinstance(dropped, Dropped) and dropped.reason == "near-duplicate"
    assert dropped.detail.startswith("of long, Jaccard similarity 0.9") and rest == documents[1:]
    assert report["largest_clusters"] == [2]


def test_a_chain_is_reported(tmp_path: Path) -> None:
    words = [f"w{i}" for i in range(400)]
    texts = [" ".join(words[start : start + 200]) for start in range(0, 160, 20)]  # neighbours share 180 of 220
    kept, report = deduplicate(texts, Spec(width=1, threshold=0.8, verify="exact", bands=40, rows=3))
    assert [text is not None for text in kept] == [True] + [False] * 7
    assert report["similarity_to_the_kept"]["below_threshold"] == 6, "only the nearest is as similar as 0.8"


def test_many_equal_documents_and_documents_without_words() -> None:
    texts = ["the very same text in all of them"] * 20_000 + ["", "...", "...", " "]
    for verify in ("none", "exact"):
        kept, report = deduplicate(texts, Spec(verify=verify))
        assert [i for i, text in enumerate(kept) if text is not None] == [0, 20_000, 20_001, 20_002, 20_003]
        assert report["without_shingles"] == 4 and report["largest_clusters"] == [20_000]


@pytest.mark.parametrize("verify", ["none", "signature"])
def test_deciding_keeps_to_its_memory(tmp_path: Path, verify: Any) -> None:
    count = 20_000
    words = [f"{i:x}" for i in range(200)]
    rng = random.Random(0)
    bases = [" ".join(rng.choices(words, k=30)) for _ in range(15_000)]
    documents = [Document(f"d{i}", rng.choice(bases) + rng.choice(["", " and more"]), "") for i in range(count)]
    spec = Spec(width=2, verify=verify, permutations=256)
    stage = spec.build()
    parts = [documents[i : i + 5000] for i in range(0, count, 5000)]
    summaries = [tmp_path / f"s{i}" for i in range(4)]
    for part, summary in zip(parts, summaries, strict=True):
        stage.summarise(part, summary)
    expected = stage.decide(summaries, [tmp_path / f"a{i}" for i in range(4)], memory=1 << 30)
    memory = 80 * count + 4_000_000
    assert memory < 4 * 256 * count / 3, "the cap is a part of the signatures"
    tracemalloc.start()
    found = stage.decide(summaries, [tmp_path / f"b{i}" for i in range(4)], memory=memory)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == expected and found["dropped"] > 0
    assert peak <= memory, f"{peak} bytes held at once, {memory} allowed"
    for i in range(4):
        assert (tmp_path / f"a{i}").read_bytes() == (tmp_path / f"b{i}").read_bytes()
    assert not list(tmp_path.glob("*sorting*"))
    with pytest.raises(
        DataError, match=rf"memory: 1000000 bytes are too few to cluster 20000 documents; give {memory}"
    ):
        stage.decide(summaries, [tmp_path / f"b{i}" for i in range(4)], memory=1_000_000)


def test_union_find_on_large_random_edges() -> None:
    from llmanac.kernels.dedup import minhash as kernel

    rng = np.random.default_rng(0)
    left, right = rng.integers(0, 3000, (2, 2500))
    parents = np.arange(3000)
    kernel.union(parents, left, right)
    kernel.flatten(parents)
    assert parents.tolist() == plain_clusters(3000, set(zip(left.tolist(), right.tolist(), strict=True)))
