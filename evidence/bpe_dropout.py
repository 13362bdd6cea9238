"""BPE-dropout: a model trained on several segmentations.

The base recipe of `llmanac compare`, made smaller ({model[layers]} layers of dimension {model[dim]}, BPE of
{model[ids]} ids, the documentation in the standard library), {steps} steps of {batch} tokens. `fixed` reads the one
segmentation of BPE, `sampled` {passes} passes over the text with p = {p}, each document segmented anew. Both are scored
on {held[documents]} held-out documents ({held[bytes]:,} bytes), segmented by BPE (p = 0) and perturbed. Values are
means over the seeds, with the 95% t interval; differences are paired by seed.

- At p = 0.3 the fixed arm needs {rise[fixed]:.3f} bits per byte more than on the BPE segmentation, the sampled arm
  {rise[sampled]:.3f} more.

A sampled segmentation is longer ({longer:.2f} times the tokens), so at equal tokens the sampled arm has read less text.
The bits of a sampled segmentation are an upper bound for the text: they include the choice of the segmentation.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evidence._messages import bytes_of
from evidence._page import with_interval
from llmanac.core.pages import Section, table
from llmanac.data.collect import collect
from llmanac.data.pack import PackedStream
from llmanac.data.tokens import TokenDataset
from llmanac.evaluate.bits_per_byte import score_texts
from llmanac.lab.compare import BASE
from llmanac.lab.stats import mean
from llmanac.recipes.spec import load_recipe
from llmanac.tokenizers._sampled import Sampled
from llmanac.train.loop import train

ROWS = ("tokenizer/subword-regularization",)
CLAIM = "training on multiple segmentations makes the model robust to them"
SEEDS = 3
TOLERANCE = 1e-3  # float32 training

DROPPED = (0.0, 0.1, 0.3, 0.5)
TRAINED_WITH = 0.1
PASSES = 4  # sampled encodings of the training text, one after the other
STEPS = 1000
SMALLER = {
    "model.dim": 64, "model.layers": 2, "model.max_length": 128,
    "train.length": 128, "train.batch_tokens": 1024, "train.dtype": "float32", "train.attention": "sdpa",
}  # fmt: skip
SMALLEST = {"model.dim": 16, "model.layers": 1, "train.length": 32, "train.batch_tokens": 64}


def measure(seed: int, size: str) -> dict[str, Any]:
    """Bits per byte of both arms, by how much of the merges the reader drops."""
    if size == "small":
        recipe = load_recipe(str(BASE), {**SMALLER, **SMALLEST, "tokenizer.vocab_size": 300}).spec
        texts = [
            f"the {a} {b} sees the {b} of a {a}" for a in ("cat", "cow", "crane") for b in ("tree", "train", "tray")
        ]
        return compared(recipe, texts[:7], texts[7:], 3, seed, (0.0, 0.3))
    recipe = load_recipe(str(BASE), SMALLER).spec
    corpus = collect(recipe.data.source, held_out=recipe.data.held_out, seed=0)
    held = [text for text in corpus.held_out.texts() if len(text) < 20_000][:60]
    return compared(recipe, list(corpus.train.texts()), held, STEPS, seed, DROPPED)


def compared(
    recipe: Any, training: list[str], held: list[str], steps: int, seed: int, dropped: Sequence[float]
) -> dict[str, Any]:
    tokenizer = recipe.tokenizer.train(training)
    spec = dataclasses.replace(recipe.train, steps=steps, checkpoint_every=steps, keep=1)
    found: dict[str, dict[str, float]] = {}
    tokens: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as work:
        for arm, p, passes in (("fixed", 0.0, 1), ("sampled", TRAINED_WITH, PASSES)):
            read_as = Sampled(tokenizer, seed=10_000_001, dropout=p) if p else tokenizer
            dataset = TokenDataset.write(Path(work) / arm / "tokens", training * passes, read_as)
            tokens[arm] = len(dataset) / passes
            model = recipe.model.build(vocab_size=tokenizer.vocab_size).initialise(seed)
            stream = PackedStream(dataset, length=spec.length, rows=spec.rows, seed=seed)
            objective = recipe.objective.build(tokenizer=tokenizer)
            train(model, stream, objective, spec, Path(work) / arm / "run", seed=seed, label=f"{arm}, seed {seed}")
            model.eval()
            found[arm] = {}
            for q in dropped:
                reader = Sampled(tokenizer, seed=78, dropout=q) if q else tokenizer
                found[arm][str(q)] = score_texts(model, reader, held, window=spec.length).bits_per_byte
    return {
        "model": {"layers": recipe.model.layers, "dim": recipe.model.dim, "ids": tokenizer.vocab_size},
        "steps": steps, "batch tokens": spec.batch_tokens,
        "held out": {"documents": len(held), "bytes": bytes_of(held)},
        "longer": tokens["sampled"] / tokens["fixed"], "bits per byte": found,
    }  # fmt: skip


def by_arm(seeds: Sequence[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """`{arm: {p: bits per byte, one a seed}}`, and the paired differences."""
    found = [one["bits per byte"] for one in seeds]
    out = {arm: {q: [one[arm][q] for one in found] for q in row} for arm, row in found[0].items()}
    pairs = {q: [b - a for a, b in zip(out["fixed"][q], out["sampled"][q], strict=True)] for q in out["fixed"]}
    return {**out, "sampled - fixed": pairs}


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    """The page."""
    found = by_arm(seeds)
    rows = [[arm, *map(with_interval, row.values())] for arm, row in found.items()]
    return [
        Section(
            "Bits per byte, by how the text is cut", [], [table(["segmentations drawn with p", *found["fixed"]], rows)]
        )
    ]


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    found, about = by_arm(seeds), seeds[0]
    return {
        "model": about["model"], "steps": about["steps"], "batch": about["batch tokens"], "passes": PASSES,
        "p": TRAINED_WITH, "held": about["held out"], "longer": about["longer"],
        "rise": {arm: mean(row["0.3"]) - mean(row["0.0"]) for arm, row in found.items()},
    }  # fmt: skip
