"""Rules and learned classifiers on one labelled set, from measurements alone."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llmanac.core import files
from llmanac.core.device import machine
from llmanac.core.errors import DataError, SpecError
from llmanac.data.labelled import Labelled
from llmanac.generate.load import load_engine
from llmanac.lab.classification import page
from llmanac.lab.classification.classifiers import ON_A_MODEL, make_classifier
from llmanac.lab.classification.experiments import (
    Build,
    Measured,
    above,
    curve_sizes,
    measure,
    rows_needed,
    rows_to_pass,
)
from llmanac.lab.classification.slices import PARTS, Slice, sentiment_slices, tone_names
from llmanac.lab.stats import interval, mean
from llmanac.metrics._intervals import wilson_interval
from llmanac.recipes.classification import small_language_model

DEFAULT = ("rules", "bow", "cbow", "deep-cbow")
RESULT, PAGE, PICTURE, LINES, PREDICTED = "table.json", "table.html", "table.svg", "table.md", "predictions.jsonl"
FILES = (RESULT, PAGE, PICTURE, LINES, PREDICTED)
NEAR = 0.95  # a method "needs" the rows that bring it this fraction of the way from chance to its best


def parse_sizes(text: str | None) -> list[int] | None:
    """`10,100,1000`. Raises SpecError unless it is a list of integers from 2 on."""
    if text is None:
        return None
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        raise SpecError(f"--sizes: {text!r} is not a list of integers, such as 10,100,1000") from None
    if min(sizes) < 2:
        raise SpecError(f"--sizes: {min(sizes)} rows are too few to learn from; begin with 2 or more")
    return sizes


def our_slices(labels: Sequence[str]) -> list[Slice]:
    """The built-in slices if the labels are those of sentiment; else none."""
    try:
        return sentiment_slices(labels)
    except DataError:
        return []


def builders(
    methods: Sequence[str], train: Labelled, *, model: str | None = None, rules: Path | None = None,
    patches: dict[str, list[str]] | None = None, language_model: tuple[Any, Any] | None = None,
) -> dict[str, Build]:  # fmt: skip
    """How to make each method.

    Args:
        model: the folder of a language model, or "train" for a small one trained on the training texts.

    Raises:
        SpecError: an unknown method, one that is there twice, or one that needs a model when there is none.
        DataError: rules that do not know the labels.
    """
    out: dict[str, Build] = {}
    needing = [name for name in methods if name in ON_A_MODEL]
    if needing and model is None and language_model is None:
        raise SpecError(f"--model: {needing[0]} needs a language model; give its folder, or `train` for a small one")
    for name in methods:
        if name in out:
            raise SpecError(f"--methods: {name} is there twice")
        own = list((patches or {}).get(name, []))
        if name == "rules":
            own += [f"rules={rules}"] if rules else []
            make_classifier(name, own).prepare([], sorted(set(train.labels)), 0)
        if name in needing and language_model is None:
            language_model = _language_model(str(model), train)
        if name == "prompting":
            own += [item for item in prompt_choices(train.labels) if item.partition("=")[0] not in "".join(own)]
        out[name] = functools.partial(make_classifier, name, own, language_model=language_model)
        if name not in needing:
            out[name]()  # a choice that cannot be used is refused before any training
    return out


def _language_model(path: str, train: Labelled) -> tuple[Any, Any]:
    if path == "train":
        return small_language_model(train.texts)
    engine = load_engine(path, device="cpu")
    return engine.model, engine.tokenizer


def prompt_choices(labels: Sequence[str]) -> list[str]:
    """The template and the words for sentiment; for other labels the method's own."""
    try:
        negative, positive = tone_names(labels)
    except DataError:
        return []
    return ['template="{text}\\nthe film is"', f'verbalizer=[["{negative}", " bad"], ["{positive}", " good"]]']


