"""What the tests of counting models share: small corpora, models of them, and back-off read out of plain tables."""

from __future__ import annotations

import os
import random
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from llmanac.core.spec import make_method
from llmanac.models.ngrams.counts import Counts, count
from llmanac.models.ngrams.trie import Trie, places
from llmanac.models.ngrams.words import estimate

DATA = Path(os.environ.get("LLMANAC_SHARED_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
START, END = 0, 1


def shared(name: str) -> Path:
    """A file of the shared data; the test is skipped where it is not there."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{name} is not in ../shared/data")
    return path


def sentences(seed: int = 0, count_: int = 300, vocabulary: int = 40) -> list[list[int]]:
    """Rows `START ... END` of tokens 2 .. vocabulary - 1, with the skew and the habits of text."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count_):
        row, last = [START], 2
        for _ in range(rng.randrange(1, 12)):
            last = (last * 3 + 1) % (vocabulary - 4) + 2 if rng.random() < 0.5 else int(rng.paretovariate(0.7)) + 1
            row.append(min(max(last, 2), vocabulary - 3))  # the last two tokens are never seen
        rows.append([*row, END])
    return rows


def counted(rows: list[list[int]], vocabulary: int, order: int, start: int | None = START) -> Counts:
    words = np.array([t for row in rows for t in row], np.int32)
    return count(words, places(np.array([len(r) for r in rows])), vocabulary, order, start=start)


def model_of(rows: list[list[int]], vocabulary: int, order: int, smoothing: str, **choices: float) -> Trie:
    spec = make_method("smoothing", {"name": smoothing, **choices})
    return estimate(counted(rows, vocabulary, order), spec.build())


def grams(trie: Trie) -> dict[tuple[int, ...], tuple[float, float]]:
    """Every n-gram with log10 p and log10 weight (0 at the highest order), by a walk in Python."""
    found: dict[tuple[int, ...], tuple[float, float]] = {}
    paths: dict[int, tuple[int, ...]] = {i: (i,) for i in range(trie.vocab_size)}
    for node in range(len(trie.logs)):
        weight = float(trie.weights[node]) if node < len(trie.weights) else 0.0
        found[paths[node]] = (float(trie.logs[node]), weight)
        if node < len(trie.weights):
            for child in range(int(trie.first[node]), int(trie.first[node + 1])):
                paths[child] = (*paths[node], int(trie.words[child]))
    return found


def scored(trie: Trie, context: list[int], token: int) -> float:
    """p(token | context) by the stream kernel."""
    row = np.array([*context, token], np.int32)
    return float(10 ** trie.score_stream(row, places(np.array([len(row)])))[0][-1])


def distribution(trie: Trie, context: list[int]) -> np.ndarray:
    """(V,) p(every token | context), the context not empty."""
    row = np.array(context, np.int32)
    nodes = trie.contexts(row, places(np.array([len(row)])))[-1:]
    return np.exp(trie.distributions(nodes, np.array([len(row)])).astype(np.float64))[0]


def plain_counts(rows: list[list[int]], order: int) -> list[Counter[tuple[int, ...]]]:
    """`[k - 1]` -> how often each k-gram ends at a place other than the start of a row."""
    found: list[Counter[tuple[int, ...]]] = [Counter() for _ in range(order)]
    for row in rows:
        for end in range(1, len(row)):
            for k in range(1, order + 1):
                if end - k + 1 >= 0:
                    found[k - 1][tuple(row[end - k + 1 : end + 1])] += 1
    return found


def continuation_counts(rows: list[list[int]], order: int) -> list[dict[tuple[int, ...], int]]:
    """Kneser-Ney's counts: plain at the highest order and where a row begins, else different tokens before."""
    plain = plain_counts(rows, order)
    out: list[dict[tuple[int, ...], int]] = [{} for _ in range(order)]
    out[-1] = dict(plain[-1])
    for k in range(order - 1, 0, -1):
        before: dict[tuple[int, ...], set[int]] = defaultdict(set)
        for gram in plain[k]:
            before[gram[1:]].add(gram[0])
        out[k - 1] = {g: plain[k - 1][g] if g[0] == START else len(before[g]) for g in plain[k - 1]}
    return out
