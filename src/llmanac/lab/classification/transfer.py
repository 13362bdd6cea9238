"""What pretraining is worth: one network fine-tuned on few and on many labels, from other initial weights.

    pretrained   the checkpoint
    scratch      the initial weights that its training began with, or those of another seed
    shuffled     the checkpoint with the numbers of every tensor in random order: its scales, nothing that it learned

There is one loop (`classifier/fine-tuning`), and under a seed all three see the same examples in the same order, with
the same head, schedule and number of steps: only the weights that they start from differ. The smaller samples of a seed
are a part of the larger ones. The score is macro F1, which the most frequent label alone does not raise; accuracy is
there too.

Papers: Howard & Ruder 2018 (https://arxiv.org/abs/1801.06146), section 5.1, for scores over the number of labels.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from llmanac.core.errors import SpecError
from llmanac.core.progress import progress
from llmanac.core.rng import parameter_generator
from llmanac.core.spec import make_method, parse_patches, patch
from llmanac.data.labelled import Labelled
from llmanac.generate.load import load_engine
from llmanac.lab.classification.experiments import sample
from llmanac.lab.stats import interval, mean
from llmanac.metrics.accuracy import report
from llmanac.recipes.classification import check_sizes

STARTS = ("pretrained", "scratch", "shuffled")
SIZES = (10, 100, 1000, 10_000)
SCORES = ("macro_f1", "accuracy")


@torch.no_grad()
def begun(model: Any, start: str, seed: int) -> Any:
    """A copy of a model with the weights that an arm starts from.

    Raises:
        SpecError: a start that is none of `STARTS`, or a model that cannot be initialised.
    """
    if start not in STARTS:
        raise SpecError(f"start: {start!r} is not one of {', '.join(STARTS)}")
    made = copy.deepcopy(model)
    if start == "scratch":
        if not hasattr(made, "initialise"):
            raise SpecError(f"model: {type(made).__name__} has no initial weights to start from scratch with")
        made.initialise(seed)
    if start == "shuffled":
        for name, parameter in made.named_parameters():
            generator = parameter_generator(seed, f"shuffled.{name}", tuple(parameter.shape))
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return made


def transfer(
    model: Any, tokenizer: Any, train: Labelled, test: Labelled, *, sizes: Sequence[int] = SIZES, seeds:
    Sequence[int] = (0, 1, 2), patches: Sequence[str] = (), starts: Sequence[str] = STARTS, label: str = "transfer",
) -> dict[str, Any]:  # fmt: skip
    """Fine-tune from each start on each number of labels.

    Args:
        sizes: numbers of labelled texts; of those beyond the rows of `train`, all rows are taken once.
        patches: choices of `classifier/fine-tuning`, `epochs=5`.

    Returns:
        `sizes`; `majority`, both scores of the most frequent label; `values` by start, size and score, one a seed.

    Raises:
        SpecError: choices that fine-tuning does not have, or no size of at least 2.
    """
    spec = patch(make_method("classifier", "fine-tuning"), parse_patches(patches), "fine-tuning")
    check_sizes(spec)
    counts = sorted({min(size, len(train)) for size in sizes})
    if not counts or counts[0] < 2:
        raise SpecError(f"--sizes: {list(sizes)}: give numbers of at least 2 labelled texts")
    names = sorted({*train.labels, *test.labels})
    most = max(names, key=train.labels.count)
    values: dict[str, Any] = {s: {str(n): {score: [] for score in SCORES} for n in counts} for s in starts}
    with progress(label, len(starts) * len(counts) * len(seeds), "trainings") as bar:
        for seed in seeds:
            for size in counts:
                rows = sample(train.labels, size, seed)
                texts, labels = [train.texts[n] for n in rows], [train.labels[n] for n in rows]
                for start in starts:
                    classifier = spec.build(model=begun(model, start, seed), tokenizer=tokenizer)
                    classifier.fit(texts, labels, seed=seed)
                    found = report(names, test.labels, classifier.predict(test.texts))
                    for score in SCORES:
                        values[start][str(size)][score].append(float(getattr(found, score)))
                    bar.advance(1, start=start, labels=size)
    floor = report(names, test.labels, [most] * len(test))
    majority = {score: float(getattr(floor, score)) for score in SCORES}
    return {"sizes": counts, "majority": majority, "values": values, "rows": [len(train), len(test)]}


def gains(found: Mapping[str, Any], size: int, score: str = SCORES[0]) -> dict[str, tuple[float, ...]]:
    """`(mean, low, high)` of the first start minus each other one, paired by seed, 95%; the mean alone for one seed."""
    values = {start: by_size[str(size)][score] for start, by_size in found["values"].items()}
    first, *others = values
    out: dict[str, tuple[float, ...]] = {}
    for other in others:
        paired = [a - b for a, b in zip(values[first], values[other], strict=True)]
        out[other] = (mean(paired), *(interval(paired) if len(paired) > 1 else ()))
    return out


def rows_of(found: Mapping[str, Any], score: str = SCORES[0]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table: each start's mean score by number of labels, and what the first is above the others."""
    first, *others = found["values"]
    rows = []
    for size in found["sizes"]:
        means = [f"{mean(by_size[str(size)][score]):.3f}" for by_size in found["values"].values()]
        above = [
            f"{gain:+.3f}" + (f" ({bounds[0]:+.3f} to {bounds[1]:+.3f})" if bounds else "")
            for gain, *bounds in gains(found, size, score).values()
        ]
        rows.append([f"{size:,}", *means, *above])
    return ["labels", first, *others, *(f"{first} - {other} (95%)" for other in others)], rows


def open_checkpoint(path: str | Path) -> tuple[Any, Any]:
    """The model and the tokenizer of a run's or a model's folder, on the CPU."""
    engine = load_engine(str(path), device="cpu")
    return engine.model, engine.tokenizer
