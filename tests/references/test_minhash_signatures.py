"""MinHash signatures and candidate pairs against datasketch: equal, value for value, given the same shingle hashes."""

from __future__ import annotations

import itertools
import random
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasketch import MinHash, MinHashLSH
from datasketch.lsh import _optimal_param
from hypothesis import given, settings
from hypothesis import strategies as st

from evidence import _near_duplicates as near_duplicates
from llmanac.core.errors import DataError, SpecError
from llmanac.core.spec import make_method
from llmanac.data.stages._signatures import Signer, best_bands, unit_tables, units_of
from llmanac.data.stages.minhash import Spec
from llmanac.kernels.dedup import minhash as kernel

ODD = [
    "", " ", "a", "a b", "one two three four five six", "x " * 5000, "Hello, wörld! foo_bar 12 — “x”  日本語 ok",
    "\x00 x \ud800 y z \U0001f600 q", "e\u0301 é ﬁ İ ß", "\u00a0a\u2003b\x1cc", "!!! ??? ...", "word" * 3000,
]  # fmt: skip


def plain_signature(hashes: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """One document's signature the plain way: (shingles,) uint32 hashes to (permutations,) uint32 minima."""
    mixed = hashes.astype(np.uint32)
    mixed ^= mixed >> np.uint32(16)
    mixed *= np.uint32(0x85EBCA6B)
    mixed ^= mixed >> np.uint32(13)
    mixed *= np.uint32(0xC2B2AE35)
    mixed ^= mixed >> np.uint32(16)
    values = mixed[:, None] * a[None, :] + b[None, :]
    return values.min(axis=0, initial=np.uint32(0xFFFFFFFF))


def their_signature(signer: Signer, text: str, scheme_seed: int) -> np.ndarray:
    """What datasketch makes of the same shingles, given our hash of each (or its own SHA-1)."""
    shingles = signer.shingles(text)
    if signer.hashing == "sha1":
        made = MinHash(num_perm=signer.permutations, seed=scheme_seed)
        made.update_batch([shingle.encode("utf-8", "surrogatepass") for shingle in shingles])
    else:
        hashes = dict(zip(shingles, signer.hash32(text).tolist(), strict=True))
        made = MinHash(num_perm=signer.permutations, seed=scheme_seed, hashfunc=hashes.__getitem__)
        made.update_batch(shingles)
    return made.hashvalues


@pytest.mark.parametrize("hashing", ["fast", "sha1"])
@pytest.mark.parametrize("unit", ["words", "spaced", "characters"])
@pytest.mark.parametrize(("permutations", "width", "seed"), [(128, 5, 1), (33, 1, 7), (2, 13, 0)])
def test_signatures_equal_datasketch(hashing: Any, unit: Any, permutations: int, width: int, seed: int) -> None:
    signer = Signer(permutations, width, unit, "as-is", hashing, seed)
    signatures, counts = signer.sign(ODD)
    for text, signature, count in zip(ODD, signatures, counts.tolist(), strict=True):
        assert count == len(signer.shingles(text)) == len(signer.hashes(text)), text[:20]
        assert np.array_equal(signature, their_signature(signer, text, seed)), text[:20]
        assert np.array_equal(signature, plain_signature(signer.hash32(text), signer.a, signer.b))
    assert len({signature.tobytes() for signature in signatures}) > 5, "different texts have different signatures"


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=80), st.integers(1, 4), st.sampled_from(["words", "spaced", "characters"]))
def test_equal_shingles_and_only_they_have_equal_hashes(text: str, width: int, unit: Any) -> None:
    signer = Signer(4, width, unit, "lower", "fast", 1)
    shingles, hashes = signer.shingles(text), signer.hashes(text).tolist()
    assert len(set(hashes)) == len(set(shingles)) == len(set(zip(shingles, hashes, strict=True)))


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=60))
def test_spaced_units_are_those_of_split(text: str) -> None:
    assert units_of(text, "spaced") == text.split()
    assert units_of(text, "characters") == list(text)


def test_words_are_letters_numbers_marks_and_connectors() -> None:
    assert units_of("don't stop_me, naïve e\u0301t\u0301 3.14 “q”—r", "words") == [
        "don", "t", "stop_me", "naïve", "e\u0301t\u0301", "3", "14", "q", "r",
    ]  # fmt: skip
    assert unit_tables("words")[0][ord("_")] == 1


def test_long_texts_are_signed_in_blocks() -> None:
    rng = random.Random(0)
    text = " ".join(f"w{rng.randrange(9000)}" for _ in range(30_000))
    signer = Signer(64, 5, "words", "as-is", "fast", 1)
    signatures, counts = signer.sign(["before it", text, "after it"])
    assert counts[1] == 29_996
    assert np.array_equal(signatures[1], plain_signature(signer.hash32(text), signer.a, signer.b))


