"""Measures what MinHash deduplication finds and what it takes too much, and writes docs/evidence/deduplication.

    python benchmarks/evidence_deduplication.py

Planted pairs of a known similarity give recall beside the theory's curve; the standard library, its documentation and
the licences and readmes of installed packages give what is dropped that should not be. Takes a minute or two.
"""

from __future__ import annotations

import importlib.metadata
import json
import random
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from llmanac.core.spec import make_method
from llmanac.data import near_duplicates
from llmanac.data.deduplicate import deduplicate, run_corpus_stage
from llmanac.data.documents import Document
from llmanac.data.stages import Dropped
from llmanac.data.stages.minhash import Spec

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "evidence" / "deduplication"
PAIRS, SHINGLES = 2000, 200
SIMILARITIES = [0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.99]


def planted(similarity: float, seed: int) -> tuple[list[str], float]:
    """Texts 2 i and 2 i + 1 share as many words as gives the similarity; no other two share any."""
    rng = random.Random(seed)
    shared = round(2 * SHINGLES * similarity / (1 + similarity))
    texts = []
    for number in range(PAIRS):
        words = [f"w{number}x{rng.getrandbits(40):x}" for _ in range(2 * SHINGLES - shared)]
        texts += [" ".join(words[:SHINGLES]), " ".join(words[SHINGLES - shared :])]
    return texts, shared / (2 * SHINGLES - shared)


