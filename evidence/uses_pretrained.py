"""Scoring, labelling and correcting text with pretrained models.

SmolLM2-135M-Instruct (Q4_1) and Qwen2.5-Coder-0.5B-Instruct (Q4_K_M; its header says that it was made from AWQ
weights), the numbers of their files in float32, nothing trained. `LLMANAC_SHARED_DATA` names the folder of CoLA and
SST-2. A word of CoLA's sentences is damaged, or their order, by the rules of [uses](../uses/page.md), whose models were
trained here. {made} of {pieces} parts are made so far.

{findings}
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks._corpora import needed_data
from evidence._pretrained import needed
from evidence._uses_corpus import PLAIN, labelled, write
from evidence.speculation import random_lm
from evidence.uses import LABELS, ZERO_SHOT, cola, measure_correct, shuffled
from llmanac.core.pages import Section, table
from llmanac.core.rng import seed_of
from llmanac.evaluate.classify import classify
from llmanac.evaluate.score import score
from llmanac.evaluate.words import Words
from llmanac.generate.load import load_engine
from llmanac.lab.complexity import one_thread
from llmanac.metrics.statistics.intervals import wilson_interval
from llmanac.tokenizers.load import train_tokenizer

ROWS = ("use/score", "use/classify", "use/correct", "classify/prompting")
CLAIM = "a pretrained model ranks natural above shuffled sentences, labels above chance and corrects more than it harms"
ARMS = ("natural against shuffled", "SST-2 without examples: direct, channel", "corrections")
METRIC = "pairs, texts and changes that are right"
MARGIN = "0.01 of the items"
SWEEP = "the margin of corrections, 2 to 8 nats, by F0.5 on 60 training sentences"
SEEDS, REPLICATE = 1, "model: its items are the replicates"
TEXTS = {"smollm2": 600, "qwen": 300}
TRAIN, DEV, MARGINS = 60, 100, (2.0, 4.0, 6.0, 8.0)
PIECES = ("score", "classify_smollm2", "classify_qwen", "correct")
PARTIAL = True
TOLERANCE = 1e-3


@one_thread()
def measure(seed: int, size: str, piece: str = "") -> dict[str, Any]:
    if size == "small":
        model, tokenizer = random_lm(256, 16, 1, seed), train_tokenizer("utf8", [])
        return {PIECES[1]: labels(model, tokenizer, [("positive", "A fine film."), ("negative", "Too long.")])}
    name = piece.partition("_")[2] or "smollm2"
    data = needed_data("cola", "sst2")
    engine = load_engine(str(needed(name)), device="cpu", dtype="float32", runner="torch")
    good, bad = cola(data / "cola" / "in_domain_dev.tsv")
    if piece == "score":
        return pairs(engine, good)
    if piece != "correct":
        rows = random.Random(seed_of(seed, "sst2")).sample(list(labelled(data, "test")), TEXTS[name])
        return labels(engine.model, engine.tokenizer, rows)
    return corrections(engine, data, good[:DEV], bad[:DEV])


def pairs(engine: Any, sentences: Sequence[str]) -> dict[str, Any]:
    """Of each sentence whether it is more probable than its words in another order."""
    rng = random.Random(seed_of(0, "shuffle"))
    long = [s for s in sentences if len(set(s.rstrip(".?!").split())) > 3]
    both = (long, [shuffled(s, rng) for s in long])
    natural, other = (score(engine.model, texts, engine.tokenizer) for texts in both)
    return {"wins": [int(a.log_likelihood > b.log_likelihood) for a, b in zip(natural, other, strict=True)]}


def labels(model: Any, tokenizer: Any, rows: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Of each text whether its label is right, by way; and how often the more frequent label occurs."""
    texts, truth = [text for _, text in rows], [label for label, _ in rows]
    found: dict[str, Any] = {"most": max(truth.count(label) for label in LABELS) / len(truth)}
    for way, templates in ZERO_SHOT.items():
        said = classify(model, tokenizer, texts, LABELS, template=templates[0], way=way)  # type: ignore[arg-type]
        found[way] = [int(one.label == label) for one, label in zip(said, truth, strict=True)]
    return found


def corrections(engine: Any, data: Path, good: list[str], bad: list[str]) -> dict[str, Any]:
    train = random.Random(seed_of(0, "margin")).sample(cola(data / "cola" / "in_domain_train.tsv")[0], TRAIN)
    with TemporaryDirectory(prefix="llmanac-words-") as folder:
        lines = write(data, Path(folder) / "english.jsonl", PLAIN).read_text("utf-8").split("\n")
        known = Words.of((json.loads(line)["text"] for line in lines if line), least=3)
    found = measure_correct(engine, known, train, {"dev": (good, bad)}, MARGINS)
    own = found["parts"]["dev"]
    made = own["made errors"]
    return {
        "margin": found["margin"], "right": [round(made["precision"] * made["changes"]), made["changes"]],
        "mended": [round(made["recall"] * made["pairs"]), made["pairs"]], "clean": own["clean sentences changed"],
    }  # fmt: skip


def above(seeds: Sequence[dict[str, Any]], piece: str, name: str, level: float | str) -> list[float]:
    """Of each item whether it is right, less a level: a number, or the name of one in the same cell."""
    own = seeds[0][piece]
    least = own[level] if isinstance(level, str) else level
    return [one - least for one in own[name]]


def shares(seeds: Sequence[dict[str, Any]]) -> list[tuple[str, int, int]]:
    """(what, how many are right, of how many)."""
    found = seeds[0]
    out = [("natural above shuffled", sum(own := found["score"]["wins"]), len(own))] if "score" in found else []
    for piece in ("classify_smollm2", "classify_qwen"):
        out += [(f"{piece[9:]}, {way}", sum(own := found[piece][way]), len(own)) for way in ZERO_SHOT if piece in found]
    if "correct" in found:
        titles = {
            "right": "changes that restore the sentence", "mended": "errors mended",
            "clean": "clean sentences changed",
        }  # fmt: skip
        out += [(title, *found["correct"][key]) for key, title in titles.items()]
    return out


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    rows = [
        [what, f"{hits / count:.3f} ({low:.3f} to {high:.3f})", f"{count:,}"]
        for what, hits, count in shares(seeds)
        for _, low, high in [wilson_interval(hits, count)]
    ]
    return [Section("Shares", [], [table(["what", "share, 95%", "of"], rows)])]


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    lines = [f"- {what}: {hits / count:.0%} of {count:,}." for what, hits, count in shares(seeds)]
    return {"made": len(seeds[0]), "pieces": len(PIECES), "findings": "\n".join(lines)}