def make_table(
    train: Labelled, test: Labelled, methods: Sequence[str], *, seeds: int = 3, sizes: Sequence[int] | None = None,
    slices: Sequence[Slice] = (), after: Callable[[str, int, Any], dict[str, Any]] | None = None,
    predicted: dict[str, list[list[str]]] | None = None, **making: Any,
) -> dict[str, Any]:  # fmt: skip
    """The table as plain data; every number on the page is a number here.

    Args:
        predicted: filled with the labels that each method gives the test texts, one list a seed.

    Raises:
        DataError: test labels that are not in the training set.
        SpecError: as `builders`.
    """
    unseen = sorted(set(test.labels) - set(train.labels))
    if unseen:
        raise DataError(
            f"test: label {unseen[0][:60]!r} is not in the training set; drop such rows, or train with them"
        )
    started = time.strftime("%Y-%m-%d")
    begin = time.perf_counter()
    made = builders(methods, train, **making)
    steps = curve_sizes(len(train), sizes)
    found = measure(
        made, train, test, seeds=seeds, sizes=steps, slices=slices, example=example_of(test, slices), after=after
    )
    if predicted is not None:
        predicted.update({name: one.predicted for name, one in found.items()})
    chance = max(test.labels.count(name) for name in set(test.labels)) / len(test)
    rows = {name: _row(name, one, len(test), chance, found.get("rules")) for name, one in found.items()}
    return {
        "kind": "classify-table",
        "data": {
            "train_rows": len(train), "test_rows": len(test), "labels": sorted(set(train.labels)), "chance": chance,
        },
        "seeds": seeds, "sizes": steps, "methods": rows,
        "slices": [
            {"name": one.name, "about": one.about, "texts": {part: len(one.texts(part)) for part in PARTS},
             "example": {part: one.texts(part)[0] for part in PARTS}}
            for one in slices
        ],
        "machine": machine(), "started": started, "seconds": time.perf_counter() - begin,
    }  # fmt: skip


def example_of(test: Labelled, slices: Sequence[Slice]) -> str:
    """The text that every method explains: a changed sentence of the slice of negation, else a short test text."""
    for one in slices:
        if one.name == "negation":
            return [text for part, text, _ in one.items if part == "changed"][-1]
    return min(test.texts, key=lambda text: abs(len(text) - 60))


def _row(name: str, one: Measured, tested: int, chance: float, rules: Measured | None) -> dict[str, Any]:
    means = {size: mean(values) for size, values in one.accuracy.items()}
    last = max(means)
    values = one.accuracy[last]
    best = max(means.values())
    over_rules = gain = None
    if rules is not None and name != "rules" and last:
        over_rules, gain = rows_to_pass(one, rules), above(one, rules, last)
    return {
        "accuracy": means[last],
        "accuracies": values,
        "interval_over_seeds": list(interval(values)) if len(values) > 1 else None,
        "interval_over_texts": list(wilson_interval(round(means[last] * tested), tested)[1:]),
        "trained": bool(last),
        "curve": {str(size): one.accuracy[size] for size in sorted(one.accuracy)},
        "rows_to_beat_rules": over_rules,
        "above_rules": gain and [gain.mean, gain.low, gain.high],
        "rows_for_most": rows_needed(one, chance + NEAR * (best - chance)) if last else 0,
        "seconds": mean(one.seconds) if one.seconds else 0.0,
        "texts_per_second": one.rate,
        "parameters": one.parameters,
        "slices": one.slices,
        "explained": one.explained,
        "exact": one.exact,
        "extra": one.extra,
    }


def best(result: dict[str, Any]) -> str:
    """The method of the highest accuracy."""
    rows = result["methods"]
    return str(max(rows, key=lambda name: rows[name]["accuracy"]))


def write(folder: Path, result: dict[str, Any], test: Labelled, predicted: dict[str, list[list[str]]]) -> Path:
    """Write table.json, table.html, table.svg, table.md and predictions.jsonl; returns the page's path.

    A line of the last is a test text: its label, and each method's labels, one a seed.
    """
    lines = (
        json.dumps({"label": label, **{name: [one[i] for one in seeds] for name, seeds in predicted.items()}})
        for i, label in enumerate(test.labels)
    )
    files.write_text(folder / PREDICTED, "".join(f"{line}\n" for line in lines))
    files.write_json(folder / RESULT, result)
    files.write_text(folder / PICTURE, page.learning_curves(result).svg)
    files.write_text(folder / LINES, page.markdown(result) + "\n")
    return files.write_text(folder / PAGE, page.render(result))
