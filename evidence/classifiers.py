"""Rule-based and learned classifiers.

Rules, bags of words, and classifiers on a small language model, on SST-2.
`LLMANAC_SHARED_DATA` names the folder that has sst2/stsa.binary.train and stsa.binary.test.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks._corpora import needed_data
from evidence import _claim_pages, _classified
from evidence import _claims as claims
from evidence._intervals import newcombe_interval
from evidence._verdicts import Estimate
from llmanac.core.pages import Section
from llmanac.core.spec import make_method
from llmanac.data.labelled import Labelled, read_labelled
from llmanac.kernels.nn.embedding import one_hot
from llmanac.lab.slices import sentiment_slices
from llmanac.lab.trials.classifying import sample
from llmanac.recipes.classification import small_language_model
from llmanac.recipes.classifying.use import build_classifier, make_classifier

ROWS = (
    "classify/rules", "classify/bow", "classify/cbow", "classify/deep-cbow", "classify/prompting",
    "classify/fine-tuning", "embedding/lookup", "loss/bce", "loss/cross-entropy",
)  # fmt: skip
CLAIM = "rules need no training data and fail where the rulebook does; what is learned improves with more data"
SEEDS, VERSION, REPLICATE = 1, 2, "measurement"  # of five seeds each: learning curves use all of them
TIMED = (
    "seconds", "cpu_seconds", "texts_per_second", "started", "machine", "nearest", "explained", "torch",
)  # fmt: skip
TOLERANCE = 0.01  # float32 training; counted bytes of cross-entropy fell by 0.7% when its loops took float32

METHODS = ("rules", "bow", "cbow", "deep-cbow", "fine-tuning", "prompting")
SHOWN = ("good", "boring", "funny", "not", "film")  # words whose nearest ones are shown


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        sizes, rows: of learning curves, and of the smaller experiments.
        patches: choices of classifiers, by name. arms: of the exclusive or, all of them where empty.
        lm: the language model of fine-tuning and prompting.
    """

    seeds: int = 5
    sizes: tuple[int, ...] = (10, 30, 100, 300, 1000)
    rows: int = 1000
    methods: tuple[str, ...] = METHODS
    patches: Mapping[str, list[str]] = field(default_factory=dict)
    arms: tuple[str, ...] = ()
    pairs: tuple[str, ...] = ()
    words: int = 500
    classes: tuple[int, ...] = (4096, 16384)
    lm: Mapping[str, int] = field(default_factory=lambda: {"steps": 250})


SMALL = Size(
    seeds=1, sizes=(1000,), rows=24, methods=METHODS[:3], patches={"bow": ["epochs=10"]}, arms=("deep-cbow",),
    pairs=("true pairs",), words=20, classes=(512,), lm={"steps": 2, "dim": 16, "layers": 1},
)  # fmt: skip


def measure(seed: int, size: str) -> dict[str, Any]:
    """Everything that the claims need."""
    if size == "small":
        return _measured(made_up("the {} is {}"), made_up("a {} so {}"), SMALL)
    folder = needed_data("sst2")
    train, test = (read_labelled(folder / "sst2" / f"stsa.binary.{part}") for part in ("train", "test"))
    return _measured(train, test, Size())


def made_up(form: str) -> Labelled:
    """48 sentences whose label one word says."""
    good, bad = ("good", "great", "charming", "superb"), ("bad", "awful", "boring", "dreadful")
    pairs = list(product(("film", "story", "ending", "cast", "music", "plot"), good + bad))
    return Labelled([form.format(*p) for p in pairs], [str(int(p[1] in good)) for p in pairs], list(range(len(pairs))))


def _measured(train: Labelled, test: Labelled, size: Size) -> dict[str, Any]:
    spent = time.process_time()
    lm = small_language_model(train.texts, **size.lm)
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
    result = _classified.classified(
        train, test, size.methods, seeds=size.seeds, sizes=size.sizes, slices=slices, language_model=lm, after=after,
        patches=size.patches,
    )  # fmt: skip
    return {
        "table": result,
        "seeds": size.seeds,
        "language_model": {
            "parameters": lm[0].parameter_count(), "steps": size.lm["steps"], "cpu_seconds": spent,
            "read": "the training texts, without labels",
        },
        "nearest": nearest,
        "one_hot_similarity": claims.similarity(claims.one_hot_vectors()),
        "exclusive_or": _exclusive_or(size),
        "pairs": _pairs(train, test, lm, size),
        "prompts": _prompts(train, test, lm),
        "probes": _probes(train, test, lm, size),
        "one_hot": _one_hot(size.words),
        "bce": _bce(),
        "bytes": claims.loss_bytes(classes=size.classes),
    }  # fmt: skip


