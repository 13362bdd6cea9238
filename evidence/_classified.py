"""The trial of classifiers as the study of classifiers keeps it: a table by method, with what only its claims need."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmanac.core.pages import Section, table
from llmanac.core.spec import make_method, parse_patches, patch
from llmanac.data.labelled import Labelled
from llmanac.lab.axis import Arm
from llmanac.lab.slices import PARTS, SliceRule
from llmanac.lab.stats import interval, mean
from llmanac.lab.study import Measurement
from llmanac.lab.trials.classifying import ClassifyingTrial, prompt_choices
from llmanac.metrics.statistics.estimates import paired
from llmanac.metrics.statistics.intervals import wilson_interval

NEAR = 0.95  # a method "needs" the rows that bring it this fraction of the way from chance to its best
Look = Callable[[str, int, Any], dict[str, Any]]


class Looked(ClassifyingTrial):
    """The trial with further measurements on the classifiers that have learned from all rows."""

    after: Look

    def look(self, arm: Arm, seed: int, classifier: Any) -> dict[str, float | None]:
        self.exact, self.extra = classifier.explain(self.example).exact, self.after(arm.label, seed, classifier)
        return super().look(arm, seed, classifier)


def spec_of(name: str, labels: Sequence[str], patches: Sequence[str] = ()) -> Any:
    """A method with its choices; of a prompt the words for sentiment, where it is not given others."""
    spec = make_method("classifier", name)
    return patch(spec, (prompt_choices(labels) if name == "prompting" else {}) | parse_patches(patches))


def classified(
    train: Labelled, test: Labelled, methods: Sequence[str], *, seeds: int, sizes: Sequence[int],
    slices: Sequence[SliceRule], language_model: Any, after: Look, patches: Mapping[str, Sequence[str]],
) -> dict[str, Any]:  # fmt: skip
    """Every method trained over seeds and sizes."""
    arms = [Arm(name, spec_of(name, train.labels, patches.get(name, ())), {}, {}) for name in methods]
    counts = [size for size in sorted(sizes) if size < len(train)] + [len(train)]
    trial = Looked(arms, train, test, counts, slices=slices, language_model=language_model)
    trial.after = after
    chance = max(test.labels.count(name) for name in set(test.labels)) / len(test)
    rows: dict[str, Any] = {}
    rules: np.ndarray | None = None
    for arm in arms:
        learns, extra, found = trial.learns[arm.label], dict[str, list[Any]](), list[Measurement]()
        for seed in range(seeds if learns else 1):
            found.append(trial.measure(arm, seed, Path()))
            for key, value in trial.extra.items() if learns else ():
                extra.setdefault(key, []).append(value)
        right = {size: np.array([m.values[f"accuracy_{size}"] for m in found]) for size in counts}
        if not learns:
            right = {0: right[counts[-1]]}
        rows[arm.label] = {
            **_row(right, rules, chance), "seconds": mean([m.costs["seconds"] or 0.0 for m in found]),
            "texts_per_second": found[-1].costs["texts"], "parameters": found[0].costs["parameters"],
            "slices": {
                one.name: {part: [m.costs[f"{one.name} {part}"] for m in found] for part in PARTS} for one in slices
            }, "explained": found[0].shown.split("\n"), "exact": trial.exact, "extra": extra,
        }  # fmt: skip
        rules = right[0][0] if arm.label == "rules" else rules
    labels = sorted(set(train.labels))
    about = [
        {"name": one.name, "about": one.about, "texts": {part: len(one.texts(part)) for part in PARTS},
         "example": {part: one.texts(part)[0] for part in PARTS}} for one in slices
    ]  # fmt: skip
    data = {"train_rows": len(train), "test_rows": len(test), "labels": labels, "chance": chance}
    return {"kind": "classify-table", "data": data, "seeds": seeds, "sizes": counts, "methods": rows, "slices": about}


def _row(right: Mapping[int, np.ndarray], rules: np.ndarray | None, chance: float) -> dict[str, Any]:
    """Figures of a method from the texts (seeds, n) on which it is right, by rows; 0 rows where it does not learn."""
    curve = {size: [float(v) for v in own.mean(1)] for size, own in right.items()}
    means, last = {size: mean(own) for size, own in curve.items()}, max(curve)
    gains = {} if rules is None or not last else {n: paired(own.mean(0), rules) for n, own in sorted(right.items())}
    tested = right[last].shape[1]
    most = chance + NEAR * (max(means.values()) - chance)
    return {
        "accuracy": means[last], "accuracies": curve[last], "trained": bool(last),
        "interval_over_seeds": list(interval(curve[last])) if len(curve[last]) > 1 else None,
        "interval_over_texts": list(wilson_interval(round(means[last] * tested), tested)[1:]),
        "curve": {str(size): curve[size] for size in sorted(curve)},
        "rows_to_beat_rules": next((n for n, gain in gains.items() if gain.low > 0), None),
        "above_rules": [gains[last].mean, gains[last].low, gains[last].high] if gains else None,
        "rows_for_most": next((n for n in sorted(means) if means[n] >= most), None) if last else 0,
    }  # fmt: skip


def percent(value: float) -> str:
    return f"{value:.1%}"


def between(pair: Sequence[float]) -> str:
    return f"{pair[0]:.1%} to {pair[1]:.1%}"


def spread(values: Sequence[float]) -> str:
    """The t interval of the mean over seeds."""
    return "-" if len(values) < 2 else "all equal" if max(values) == min(values) else between(interval(values))


def sections(result: Mapping[str, Any]) -> list[Section]:
    """The table of methods, and what each slice is."""
    rows = []
    for name, row in result["methods"].items():
        beat = f"{row['rows_to_beat_rules']:,}" if row["rows_to_beat_rules"] else "not shown"
        rows.append([
            name, percent(row["accuracy"]), spread(row["accuracies"]), between(row["interval_over_texts"]),
            beat if row["trained"] else "needs none", f"{row['rows_for_most']:,}",
            f"{row['seconds']:.1f} s" if row["trained"] else "0", f"{row['texts_per_second']:,.0f}",
            "exact sum" if row["exact"] else "by leaving out",
        ])  # fmt: skip
    heads = (
        "method", "accuracy", "95% over seeds", "95% over texts", "rows to beat the rules", "rows for 95% of the way",
        "CPU time to train", "texts/s", "explained",
    )  # fmt: skip
    data = result["data"]
    about = (
        f"{data['train_rows']:,} training rows, {data['test_rows']:,} test rows; the most frequent label is right on "
        f"{percent(data['chance'])}. The rules are beaten where the 95% interval of the difference over the same texts "
        "excludes 0."
    )
    said = [f"{one['name']}: {one['about']} ({one['example']['plain']!r} → {one['example']['changed']!r})."
            for one in result["slices"]]  # fmt: skip
    blocks = [f"{name}\n" + "\n".join(row["explained"]) for name, row in result["methods"].items()]
    return [
        Section("Rules and learned classifiers", [about], [table(heads, rows)]), Section("Where they fail", said),
        Section("One text, explained by each method", blocks=blocks),
    ]  # fmt: skip
