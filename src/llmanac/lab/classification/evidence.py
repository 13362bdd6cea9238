"""What is claimed of classifiers, measured on one labelled set; `tools/make_classify_evidence.py` runs it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from llmanac.core import files
from llmanac.core.device import machine
from llmanac.core.spec import make_method
from llmanac.data.labelled import Labelled
from llmanac.kernels.embedding import one_hot
from llmanac.lab.classification import claims
from llmanac.lab.classification.experiments import copied, sample
from llmanac.lab.classification.slices import sentiment_slices
from llmanac.lab.classification.table import builders, make_table, prompt_choices, write
from llmanac.recipes.classification import small_language_model

METHODS = ("rules", "bow", "cbow", "deep-cbow", "fine-tuning", "prompting")
SMALL = 1000  # rows of the smaller experiments
SHOWN = ("good", "boring", "funny", "not", "film")  # words whose nearest ones are shown
FILE = "claims.json"


def measure_claims(
    train: Labelled, test: Labelled, folder: Path, *, seeds: int, sizes: Sequence[int] | None, steps: int, command: str
) -> dict[str, Any]:
    """Measure everything, write the table and claims.json; returns what claims.json holds.

    Args:
        steps: of the small language model that fine-tuning and prompting stand on.
    """
    begin = time.perf_counter()
    spent = time.process_time()
    lm = small_language_model(train.texts, steps=steps)
    spent = time.process_time() - spent
    nearest: dict[str, Any] = {}

    def after(name: str, seed: int, classifier: Any) -> dict[str, Any]:
        if name not in ("bow", "cbow", "deep-cbow"):
            return {}
        out: dict[str, Any] = {"rare": claims.rare_words(classifier, train)}
        if name == "cbow":
            vectors, numbers = classifier.word_vectors(), classifier.vocabulary.numbers
            out["similarity"] = claims.similarity(lambda word: vectors[numbers[word]] if word in numbers else None)
            if not seed:
                nearest.update({word: classifier.nearest(word, 6) for word in SHOWN if word in numbers})
        return out

    slices = sentiment_slices(sorted(set(train.labels)))
    result = make_table(
        train, test, METHODS, seeds=seeds, sizes=sizes, slices=slices, language_model=lm, after=after
    )  # fmt: skip
    result["command"] = command
    write(folder, result)
    found = {
        "command": command,
        "machine": machine(),
        "data": result["data"],
        "seeds": seeds,
        "language_model": {
            "parameters": lm[0].parameter_count(), "steps": steps, "cpu_seconds": spent,
            "read": "the training texts, without labels",
        },
        "table": {name: {k: v for k, v in row.items() if k != "explained"} for name, row in result["methods"].items()},
        "nearest": nearest,
        "one_hot_similarity": claims.similarity(claims.one_hot_vectors()),
        "exclusive_or": _exclusive_or(seeds),
        "pairs": _pairs(train, test, lm, seeds),
        "prompts": _prompts(train, test, lm),
        "probes": _probes(train, test, lm, seeds, sorted({100, SMALL, len(train)})),
        "one_hot": _one_hot(),
        "bce": _bce(),
        "bytes": claims.loss_bytes(),
        "seconds": time.perf_counter() - begin,
    }  # fmt: skip
    files.write_json(folder / FILE, found)
    return found


def _exclusive_or(seeds: int) -> dict[str, list[float]]:
    """Held-out accuracy of each bag on the set that is an exclusive or."""
    train, held = claims.exclusive_or()
    same = {"epochs": 60, "dropout": 0.0, "lr": 1e-2}
    arms: dict[str, dict[str, Any]] = {
        "bow": {"name": "bow"},
        "bow, pairs of words": {"name": "bow", "ngrams": 2},
        "cbow": {"name": "cbow", **same},
        "deep-cbow without its nonlinearity": {"name": "deep-cbow", "activation": "none", **same},
        "deep-cbow": {"name": "deep-cbow", **same},
    }
    out: dict[str, list[float]] = {}
    for label, choices in arms.items():
        for seed in range(seeds):
            classifier = make_method("classifier", choices).build().fit(train.texts, train.labels, seed=seed)
            out.setdefault(label, []).append(claims.accuracy(classifier, held))
    return out


def _pairs(train: Labelled, test: Labelled, lm: tuple[Any, Any], seeds: int) -> dict[str, list[float]]:
    """Fine-tuning on true pairs, on pairs dealt out anew, and on true pairs from an untrained model."""
    tuned = builders(["fine-tuning"], train, language_model=lm)["fine-tuning"]
    fresh_model = lm[0].spec.build(vocab_size=lm[0].vocab_size)
    fresh = copied(
        lambda m, t: make_method("classifier", "fine-tuning").build(model=m, tokenizer=t), fresh_model, lm[1]
    )
    out: dict[str, list[float]] = {}
    for seed in range(seeds):
        chosen = sample(train.labels, SMALL, seed)
        part = Labelled(*[[own[i] for i in chosen] for own in (train.texts, train.labels, train.lines)])
        for name, build, rows in (
            ("true pairs", tuned, part),
            ("labels dealt out anew", tuned, claims.shuffled(part, seed)),
            ("true pairs, untrained model", fresh, part),
        ):
            classifier = build().fit(rows.texts, rows.labels, seed=seed)
            out.setdefault(name, []).append(claims.accuracy(classifier, test))
    return out


def _prompts(train: Labelled, test: Labelled, lm: tuple[Any, Any]) -> dict[str, dict[str, float]]:
    """Prompting by each way to compare, with and without examples shown; how often it gives the second label."""
    out = {}
    for compare, shots in (("sum", 0), ("length", 0), ("unconditional", 0), ("sum", 4)):
        patches = [*prompt_choices(train.labels), f"compare={compare}", f"shots={shots}"]
        build = builders(["prompting"], train, language_model=lm, patches={"prompting": patches})["prompting"]
        classifier = build().fit(train.texts, train.labels)
        given = classifier.predict(test.texts)
        out[f"{compare}, {shots} shown"] = {
            "accuracy": float(np.mean([g == label for g, label in zip(given, test.labels, strict=True)])),
            "second_label": given.count(classifier.labels[1]) / len(given),
        }
    return out


def _probes(
    train: Labelled, test: Labelled, lm: tuple[Any, Any], seeds: int, sizes: Sequence[int]
) -> dict[str, dict[str, list[float]]]:
    """Linear probes over rows: mean of the language model's token vectors, of random ones, and counts of words."""
    table = lm[0].model.embed_tokens.weight
    random = torch.randn(table.shape, generator=torch.Generator().manual_seed(0))
    dense = {"dense, learned from text": table, "dense, random": random}
    out: dict[str, dict[str, list[float]]] = {}
    for name, vectors in dense.items():
        x, held = (claims.mean_vectors(own.texts, lm[1], vectors) for own in (train, test))
        for size in sizes:
            values = [claims.linear_probe(x, train, held, test, rows=size, seed=seed) for seed in range(seeds)]
            out.setdefault(name, {})[str(size)] = values
    for size in sizes:
        for seed in range(seeds):
            chosen = sample(train.labels, size, seed)
            bow = make_method("classifier", "bow").build()
            bow.fit([train.texts[i] for i in chosen], [train.labels[i] for i in chosen], seed=seed)
            out.setdefault("sparse, counts of words", {}).setdefault(str(size), []).append(claims.accuracy(bow, test))
    return out


