"""Objectives of pretraining: autoregressive, masked, prefix and GLM, by what their models know and what they write.

One Transformer of {parameters:,} parameters and one tokenizer, trained on WikiText-2 (validation and test parts, a
fifth of the articles held out) by each objective: {steps} steps of {tokens:,} tokens, the same rows for all. GLM, which
writes its blanks twice, is trained a second time with the steps that make the FLOPs equal ({glm}). `llmanac compare
objective` measures a linear probe of the frozen states on four tasks, and bits per byte of sampled text under one judge
({judge}).

**Limits.** Models and text are far smaller than those that the claims are about, and there are {seeds} seeds. A masked
model learns from 15% of its tokens in a step, so at equal tokens it is trained the least. Rates are the base's, not
tuned for an arm. Positions are rotary for all; GLM's two dimensions are not used. Temperature 1 everywhere; a masked
model has as many passes as there are tokens, and was never trained to fill so many masks in a row, nor GLM to fill so
long a blank. That GLM's form contains the others exactly (a span at the end is a prefix model, one over everything an
autoregressive one) is shown by the reference tests, not here.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks._corpora import needed_data
from evidence._compared import SMALL, STEPS, WORK, made_up
from evidence.transfer import articles
from llmanac.core import files
from llmanac.core.pages import Section, table
from llmanac.core.spec import patch
from llmanac.data.labelled import read_labelled
from llmanac.lab import words
from llmanac.lab.arms import parse_arms
from llmanac.lab.axis import find_axis, resolve
from llmanac.lab.compare import BASE, compare
from llmanac.lab.generation import make_generation
from llmanac.lab.prepare import prepare
from llmanac.lab.probe import kind_of, make_probes, stem_of
from llmanac.lab.runner import with_steps
from llmanac.lab.stats import mean
from llmanac.lab.trials.training import TrainingTrial
from llmanac.recipes.spec import load_recipe
from llmanac.train.loop import train

ROWS = ("objective/masked", "objective/autoregressive", "objective/prefix", "objective/glm")
CLAIM = "masked models understand better and cannot generate naturally; prefix models and GLM do both"
SEEDS, VERSION, REPLICATE = 1, 2, "measurement"  # of five seeds
TOLERANCE = 1e-3  # float32 training
ARMS = ("autoregressive", "masked", "prefix", "glm")
HOLDS = {"tokens": ARMS, "flops": ("autoregressive", "glm")}  # the other two take the same FLOPs, to 2%
KEPT = ("values", "comparisons", "metrics", "probes", "generation", "baseline")
SETTINGS: dict[str, Any] = {
    "data.held_out": 0.2, "tokenizer.vocab_size": 512, "model.dim": 64, "model.layers": 2, "model.max_length": 256,
    "train.length": 128, "train.batch_tokens": 1024, "train.steps": 800, "train.dtype": "float32",
    "train.attention": "sdpa", "train.compile": "never", "evaluate.held_out_bytes": 200_000,
}  # fmt: skip
TITLES = {"probe_stsa_binary": "SST-2", "probe_cola": "CoLA", "probe_order": "order", "probe_agreement": "agreement"}
TITLES |= {"judged": "judged, bit/B", "distinct_2": "distinct bigrams"}


def text_files(texts: Sequence[str], place: Path) -> dict[str, Any]:
    """A source of a file for each text."""
    for number, text in enumerate(texts):
        files.write_text(place / f"{number:03}.txt", text)
    return {"name": "files", "paths": [str(place)]}


def probe_files() -> str:
    """CoLA's development sentences with named columns, and SST-2's development file as it is."""
    data = needed_data("cola", "sst2")
    cola = read_labelled(data / "cola" / "in_domain_dev.tsv", text="4", label="2")
    rows = [json.dumps({"text": t, "label": n}) for t, n in zip(cola.texts, cola.labels, strict=True)]
    path = files.write_text(WORK / "cola.jsonl", "\n".join(rows) + "\n")
    return f"{path},{data / 'sst2' / 'stsa.binary.dev'}"


def measure(seed: int, size: str) -> dict[str, Any]:
    if size == "small":
        return small(seed)
    settings = SETTINGS | {"data.source": text_files(articles(), WORK / "wikitext")}
    out: dict[str, Any] = {}
    for hold, arms in HOLDS.items():
        found = compare(
            "objective", arms, base=str(BASE), patches=settings, hold=hold, seeds=5, margin=0.005, budget="6h",
            probe=probe_files(), folder=WORK / f"objectives-{hold}", cache=WORK / "cache",
        ).data  # fmt: skip
        costs = ("parameters", "tokens", "train_flops")
        out[hold] = {key: found[key] for key in KEPT} | {
            "steps": found["plan"]["steps"],
            "costs": {arm: {cost: one[cost] for cost in costs} for arm, one in found["costs"].items()},
        }
    return out


def small(seed: int) -> dict[str, Any]:
    """Probes and samples of every arm after a few steps of a small model on made-up text."""
    with tempfile.TemporaryDirectory() as name:
        source = text_files(made_up(200), Path(name) / "text")
        special = ["<|endoftext|>", "<|mask|>", "<|sop|>", "<|eop|>"]
        more = {"data.source": source, "tokenizer.special_tokens": special, "evaluate.held_out_bytes": 20_000}
        base = load_recipe(str(BASE), SMALL | more).spec
        prepared, axis = prepare(base, Path(name) / "prepared"), find_axis("objective")
        arms = [with_steps(arm, STEPS) for arm in resolve(base, axis, parse_arms(list(ARMS)))]
        probes = make_probes(prepared, [arm.spec.objective for arm in arms], base.train.length, ())
        generation, trial, out = make_generation(prepared, base.train.length, None), TrainingTrial(prepared, "cpu"), {}
        for arm in arms:
            model, stream, objective = trial.build(arm, seed)
            train(model, stream, objective, patch(arm.spec.train, {}), Path(name) / arm.label, seed=seed)
            reads = kind_of(arm.spec.objective) or "causal"
            scores = {probe.name: probe.score(model.eval(), reads) for probe in probes}
            out[arm.label] = scores | generation.score(model, stem_of(arm.spec.objective), seed)
        return {"arms": out, "text": generation.record()["text"]}


def said(found: dict[str, Any], metric: str) -> dict[str, str]:
    """The verdict on each arm against the autoregressive one."""
    short = {c["arm"]: words.verdict(c, "seed").split(" (")[0] for c in found["comparisons"][metric]}
    return {arm: "no verdict" if verdict == "none" else verdict for arm, verdict in short.items()}


def understands(seeds: Sequence[dict[str, Any]], arm: str) -> list[float]:
    """The mean accuracy over the probes less the autoregressive model's, of each seed."""
    found = seeds[0]["tokens"]
    gains = [[a - b for a, b in zip(found["values"][probe][arm], found["values"][probe]["autoregressive"], strict=True)]
             for probe in found["probes"]]  # fmt: skip
    return [mean(own) for own in zip(*gains, strict=True)]


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    found, equal = seeds[0]["tokens"], seeds[0]["flops"]
    return {
        "parameters": int(found["costs"]["masked"]["parameters"]), "steps": found["steps"]["autoregressive"],
        "tokens": SETTINGS["train.batch_tokens"], "glm": equal["steps"]["glm"], "judge": found["generation"]["judge"],
        "seeds": len(found["values"]["judged"]["masked"]),
    }  # fmt: skip


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    out = []
    for hold, arms in HOLDS.items():
        found = seeds[0][hold]
        names = [metric["name"] for metric in found["metrics"]]
        heads = [
            TITLES.get(name, {"judged": "judged, bit/B", "distinct_2": "distinct bigrams"}.get(name)) for name in names
        ]
        rows = [[arm, *(f"{mean(found['values'][name][arm]):.3f}" for name in names)] for arm in arms]
        for floor in ("majority", "bag of words", "before training"):
            rows.append([floor, *(f"{found['probes'][n][floor]:.3f}" if n in found["probes"] else "" for n in names)])
        text = found["generation"]["text"]
        rows.append(["the passages", *(f"{text[name]:.3f}" if name in text else "" for name in names)])
        verdicts = [[arm, *(said(found, name).get(arm, "baseline") for name in names)] for arm in arms]
        costs = [
            [arm, f"{found['steps'][arm]:,}", f"{one['tokens']:,.0f}", f"{one['train_flops']:.3g}"]
            for arm, one in found["costs"].items()
        ]
        out.append(
            Section(
                f"Equal {'FLOPs' if hold == 'flops' else hold}",
                ["Means over the seeds; then the verdicts against autoregressive (paired, Holm); then the costs."],
                [table(["", *heads], rows), table(["", *heads], verdicts),
                 table(["", "steps", "tokens with padding", "FLOPs"], costs)],
            )
        )  # fmt: skip
    return out
