"""Transfer: few labels go further from a pretrained checkpoint.

One causal language model of {parameters:,} parameters read {read:,} tokens without labels: WikiText-2 (validation and
test parts) and the training texts of the three tasks. It is then fine-tuned on each task, next to two others: "scratch"
is the same network from initial weights, "shuffled" has the checkpoint's numbers in random order within each tensor.
Loop, examples, head, seeds and steps are equal; scores are macro F1 on texts whose labels no arm has seen.

**Limits.** The checkpoint is tiny and has read little, the training texts of the tasks among it: this is what
pretraining on the texts at hand is worth, not what a large model's is. One learning rate and number of epochs for all
arms ({choices}), none of them tuned. MMLU's numbers are withdrawn: the checkpoint had
read most of its test questions, without their subjects, before the task was cut to 20 subjects; a new run leaves them
out. 10,000 labels were
not measured, for time: {rows} are there.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._corpora import needed_data
from evidence._compared import WORK
from evidence._page import with_interval
from evidence.classifiers import made_up
from llmanac.core import files
from llmanac.core.pages import Section, table
from llmanac.core.rng import numpy_generator
from llmanac.core.spec import make_method, parse_patches, patch
from llmanac.data.labelled import Labelled, read_labelled
from llmanac.lab.axis import Arm
from llmanac.lab.cache import digest
from llmanac.lab.trials.classifying import TITLES, ClassifierStart, ClassifyingTrial
from llmanac.models.load import load_model
from llmanac.recipes.classification import small_language_model
from llmanac.tokenizers.load import load_tokenizer

ROWS = ("pretrain/transfer",)
CLAIM = "a pretrained model needs fewer labels than the same network from scratch"
SEEDS = 3
TOLERANCE = 1e-3  # float32 training
MODEL = {"dim": 64, "layers": 2, "steps": 400, "length": 128, "batch_tokens": 2048}
CHOICES = ["epochs=3", "lr=0.001", "length=64"]
SIZES = (10, 100, 1000)
SCORES = tuple(reversed(TITLES))
STARTS = ("pretrained", "scratch", "shuffled")
WITHDRAWN = ("mmlu",)  # of the kept cells: their checkpoint had read its test questions
TESTED, SUBJECTS = 500, 20
TASKS = {"sst2": "SST-2, sentiment", "cola": "CoLA, acceptability", "mmlu": "MMLU, subject (the 20 largest)"}


def drawn(rows: Labelled, numbers: Any) -> Labelled:
    return Labelled(*([values[n] for n in numbers] for values in (rows.texts, rows.labels, rows.lines)))  # type: ignore[arg-type]


def tasks() -> dict[str, tuple[Labelled, Labelled]]:
    """`(to train on, to test on)` of each; at most `TESTED` test texts, drawn once."""
    place = needed_data(*TASKS)
    sst2 = [read_labelled(place / "sst2" / f"stsa.binary.{part}") for part in ("train", "test")]
    cola = [read_labelled(place / "cola" / f"in_domain_{part}.tsv", text="4", label="2") for part in ("train", "dev")]
    by_subject: dict[str, list[str]] = {}
    for path in sorted((place / "mmlu" / "test").glob("*.csv")):
        with open(path, encoding="utf-8", newline="") as file:
            by_subject[path.stem.removesuffix("_test")] = [row["question"].strip() for row in csv.DictReader(file)]
    largest = sorted(by_subject, key=lambda name: -len(by_subject[name]))[:SUBJECTS]
    questions = [text for name in largest for text in by_subject[name]]
    subjects = [name for name in largest for _ in by_subject[name]]
    once = sorted({text: n for n, text in reversed(list(enumerate(questions)))}.values())  # no text on both sides
    order = numpy_generator(0, "mmlu by subject").permutation(once)
    mmlu = Labelled(questions, subjects, list(range(len(questions))))
    pairs = {"sst2": sst2, "cola": cola, "mmlu": [drawn(mmlu, order[TESTED:]), drawn(mmlu, order[:TESTED])]}
    out = {}
    for name, (train, test) in pairs.items():
        chosen = numpy_generator(0, "tested", name).permutation(len(test))[:TESTED]
        out[name] = (train, drawn(test, np.sort(chosen)))
    return out


def articles() -> list[str]:
    """WikiText-2's articles."""
    place = needed_data("text") / "text"
    text = "".join((place / f"wikitext2_{part}.txt").read_text("utf-8") for part in ("valid", "test"))
    return [one for one in re.split(r"(?m)^(?= = [^=\n]+ = $)", text) if one.strip()]