def _one_hot(words: int = 500) -> dict[str, float]:
    """The largest cosine between one-hot vectors of different words."""
    vectors = one_hot(torch.arange(words), words)
    cosines = F.cosine_similarity(vectors[:, None], vectors[None], dim=-1) - torch.eye(words)
    return {"words": float(words), "largest_cosine": float(cosines.abs().max())}


def _bce() -> dict[str, Any]:
    """The formula, its stable form and torch's over a grid of scores and targets; where the formula breaks."""
    z = torch.linspace(-120, 120, 4801, dtype=torch.float32)
    worst = slope = 0.0
    broken = []
    for target in (0.0, 0.25, 1.0):
        scores, y = z.clone().requires_grad_(), torch.full_like(z, target)
        ours = make_method("loss", {"name": "bce", "reduction": "none"}).build()(scores, y)
        theirs = F.binary_cross_entropy_with_logits(scores, y, reduction="none")
        worst = max(worst, float((ours - theirs).detach().abs().max()))
        (own,) = torch.autograd.grad(ours.sum(), scores)
        slope = max(slope, float((own - (torch.sigmoid(z) - y)).abs().max()))
        p = torch.sigmoid(z)
        direct = -(y * p.log() + (1 - y) * (1 - p).log())
        wrong = ~torch.isfinite(direct)
        broken += [float(z[wrong].abs().min())] if bool(wrong.any()) else []
    return {"grid": len(z), "largest_difference": worst, "slope_difference": slope, "formula_breaks_at": min(broken)}
