"""Deduplication: recall of MinHash, and over-deduplication.

Planted pairs of known similarity give the recall, compared with theory; the standard library, its documentation and the
licences and readmes of installed packages show what is dropped by mistake. Those texts are this machine's, so another
machine gives other counts for them.

## What the numbers say

{pairs:,} planted pairs of {shingles} one-word shingles at each similarity, 128 permutations, {bands} bands of {rows}
rows (the choice for a threshold of 0.8): the fraction found differs from `1 - (1 - s^{rows})^{bands}` by at most
{off:.2%} (at s = {at:.2f}, where the sampling error is {error:.2%}). The error of the estimated similarity is the
binomial one ({eight[rmse]:.4f} for {eight[rmse_theory]:.4f} at 0.8). So "threshold 0.8" is the middle of a slope, not
an edge: {missed:.0%} of pairs with similarity 0.8 are missed, {seven[measured]:.0%} of pairs with 0.7 are found.

How many dropped documents of real text are less similar than the threshold to the document that is kept (exact Jaccard
similarity of five-word shingles)?

- Without verification {below[0]} sources and {below[1]} licences that are dropped at the default threshold of 0.8 are
  below it. At 0.5 it is {below[2]} sources (lowest similarity {least:.2f}) and {below[3]} licences.
- One false pair can join two clusters: at 0.5 the lowest similarity of a dropped licence is {chained[least]:.2f}; with
  exact verification it is {verified[least]:.2f}, and {verified[below_threshold]} are below the threshold.
- The rest comes from chains of truly similar pairs (A like B, B like C): {left[below_threshold]} licences at 0.8,
  {later[below_threshold]} at 0.9, in clusters of up to {left[largest_cluster]} variants of one text. Verification
  cannot remove those.
- Another draw of hashes gives other counts: an earlier one, measured before the hashes were changed, had 9 of 47
  sources and 84 of 318 licences below 0.8, and 5 of 339 licences below 0.5. Near the threshold the result is random;
  only verified pairs are stable.
- The texts differ far more than the thresholds: {licences[0]:.0%} to {licences[1]:.0%} of the licences are dropped, of
  the documentation at most {documentation[1]:.1%}. A duplicate rate means nothing without its corpus.
- When a shared notice is five to ten times as long as the rest of a document, most of the documents are
  "near-duplicates" ({notice[candidates]} of {notice[documents]} at {notice[notice_words]} words), and exact
  verification agrees ({notice[verified]}), since the similarity is real. If repeated lines (or substrings) are cut
  first, {after} of them are dropped.

The claim holds, with these numbers. The measurement adds: the common recipe, banded MinHash without verification, drops
documents of which {wrong[1]:.0%} (licences) and {wrong[0]:.0%} (sources) are less similar than its threshold.
"""

from __future__ import annotations

import importlib.metadata
import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._corpora import library
from evidence import _near_duplicates as near_duplicates
from llmanac.core.pages import Line, Section, line_chart, table
from llmanac.core.spec import make_method
from llmanac.data.deduplicate import deduplicate, run_corpus_stage
from llmanac.data.documents import Document
from llmanac.data.stages import Dropped
from llmanac.data.stages.minhash import Spec

ROWS = ("data/deduplication",)
CLAIM = "near-duplicates are found; over-deduplication is measured"
SEEDS = 1  # 2,000 pairs at each similarity are the replicates

SHINGLES = 200
SIMILARITIES = (0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.99)
THRESHOLDS = (0.5, 0.7, 0.8, 0.9)


def measure(seed: int, size: str) -> dict[str, Any]:
    """The recall curve, over-deduplication of real text by threshold, and the effect of a shared notice."""
    if size == "small":
        made = [" ".join(f"w{(i % 7) * 100 + k + (k % (2 + i)) // (1 + i)}" for k in range(60)) for i in range(30)]
        return {
            "pairs": 60, "curve": curve((0.6, 0.8, 0.9), 60), "real": real({"made up": made}, (0.5, 0.8)),
            "boilerplate": boilerplate([" ".join(f"{i}x{k}" for k in range(45)) for i in range(20)], (0, 300)),
        }  # fmt: skip
    texts = corpora()
    return {
        "pairs": 2000, "curve": curve(SIMILARITIES, 2000), "real": real(texts, THRESHOLDS),
        "boilerplate": boilerplate(texts["standard library, documentation"], (0, 50, 100, 200, 400, 800)),
    }  # fmt: skip


