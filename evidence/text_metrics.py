"""ROUGE, BLEU, chrF and BERTScore on paraphrases and on near-copies with another meaning.

{sentences:,} English news sentences were rewritten by rule (`evidence/_rewritten.py`). {paraphrases} paraphrases have
at least three changes: words replaced by near synonyms, contractions written out, an opening phrase moved to the end.
{copies} near-copies have one change: a "not" put in or taken out, the first digit of a number, or another name. The
synonyms are {synonyms} pairs written for this study; a word of some paraphrases is awkward in its place. Near-copies
are closer to their sentence by construction, which is what they are for: a metric of meaning should still prefer the
paraphrase. AUC is the chance that a paraphrase scores above a near-copy, with DeLong's 95% interval; 0.5 is a metric
that cannot tell them apart. `LLMANAC_SHARED_DATA` names the folder of the sentences (bertscore/refs_long.txt).
BERTScore is F of MiniLM (all-MiniLM-L6-v2), after each of its six layers, and with the values of each weight matrix
shuffled.

- ROUGE-1 {auc[ROUGE-1][0]:.3f}, ROUGE-L {auc[ROUGE-L][0]:.3f}, BLEU {auc[BLEU][0]:.3f}, chrF {auc[chrF][0]:.3f}: they
  prefer the changed meaning nearly always. A paraphrase has a mean sentence BLEU of {means[BLEU][0]:.0f} of 100 and a
  ROUGE-1 of {means[ROUGE-1][0]:.2f}, a sentence that says something else {means[BLEU][1]:.0f} and
  {means[ROUGE-1][1]:.2f}.
- BERTScore {words}. The best layer is number {best} with {auc_best[0]:.3f} ({auc_best[1]:.3f} to {auc_best[2]:.3f});
  by kind of change {kinds}.
- It depends on the model: with shuffled weights the AUC is {shuffled[0]:.3f} to {shuffled[1]:.3f} over the layers.
- All of them tell a paraphrase from another sentence: AUC {other[0]:.3f} to {other[1]:.3f}. With shuffled weights
  BERTScore does so too ({other_shuffled[0]:.3f} to {other_shuffled[1]:.3f}): equal tokens suffice for that.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from benchmarks._corpora import needed_data
from evidence._pretrained import needed, unpacked_minilm
from evidence._rewritten import CHANGES, FORWARD, names, paraphrase
from evidence._verdicts import Estimate
from llmanac.core.pages import Section, table
from llmanac.core.progress import progress
from llmanac.core.types import Batch, OutputRequest
from llmanac.evaluate.embed import Embedder
from llmanac.metrics.bertscore import bertscore
from llmanac.metrics.bleu import bleu
from llmanac.metrics.chrf import chrf
from llmanac.metrics.rouge import rouge
from llmanac.metrics.statistics.auc import auc

ROWS = ("metric/rouge", "metric/bleu", "metric/bertscore")
CLAIM = "metrics of shared words miss a paraphrase; one of a model's vectors sees more, and depends on the model"
SEEDS = 1
TOLERANCE = 1e-3  # float32 of the encoder

LAYERS = 6
WORDS = (8, 40)  # of a sentence
PARAPHRASES, EACH, OTHER = 330, 110, 100  # at most; near-copies of a kind; pairs of different sentences
SMALL = (
    "On Monday, the company said many people want to buy a cheap car.", "The doctor helped 12 injured children again.",
    "After the match, John Smith said the players of Real Madrid are angry.",
    "Officials believe the fire is dangerous.",
)  # fmt: skip


def measure(seed: int, size: str) -> dict[str, Any]:
    """Scores of the two sorts of pairs, and of pairs of different sentences."""
    if size == "small":
        return scored(*pairs(SMALL, seed, 2), {})
    needed("minilm")
    torch.set_num_threads(1)
    texts = (needed_data("bertscore") / "bertscore" / "refs_long.txt").read_text("utf-8").splitlines()
    texts = [text.strip() for text in dict.fromkeys(texts) if WORDS[0] <= len(text.split()) <= WORDS[1]]
    with unpacked_minilm() as folder:
        encoders = {name: Embedder.load(str(folder), device="cpu") for name in ("MiniLM", "shuffled weights")}
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in encoders["shuffled weights"].model.parameters():
            if parameter.ndim > 1:
                order = torch.randperm(parameter.numel(), generator=generator)
                parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return {"sentences": len(texts), **scored(*pairs(texts, seed, EACH), encoders)}


def pairs(
    texts: Sequence[str], seed: int, each: int
) -> tuple[list[tuple[str, str]], list[tuple[str, str, str]], list[tuple[str, str]]]:
    """(sentence, paraphrase), (sentence, near-copy, kind), and the paraphrased sentences with the next one's."""
    rng, known = random.Random(seed), names(texts)
    same = [(text, new) for text in texts if (new := paraphrase(text))]
    changed: list[tuple[str, str, str]] = []
    for kind, change in CHANGES.items():
        made = [(text, new, kind) for text in texts if (new := change(text, rng, known))]
        changed += rng.sample(made, min(each, len(made)))
    same = rng.sample(same, min(PARAPHRASES, len(same)))
    unrelated = [(a, b) for (a, _), (_, b) in zip(same, [*same[1:], same[0]], strict=True)][:OTHER]
    return same, changed, unrelated