@pytest.mark.parametrize("permutations", [16, 64, 128, 200])
def test_bands_equal_datasketch(permutations: int) -> None:
    for threshold in (0.05, 0.2, 0.35, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0):
        for weight in (0.5, 0.2) if permutations < 200 else (0.5,):
            theirs = _optimal_param(threshold, permutations, weight, 1 - weight)
            assert best_bands(threshold, permutations, weight) == theirs, (threshold, weight)


@pytest.fixture(scope="module")
def sources() -> list[str]:
    """Sources of the standard library, some of them also with a few lines taken out."""
    rng = random.Random(0)
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = [path for path in sorted(root.rglob("*.py")) if "site-packages" not in path.parts][:500]
    texts = [path.read_text("utf-8", errors="replace")[:4000] for path in paths]
    for text in texts[:150]:
        lines = text.splitlines(keepends=True)
        texts.append("".join(line for line in lines if rng.random() > rng.choice([0.005, 0.02, 0.1])))
    return texts


@pytest.mark.parametrize(("hashing", "threshold"), [("fast", 0.8), ("fast", 0.5), ("sha1", 0.7)])
def test_candidate_pairs_equal_datasketch(sources: list[str], hashing: Any, threshold: float) -> None:
    spec = Spec(threshold=threshold, permutations=64, hashing=hashing)
    signer = spec.build().signer
    index = MinHashLSH(threshold=threshold, num_perm=64)
    made: dict[int, MinHash] = {}
    for number, text in enumerate(sources):
        if signer.shingles(text):
            values = their_signature(signer, text, spec.seed)
            made[number] = MinHash(num_perm=64, hashvalues=values, scheme="affine32")
            index.insert(number, made[number])
    theirs = {(i, j) for i, minhash in made.items() for j in index.query(minhash) if i < j}
    ours = near_duplicates.candidate_pairs(sources, spec)
    assert ours == theirs
    assert len(ours) > 50
    assert (spec.build().bands, spec.build().rows) == (index.b, index.r)


def test_signatures_estimate_jaccard_within_theory(sources: list[str]) -> None:
    spec = Spec()
    pairs = sorted(near_duplicates.candidate_pairs(sources, Spec(threshold=0.3)))
    signed = near_duplicates.signatures(sources, spec)
    exact = np.array([near_duplicates.exact_jaccard(sources[i], sources[j], spec) for i, j in pairs])
    signer = spec.build().signer
    for (i, j), value in itertools.islice(zip(pairs, exact, strict=True), 0, None, 17):
        one, other = set(signer.shingles(sources[i])), set(signer.shingles(sources[j]))
        assert value == pytest.approx(len(one & other) / len(one | other), abs=1e-12)
    estimate = np.array([(signed[i] == signed[j]).mean() for i, j in pairs])
    assert len(pairs) > 200 and (exact > 0.5).sum() > 50
    error = np.sqrt(np.mean((estimate - exact) ** 2))
    assert error <= 0.5 / np.sqrt(spec.permutations)
    # the variance is s (1 - s) / k: neither a stuck signature nor one that says 1 for everything would pass
    assert error == pytest.approx(np.sqrt(np.mean(exact * (1 - exact)) / spec.permutations), rel=0.35)


def test_choices_are_checked_and_too_many_pairs_refused() -> None:
    for wrong in (
        {"threshold": 0.0}, {"threshold": 1.5}, {"permutations": 1}, {"width": 0}, {"bands": 4},
        {"bands": 20, "rows": 20}, {"seed": -1}, {"false_positive_weight": 2.0},
    ):  # fmt: skip
        with pytest.raises(SpecError, match=next(iter(wrong))):
            make_method("stage", {"name": "minhash", **wrong})
    with pytest.raises(DataError, match="candidate pairs"):
        near_duplicates.candidate_pairs(["the same words again and again"] * 11_000)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(st.text("ab_ .9", max_size=90), st.sampled_from(["é", "日本", "—", "w" * 70, " " * 130])), max_size=8
    ),
    st.sampled_from(["words", "spaced", "characters"]),
    st.sampled_from([1, 5, 1000]),
)
def test_units_lie_where_the_plain_way_finds_them(pieces: list[str], unit: Any, room: int) -> None:
    data = "".join(pieces).encode()
    buffer, found, at = np.frombuffer(data, np.uint8), [], 0
    while at < len(data):
        hashes, places = np.empty(room, np.uint64), np.empty((room, 2), np.int64)
        at, count = kernel.units(buffer, at, len(data), *unit_tables(unit), hashes, places)
        found += [
            (data[a:b].decode(), value) for (a, b), value in zip(places[:count].tolist(), hashes[:count], strict=True)
        ]
    assert [word for word, _ in found] == units_of(data.decode(), unit)
    assert len(set(found)) == len({word for word, _ in found}) == len({value for _, value in found})