def planted(similarity: float, pairs: int, seed: int) -> tuple[list[str], float]:
    """Texts 2 i and 2 i + 1 share as many words as gives the similarity; no other two share any."""
    rng = random.Random(seed)
    shared = round(2 * SHINGLES * similarity / (1 + similarity))
    texts = []
    for number in range(pairs):
        words = [f"w{number}x{rng.getrandbits(40):x}" for _ in range(2 * SHINGLES - shared)]
        texts += [" ".join(words[:SHINGLES]), " ".join(words[SHINGLES - shared :])]
    return texts, shared / (2 * SHINGLES - shared)


def curve(similarities: Sequence[float], pairs: int) -> list[dict[str, float]]:
    """Measured fraction of pairs that become candidates, and 1 - (1 - s^rows)^bands."""
    out = []
    for similarity in similarities:
        texts, exact = planted(similarity, pairs, int(1000 * similarity))
        spec = Spec(width=1, threshold=0.8)
        stage = spec.build()
        found = near_duplicates.candidate_pairs(texts, spec)
        signed = near_duplicates.signatures(texts, spec)
        estimate = (signed[0::2] == signed[1::2]).mean(axis=1)
        out.append({
            "similarity": exact, "theory": 1 - (1 - exact**stage.rows) ** stage.bands, "measured": len(found) / pairs,
            "verified": sum(estimate[i // 2] >= spec.threshold for i, _ in found) / pairs,
            "rmse": float(np.sqrt(np.mean((estimate - exact) ** 2))),
            "rmse_theory": float(np.sqrt(exact * (1 - exact) / spec.permutations)),
        })  # fmt: skip
    return out


def corpora() -> dict[str, list[str]]:
    """Real texts that are on any machine with this package."""
    licences, readmes = [], []
    for package in sorted(importlib.metadata.distributions(), key=lambda d: str(d.metadata["Name"]).lower()):
        for file in package.files or []:
            if "dist-info" in str(file) and file.name.upper().startswith(("LICENSE", "LICENCE", "COPYING", "NOTICE")):
                path = Path(str(file.locate()))
                if path.is_file():
                    licences.append(path.read_text("utf-8", "replace"))
        readmes.append(str(package.metadata.get_payload() or package.metadata.get("Description") or ""))
    return {
        "standard library, sources": library(),
        "standard library, documentation": [d.text for d in make_method("source", "python-docs").documents()],
        "installed packages, licences": licences, "installed packages, readmes": [r for r in readmes if r.strip()],
    }  # fmt: skip


def real(corpora: Mapping[str, Sequence[str]], thresholds: Sequence[float]) -> list[dict[str, Any]]:
    return [
        {
            "corpus": name, "threshold": threshold, "verify": verify,
            **over_deduplication(corpus, Spec(threshold=threshold, verify=verify)),
        }
        for name, corpus in corpora.items() for threshold in thresholds for verify in ("none", "exact")
    ]  # fmt: skip


def over_deduplication(texts: Sequence[str], spec: Spec) -> dict[str, Any]:
    """What is dropped, and how similar it really is to the document that stays."""
    documents = [Document(str(i), text, "") for i, text in enumerate(texts)]
    exact: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        (result,), report = run_corpus_stage(spec.build(), [lambda: documents], Path(folder))
        for outcome in result:
            if isinstance(outcome, Dropped):
                kept = int(outcome.detail.split(",")[0].removeprefix("of "))
                exact.append(near_duplicates.exact_jaccard(outcome.document.text, texts[kept], spec))
    return {
        "documents": len(texts), "dropped": len(exact), "below_threshold": sum(v < spec.threshold for v in exact),
        "below_half": sum(v < 0.5 for v in exact), "least": min(exact, default=None),
        "largest_cluster": (report["largest_clusters"] or [1])[0],
    }  # fmt: skip


def boilerplate(texts: Sequence[str], notices: Sequence[int]) -> list[dict[str, Any]]:
    """The same short documents under a notice of so many words: none is a duplicate of another without it."""
    rng = random.Random(0)
    short = [text for text in texts if 40 <= len(text.split()) <= 120]
    unlike = [short[i] for i in near_duplicates.kept(short, Spec(threshold=0.3))]
    chosen = rng.sample(unlike, min(500, len(unlike)))
    notice = [f"{rng.choice('bcdfgklmnprst')}{rng.choice('aeiou')}{i:x}" for i in range(800)]
    out = []
    for words in notices:
        headed = [" ".join(notice[:words]) + "\n\n" + text for text in chosen]
        cut = [text or "" for text in deduplicate(headed, "lines")[0]]
        out.append({
            "notice_words": words, "documents": len(chosen),
            "candidates": over_deduplication(headed, Spec(verify="none"))["dropped"],
            "verified": over_deduplication(headed, Spec(verify="exact"))["dropped"],
            "after_lines": over_deduplication(cut, Spec())["dropped"],
        })  # fmt: skip
    return out


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    (found,) = seeds
    rows, stage = found["curve"], Spec(width=1, threshold=0.8).build()
    farthest = max(rows, key=lambda r: abs(r["measured"] - r["theory"]))
    eight, seven = (min(rows, key=lambda r, s=s: abs(r["similarity"] - s)) for s in (0.8, 0.7))
    by = {(r["corpus"].split(", ")[1], r["threshold"], r["verify"]): r for r in found["real"]}
    asked = [by[kind, t, "none"] for t in (0.8, 0.5) for kind in ("sources", "licences")]
    gone = {kind: sorted(r["dropped"] / r["documents"] for (k, *_), r in by.items() if k == kind)
            for kind in ("licences", "documentation")}  # fmt: skip
    return {
        "pairs": found["pairs"], "shingles": SHINGLES, "bands": stage.bands, "rows": stage.rows,
        "off": abs(farthest["measured"] - farthest["theory"]), "at": farthest["similarity"],
        "error": (farthest["theory"] * (1 - farthest["theory"]) / found["pairs"]) ** 0.5,
        "eight": eight, "seven": seven, "missed": 1 - eight["measured"],
        "below": [f"{r['below_threshold']} of {r['dropped']}" for r in asked], "least": asked[2]["least"],
        "chained": by["licences", 0.5, "none"], "verified": by["licences", 0.5, "exact"],
        "left": by["licences", 0.8, "exact"], "later": by["licences", 0.9, "exact"],
        **{kind: (shares[0], shares[-1]) for kind, shares in gone.items()}, "notice": found["boilerplate"][-1],
        "after": max(r["after_lines"] for r in found["boilerplate"]),
        "wrong": [r["below_threshold"] / r["dropped"] for r in asked[:2]],
    }  # fmt: skip


def unlike(seeds: Sequence[dict[str, Any]], threshold: float) -> list[float]:
    """1 for each document that is dropped without verification and is below the threshold, 0 for the others dropped."""
    rows = [row for row in seeds[0]["real"] if row["threshold"] == threshold and row["verify"] == "none"]
    return [float(i < row["below_threshold"]) for row in rows for i in range(row["dropped"])]


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    """The page."""
    (found,) = seeds
    rows, stage = found["curve"], Spec(width=1, threshold=0.8).build()
    lines = [
        Line("theory", [(s, 1 - (1 - s**stage.rows) ** stage.bands) for s in np.linspace(0, 1, 101)], shade=0),
        Line("found", [(r["similarity"], r["measured"]) for r in rows], shade=1),
        Line("found, and signatures agree to 0.8", [(r["similarity"], r["verified"]) for r in rows], shade=2),
    ]
    recall = [[f"{value:.4f}" for value in r.values()] for r in rows]
    head = ["similarity", "theory", "found", "found and verified", "RMSE of the estimate", "theory"]
    keys = ("dropped", "below_threshold", "least", "largest_cluster")
    plain, exact = ([r for r in found["real"] if r["verify"] == verify] for verify in ("none", "exact"))
    real = [
        [r["corpus"], str(r["threshold"]), f"{r['documents']:,}", *(cell(one[k]) for one in (r, e) for k in keys)]
        for r, e in zip(plain, exact, strict=True)
    ]
    names = ("dropped", "below it", "lowest", "largest cluster")
    notices = found["boilerplate"]
    counted = {"dropped": "candidates", "`verify=exact`": "verified", "`lines` first": "after_lines"}
    cut = [[name, *(str(r[key]) for r in notices)] for name, key in counted.items()]
    chart = line_chart(lines, "Jaccard similarity", "fraction of pairs found", "Recall")
    real_head = ["corpus", "threshold", "documents", *names, *(f"`verify=exact`: {name}" for name in names)]
    words = ["words of notice", *(str(r["notice_words"]) for r in notices)]
    boilerplate = "Boilerplate: short, dissimilar documents under the same notice"
    return [
        Section("Near-duplicates, against theory", [], [table(head, recall)], [chart]),
        Section("Over-deduplication, on real text", [], [table(real_head, real)]),
        Section(boilerplate, [], [table(words, cut)]),
    ]


def cell(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)