def checkpoint(texts: Sequence[str]) -> tuple[Any, Any, int]:
    """The pretrained model, its tokenizer and the tokens that it read; kept, since every seed starts from it."""
    place = WORK / f"transfer-checkpoint-{digest([MODEL, list(texts)])[:12]}"
    if not (place / "done.json").is_file():
        model, tokenizer = small_language_model(texts, **MODEL)
        model.save_pretrained(place / "model")
        tokenizer.save(place / "tokenizer")
        files.write_json(place / "done.json", {"tokens": MODEL["steps"] * MODEL["batch_tokens"]})
    tokens = files.read_json(place / "done.json")["tokens"]
    return load_model(place / "model", device="cpu").eval(), load_tokenizer(place / "tokenizer"), tokens


def transferred(
    model: Any, train: Labelled, test: Labelled, sizes: Sequence[int], seed: int, choices: Sequence[str]
) -> dict[str, Any]:
    """Scores of fine-tuning by start and number of labels, under a seed."""
    method = patch(make_method("classifier", "fine-tuning"), parse_patches(choices))
    arms = [Arm(name, ClassifierStart.from_data({"name": name}), {}, {}) for name in STARTS]
    counts = sorted({min(size, len(train)) for size in sizes})
    trial = ClassifyingTrial(arms, train, test, counts, language_model=model, method=method)
    found = {arm.label: trial.measure(arm, seed, Path()).values for arm in arms}
    values = {
        start: {str(n): {score: own[f"{score}_{n}"] for score in SCORES} for n in counts}
        for start, own in found.items()
    }
    majority = {score: float(getattr(trial.majority(), score)) for score in SCORES}
    return {"sizes": counts, "majority": majority, "values": values, "rows": [len(train), len(test)]}


def measure(seed: int, size: str) -> dict[str, Any]:
    if size == "small":
        train, test = made_up("the {} is {}"), made_up("a {} so {}")
        model, tokenizer = small_language_model(train.texts, steps=2, dim=16, layers=1, length=32, batch_tokens=64)
        found = transferred((model, tokenizer), train, test, (4,), seed, ["epochs=1"])
        return {"values": found["values"], "majority": found["majority"]}
    given = tasks()
    unlabelled = [text for train, _ in given.values() for text in train.texts]
    model, tokenizer, read = checkpoint([*articles(), *unlabelled])
    return {
        "parameters": model.parameter_count(), "read": read,
        "tasks": {
            name: transferred((model, tokenizer), *pair, SIZES, seed, CHOICES) for name, pair in given.items()
        },
    }  # fmt: skip


def merged(seeds: Sequence[dict[str, Any]], task: str) -> dict[str, Any]:
    """A task's result over all seeds."""
    first = seeds[0]["tasks"][task]
    values = {
        start: {
            size: {score: [v for s in seeds for v in s["tasks"][task]["values"][start][size][score]]
                   for score in SCORES} for size in by_size
        } for start, by_size in first["values"].items()
    }  # fmt: skip
    return {**first, "values": values}


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    rows = [f"{one['rows'][0]:,} ({task})" for task, one in seeds[0]["tasks"].items() if task not in WITHDRAWN]
    return {"parameters": seeds[0]["parameters"], "read": seeds[0]["read"], "choices": ", ".join(CHOICES),
            "rows": ", ".join(rows)}  # fmt: skip


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    out = []
    for task, title in ((task, title) for task, title in TASKS.items() if task not in WITHDRAWN):
        found = merged(seeds, task)
        starts = found["values"]
        body = [
            [f"{size:,}", *(with_interval(by[str(size)][score]) for score in SCORES for by in starts.values())]
            for size in found["sizes"]
        ]
        heads = ["labels", *(f"{start}, {score.replace('_', ' ')}" for score in SCORES for start in starts)]
        floor = ", ".join(f"{score.replace('_', ' ')} {found['majority'][score]:.3f}" for score in SCORES)
        count = f"{found['rows'][1]:,} test texts; the most frequent label alone: {floor}."
        out.append(Section(title, [count], [table(heads, body)]))
    return out