def falls(seeds: Sequence[dict[str, Any]], name: str) -> Estimate:
    """The share of a slice's changed texts on which the rules are right less that of its plain ones, by Newcombe."""
    table = seeds[0]["table"]
    texts = next(one["texts"] for one in table["slices"] if one["name"] == name)
    right = table["methods"]["rules"]["slices"][name]
    counts = [n for part in ("changed", "plain") for n in (round(right[part][0] * texts[part]), texts[part])]
    return Estimate(*newcombe_interval(*counts), n=texts["changed"])


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    """The table, then every claim."""
    (found,) = seeds
    table, data = found["table"], found["table"]["data"]
    about = f"SST-2, {data['train_rows']:,} training and {data['test_rows']:,} test sentences, {found['seeds']} seeds."
    parts = _classified.sections(table)
    flat = {**found, "table": table["methods"], "data": data}
    return [Section("", [about]), *parts, *_claim_pages.claims(flat)]


def _exclusive_or(size: Size) -> dict[str, list[float]]:
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
    for label in size.arms or arms:
        choices = arms[label]
        for seed in range(size.seeds):
            classifier = make_method("classifier", choices).build().fit(train.texts, train.labels, seed=seed)
            out.setdefault(label, []).append(claims.accuracy(classifier, held))
    return out


def _pairs(train: Labelled, test: Labelled, lm: tuple[Any, Any], size: Size) -> dict[str, list[float]]:
    """Fine-tuning on true pairs, on shuffled pairs, and on true pairs from an untrained model."""
    fresh = (lm[0].spec.build(vocab_size=lm[0].vocab_size), lm[1])
    spec = make_method("classifier", "fine-tuning")
    out: dict[str, list[float]] = {}
    for seed in range(size.seeds):
        chosen = sample(train.labels, size.rows, seed)
        part = Labelled(*[[own[i] for i in chosen] for own in (train.texts, train.labels, train.lines)])
        for name, model, rows in (
            ("true pairs", lm, part),
            ("labels dealt out anew", lm, claims.shuffled(part, seed)),
            ("true pairs, untrained model", fresh, part),
        ):
            if size.pairs and name not in size.pairs:
                continue
            classifier = build_classifier(spec, model).fit(rows.texts, rows.labels, seed=seed)
            out.setdefault(name, []).append(claims.accuracy(classifier, test))
    return out


def _prompts(train: Labelled, test: Labelled, lm: tuple[Any, Any]) -> dict[str, dict[str, float]]:
    """Prompting by each way to compare, with and without examples shown; how often it gives the second label."""
    out = {}
    for normalization, shots in (("sum", 0), ("length", 0), ("unconditional", 0), ("sum", 4)):
        patches = [f"normalization={normalization}", f"shots={shots}"]
        spec = _classified.spec_of("prompting", train.labels, patches)
        classifier = build_classifier(spec, lm).fit(train.texts, train.labels)
        given = classifier.predict(test.texts)
        out[f"{normalization}, {shots} shown"] = {
            "accuracy": float(np.mean([g == label for g, label in zip(given, test.labels, strict=True)])),
            "second_label": given.count(classifier.labels[1]) / len(given),
        }
    return out


def _probes(train: Labelled, test: Labelled, lm: tuple[Any, Any], size: Size) -> dict[str, dict[str, list[float]]]:
    """Linear probes over rows: mean of the language model's token vectors, of random ones, and counts of words."""
    table = lm[0].model.embed_tokens.weight
    random = torch.randn(table.shape, generator=torch.Generator().manual_seed(0))
    dense = {"dense, learned from text": table, "dense, random": random}
    out: dict[str, dict[str, list[float]]] = {}
    counts = sorted({100, size.rows, len(train)} if size.rows > 100 else {size.rows})
    for name, vectors in dense.items():
        x, held = (claims.mean_vectors(own.texts, lm[1], vectors) for own in (train, test))
        for rows in counts:
            values = [claims.linear_probe(x, train, held, test, rows=rows, seed=seed) for seed in range(size.seeds)]
            out.setdefault(name, {})[str(rows)] = values
    for rows in counts:
        for seed in range(size.seeds):
            chosen = sample(train.labels, rows, seed)
            bow = make_classifier("bow", size.patches.get("bow", ()))
            bow.fit([train.texts[i] for i in chosen], [train.labels[i] for i in chosen], seed=seed)
            out.setdefault("sparse, counts of words", {}).setdefault(str(rows), []).append(claims.accuracy(bow, test))
    return out


def _one_hot(words: int) -> dict[str, float]:
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