def curve(threshold: float) -> list[dict[str, float]]:
    """Measured share of pairs that become candidates, beside 1 - (1 - s^rows)^bands."""
    rows = []
    for similarity in SIMILARITIES:
        texts, exact = planted(similarity, int(1000 * similarity))
        spec = Spec(width=1, threshold=threshold)
        stage = spec.build()
        found = near_duplicates.candidate_pairs(texts, spec)
        signed = near_duplicates.signatures(texts, spec)
        estimate = (signed[0::2] == signed[1::2]).mean(axis=1)
        rows.append({
            "similarity": exact, "theory": 1 - (1 - exact**stage.rows) ** stage.bands, "measured": len(found) / PAIRS,
            "verified": sum(estimate[i // 2] >= threshold for i, _ in found) / PAIRS,
            "rmse": float(np.sqrt(np.mean((estimate - exact) ** 2))),
            "rmse_theory": float(np.sqrt(exact * (1 - exact) / spec.permutations)),
        })  # fmt: skip
    return rows


def corpora() -> dict[str, list[str]]:
    """Real texts that are on any machine with this package."""
    root = Path(sysconfig.get_paths()["stdlib"])
    sources = [p.read_text("utf-8", "replace") for p in sorted(root.rglob("*.py")) if "site-packages" not in p.parts]
    documentation = [document.text for document in make_method("source", "python-docs").documents()]
    licences, readmes = [], []
    for package in sorted(importlib.metadata.distributions(), key=lambda d: str(d.metadata["Name"]).lower()):
        for file in package.files or []:
            name = file.name.upper()
            if "dist-info" in str(file) and name.startswith(("LICENSE", "LICENCE", "COPYING", "NOTICE")):
                path = Path(str(file.locate()))
                if path.is_file():
                    licences.append(path.read_text("utf-8", "replace"))
        readmes.append(str(package.metadata.get_payload() or package.metadata.get("Description") or ""))
    return {
        "standard library, sources": sources, "standard library, documentation": documentation,
        "installed packages, licences": licences, "installed packages, readmes": [r for r in readmes if r.strip()],
    }  # fmt: skip


def over_deduplication(texts: list[str], spec: Spec) -> dict[str, Any]:
    """What is dropped, and how similar it really is to the document that stays."""
    documents = [Document(str(i), text, "") for i, text in enumerate(texts)]
    exact: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        (result,), report = run_corpus_stage(spec.build(), [lambda: documents], Path(folder))
        for outcome in result:
            if isinstance(outcome, Dropped):
                kept = int(outcome.detail.split(",")[0].removeprefix("of "))
                exact.append(near_duplicates.exact_jaccard(outcome.document.text, texts[kept], spec))
    below = sum(value < spec.threshold for value in exact)
    half = sum(value < 0.5 for value in exact)
    return {
        "documents": len(texts), "dropped": len(exact), "below_threshold": below, "below_half": half,
        "least": min(exact, default=None), "largest_cluster": (report["largest_clusters"] or [1])[0],
    }  # fmt: skip


def boilerplate(texts: list[str]) -> list[dict[str, Any]]:
    """The same short documents under a notice of so many words: none is a duplicate of another without it."""
    rng = random.Random(0)
    short = [text for text in texts if 40 <= len(text.split()) <= 120]
    unlike = [short[i] for i in near_duplicates.kept(short, Spec(threshold=0.3))]
    chosen = rng.sample(unlike, min(500, len(unlike)))
    notice = [f"{rng.choice('bcdfgklmnprst')}{rng.choice('aeiou')}{i:x}" for i in range(800)]
    out = []
    for words in (0, 50, 100, 200, 400, 800):
        headed = [" ".join(notice[:words]) + "\n\n" + text for text in chosen]
        row: dict[str, Any] = {"notice_words": words, "documents": len(chosen)}
        for name, verify in (("candidates", "none"), ("verified", "exact")):
            row[name] = over_deduplication(headed, Spec(verify=verify))["dropped"]
        cut = [text or "" for text in deduplicate(headed, "lines")[0]]
        row["after_lines"] = over_deduplication(cut, Spec())["dropped"]
        out.append(row)
    return out


def draw(rows: list[dict[str, float]], spec: Any, path: Path) -> None:
    """The curve and the measured points."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "llmanac"
    from matplotlib import pyplot

    s = np.linspace(0, 1, 400)
    figure, axes = pyplot.subplots(figsize=(6, 3.6))
    axes.plot(s, 1 - (1 - s**spec.rows) ** spec.bands, label=f"theory, {spec.bands} bands of {spec.rows}")
    axes.plot(
        [r["similarity"] for r in rows], [r["measured"] for r in rows], "o", label=f"measured, {PAIRS} pairs each"
    )
    axes.plot([r["similarity"] for r in rows], [r["verified"] for r in rows], "x", label="and signatures agree to 0.8")
    axes.set(xlabel="Jaccard similarity", ylabel="share of pairs found", xlim=(0, 1), ylim=(-0.02, 1.02))
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    rows = curve(0.8)
    real = []
    texts = corpora()
    for name, corpus in texts.items():
        for threshold in (0.5, 0.7, 0.8, 0.9):
            for verify in ("none", "exact"):
                found = over_deduplication(corpus, Spec(threshold=threshold, verify=verify))
                real.append({"corpus": name, "threshold": threshold, "verify": verify, **found})
    notices = boilerplate(texts["standard library, documentation"])
    data = {"curve": rows, "real": real, "boilerplate": notices, "pairs": PAIRS, "shingles": SHINGLES}
    (FOLDER / "results.json").write_text(json.dumps(data, indent=1) + "\n", "utf-8")
    draw(rows, Spec().build(), FOLDER / "curve.svg")
    (FOLDER / "tables.md").write_text(tables(data), "utf-8")
    print(tables(data))


def tables(data: dict[str, Any]) -> str:
    """All figures as Markdown."""
    out = [
        "| similarity | theory | found | found and verified | RMSE of the estimate | theory |",
        "|---|---|---|---|---|---|",
    ]
    for r in data["curve"]:
        keys = ("similarity", "theory", "measured", "verified", "rmse", "rmse_theory")
        out.append("| " + " | ".join(f"{r[key]:.4f}" for key in keys) + " |")
    out += [
        "",
        "| corpus | threshold | verify | documents | dropped | below it | below 0.5 | least | largest cluster |",
    ]
    out.append("|---|---|---|---|---|---|---|---|---|")
    for r in data["real"]:
        least = "" if r["least"] is None else f"{r['least']:.2f}"
        cells = [
            r["corpus"],
            r["threshold"],
            r["verify"],
            r["documents"],
            r["dropped"],
            r["below_threshold"],
            r["below_half"],
        ]
        out.append("| " + " | ".join(map(str, [*cells, least, r["largest_cluster"]])) + " |")
    out += [
        "",
        "| words of notice | documents | dropped | dropped, verified | dropped after `lines` |",
        "|---|---|---|---|---|",
    ]
    for r in data["boilerplate"]:
        out.append(
            f"| {r['notice_words']} | {r['documents']} | {r['candidates']} | {r['verified']} | {r['after_lines']} |"
        )
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    main()