class EveryLayer:
    """An encoder that reads each text once and keeps the states of all layers."""

    def __init__(self, embedder: Embedder) -> None:
        self.embedder, self.special, self.tokens = embedder, embedder.special, embedder.tokens
        self.kept: dict[tuple[int, ...], list[torch.Tensor]] = {}

    @torch.inference_mode()
    def hidden(self, rows: Sequence[Sequence[int]], layer: int | None = None) -> list[torch.Tensor]:
        model, want = self.embedder.model, OutputRequest(layers=tuple(range(LAYERS + 1)))
        with progress("encode", len(rows), "texts") as bar:
            for row in map(tuple, rows):
                if row not in self.kept:
                    batch = Batch(ids=torch.tensor([row]), lengths=torch.tensor([len(row)]), mask="bidirectional")
                    self.kept[row] = [model.model.norm(found)[0] for found in model(batch, want=want).layers]
                bar.advance()
        return [self.kept[tuple(row)][LAYERS if layer is None else layer] for row in rows]


def scored(
    same: list[tuple[str, str]], changed: list[tuple[str, str, str]], unrelated: list[tuple[str, str]],
    encoders: dict[str, Embedder],
) -> dict[str, Any]:  # fmt: skip
    """By metric: AUCs and mean scores."""
    golds = [pair[0] for pair in (*same, *changed, *unrelated)]
    mine = [pair[1] for pair in (*same, *changed, *unrelated)]
    found = rouge(mine, golds, stemmer="porter").scores
    values: dict[str, np.ndarray] = {
        "ROUGE-1": np.asarray(found["rouge1"])[:, 2], "ROUGE-L": np.asarray(found["rougeL"])[:, 2],
        "BLEU": bleu(mine, golds).sentences, "chrF": chrf(mine, golds).segments,
    }  # fmt: skip
    for name, embedder in encoders.items():
        encoder = EveryLayer(embedder)
        for layer in range(LAYERS + 1):
            values[f"BERTScore, {name}, layer {layer}"] = bertscore(mine, golds, encoder, layer=layer).scores[:, 2]
    kinds = [kind for _, _, kind in changed]
    rows = {}
    for name, all_of in values.items():
        one, two, three = np.split(all_of, [len(same), len(same) + len(changed)])
        by_kind = {
            kind: auc(one, two[[i for i, k in enumerate(kinds) if k == kind]]) for kind in CHANGES
            if kinds.count(kind) > 1
        }  # fmt: skip
        rows[name] = {
            "auc": auc(one, two), "kinds": by_kind, "other": auc(one, three),
            "means": [float(part.mean()) for part in (one, two, three)],
        }  # fmt: skip
    examples = [list(pair) for pair in same[:3]] + [list(pair[:2]) for pair in changed[:: max(1, len(changed) // 3)]]
    return {
        "paraphrases": len(same), "copies": {kind: kinds.count(kind) for kind in CHANGES}, "metrics": rows,
        "examples": examples,
    }  # fmt: skip


def auc_apart(seeds: Sequence[dict[str, Any]], name: str, other: str) -> Estimate:
    """The difference of two AUCs, with the interval of independent ones: that of the same pairs is narrower."""
    (a, *ends), (b, *others) = (seeds[0]["metrics"][one]["auc"] for one in (name, other))
    half = math.hypot(ends[1] - ends[0], others[1] - others[0]) / 2
    return Estimate(a - b, a - b - half, a - b + half, seeds[0]["paraphrases"])


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    (found,) = seeds
    rows = []
    for name, row in found["metrics"].items():
        near = ["{:.3f} ({:.3f} to {:.3f})".format(*row["auc"]), *(f"{row['kinds'][k][0]:.3f}" for k in CHANGES)]
        rows.append([name, *near, f"{row['other'][0]:.3f}", *(f"{value:.3f}" for value in row["means"])])
    counts = [f"{kind}: {found['copies'][kind]}" for kind in CHANGES]
    head = ["metric", "AUC over near-copies", *CHANGES, "AUC over other sentences", "mean: paraphrase", "near-copy",
            "other sentence"]  # fmt: skip
    return [
        Section("Paraphrases against near-copies", [f"Near-copies by kind: {', '.join(counts)}."], [table(head, rows)]),
        Section("Examples", [], [table(["sentence", "rewritten"], found["examples"])]),
    ]


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    (found,) = seeds
    rows = found["metrics"]
    learned = {name: row for name, row in rows.items() if "MiniLM" in name}
    random_ = [row for name, row in rows.items() if "shuffled" in name]
    best = max(learned, key=lambda name: learned[name]["auc"][0])
    counted = max(rows[name]["auc"][0] for name in ("ROUGE-1", "ROUGE-L", "BLEU", "chrF"))
    top = learned[best]["auc"]
    if top[1] > counted:
        kept = "prefers the paraphrase" if top[1] > 0.5 else "still prefers the near-copy" if top[2] < 0.5 else (
            "does not tell the two apart in its best layer"
        )  # fmt: skip
        words = f"sees more of the meaning than counts of words do; it {kept}"
    else:
        words = "is no better than counts of words here"
    return {
        "sentences": found["sentences"], "paraphrases": found["paraphrases"], "copies": sum(found["copies"].values()),
        "synonyms": len(FORWARD), "auc": {name: row["auc"] for name, row in rows.items()},
        "means": {name: row["means"] for name, row in rows.items()}, "words": words, "best": best.rsplit(" ", 1)[-1],
        "auc_best": top, "kinds": ", ".join(f"{kind} {row[0]:.3f}" for kind, row in learned[best]["kinds"].items()),
        "shuffled": (min(r["auc"][0] for r in random_), max(r["auc"][0] for r in random_)),
        "other": (
            min(row["other"][0] for name, row in rows.items() if "shuffled" not in name),
            max(row["other"][0] for name, row in rows.items() if "shuffled" not in name),
        ),
        "other_shuffled": (min(r["other"][0] for r in random_), max(r["other"][0] for r in random_)),
    }  # fmt: skip
