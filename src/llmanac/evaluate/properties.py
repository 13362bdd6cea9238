"""What a benchmark is worth: measures of the benchmark itself, from what several models scored on its items.

    difficulty       scores of the models, the gap of the weakest and the strongest, item-rest correlation
    usefulness       rank correlation over models with another benchmark
    diversity        distinct-n, self-BLEU and embedding spread of the questions
    artefacts        the score without the question, and of answers that need no model
    reproducibility  the spread over drawn examples, their order, formats of the prompt, and batch sizes
    contamination    13-grams shared with a training text, and Min-K%++

Models' scores come from `evaluate` or from the folder of `llmanac evaluate` (`stored`). `variants.py` measures what
needs more runs of a model. A measure is a plain table for JSON; what cannot be measured has a `not_measured` with why.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from llmanac.core import files
from llmanac.core.errors import DataError, SpecError, nearest
from llmanac.data.command_problems import CommandProblems
from llmanac.data.evaluation_items import Item as TextItem
from llmanac.data.readers import table_rows
from llmanac.data.texts import documents, files_of
from llmanac.evaluate._benchmark_rows import BenchmarkItem
from llmanac.evaluate._judging import judge_generated
from llmanac.evaluate.benchmark import Benchmark
from llmanac.evaluate.benchmarking import KEY, RESULTS
from llmanac.evaluate.contamination_files import Contamination, contamination
from llmanac.evaluate.evaluation import Evaluation
from llmanac.metrics import diversity as _diversity
from llmanac.metrics import wilson_interval
from llmanac.metrics.item_rest import item_rest
from llmanac.metrics.rank_correlation import rank_correlation
from llmanac.metrics.statistics.auc import auc
from llmanac.metrics.statistics.estimates import estimate, paired

LEAST_RANKED = 10  # models from which on a rank correlation says something
LEVEL = 0.05
Table = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Answers:
    """What a model scored on a benchmark, by one metric.

    Attributes:
        items: names of the items; scores: (N,); chance: the score of a random choice, 0 where answers are written.
        clusters: what items share, None where they share nothing.
    """

    benchmark: str
    model: str
    metric: str
    items: tuple[str, ...]
    scores: np.ndarray
    chance: float
    clusters: tuple[str, ...] | None = None

    @property
    def value(self) -> float:
        return float(self.scores.mean())

    def above_chance(self, models: int = 1) -> bool:
        """Whether the score is above chance, one-sided at 5% over all of `models` together (Bonferroni)."""
        if self.chance == 0:
            return self.value > 0
        error = (self.chance * (1 - self.chance) / len(self.scores)) ** 0.5
        return self.value - self.chance > NormalDist().inv_cdf(1 - LEVEL / models) * error

    def row(self, models: int) -> Table:
        """The score with its 95% interval."""
        low, high = _interval(self.scores, self.clusters)
        return {
            "model": self.model, "value": self.value, "low": low, "high": high,
            "above_chance": self.above_chance(models),
        }  # fmt: skip


def _interval(scores: np.ndarray, clusters: Sequence[str] | None = None) -> tuple[float, float]:
    if clusters is None and np.isin(scores, (0.0, 1.0)).all():
        return wilson_interval(int(scores.sum()), len(scores))[1:]
    if len(scores) < 2:
        return float(scores[0]), float(scores[0])
    found = estimate(scores, clusters)
    return found.low, found.high


def _answers(benchmark: str, model: str, rows: Sequence[Table], metric: str | None, place: str) -> Answers:
    known = list(dict.fromkeys(name for row in rows for name in row["scores"]))
    metric = metric or (known[0] if known else "")
    kept = [row for row in rows if metric in row["scores"]]
    if not kept:
        raise SpecError(f"--metric {metric}: {place} has none of that name{nearest(metric, known)} (known: {known})")
    chances = [len(row["references"]) / len(row["choices"]) if row.get("choices") else 0.0 for row in kept]
    clusters = tuple(str(row.get("cluster")) for row in kept)
    shared = clusters if all("cluster" in row for row in kept) and len(set(clusters)) < len(clusters) else None
    values = np.array([float(row["scores"][metric]) for row in kept])
    names = tuple(str(row["item"]) for row in kept)
    return Answers(benchmark, model, metric, names, values, float(np.mean(chances)), shared)


def answers_of(found: Evaluation, metric: str | None = None) -> Answers:
    """Of an evaluation, by the benchmark's first metric where none is given. Raises SpecError for no such metric."""
    return _answers(found.benchmark, found.model, list(found.lines()), metric, found.benchmark)


def stored(folder: Path, benchmark: str, metric: str | None = None) -> list[Answers]:
    """Of a folder that `llmanac evaluate` wrote, each model in it.

    Raises:
        DataError: no such folder, no results of the benchmark in it, or a damaged row; it names file and line.
    """
    results = files.read_table(folder / RESULTS)
    found = results.get(KEY)
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise DataError(f"{folder / RESULTS}: has no {KEY}; name a folder that `llmanac evaluate` wrote")
    models = list(dict.fromkeys(str(one.get("model")) for one in found))
    have = list(dict.fromkeys(str(one.get("benchmark")) for one in found))
    if benchmark not in have:
        raise DataError(f"{folder}: has no results of {benchmark}; it has {', '.join(have)}")
    out = []
    for letter, model in zip("AB", models, strict=False):
        path = folder / "items" / f"{benchmark}.{letter}.jsonl"
        rows = []
        for row in table_rows(path, CommandProblems()):
            values = dict(row.values)
            if not (isinstance(values.get("scores"), dict) and "item" in values and "references" in values):
                raise DataError(f"{path}:{row.line}: is no item of `llmanac evaluate`; evaluate again")
            rows.append(values)
        out.append(_answers(benchmark, model, rows, metric, str(path)))
    return out


def together(answers: Sequence[Answers]) -> tuple[np.ndarray, list[str]]:
    """(M, N) scores on the items that all models answered, and their names. Raises DataError for none."""
    shared = set(answers[0].items).intersection(*(one.items for one in answers[1:]))
    names = [name for name in answers[0].items if name in shared]
    if not names:
        raise DataError(
            f"{answers[0].benchmark}: the models answered no item in common; evaluate them on the same data"
        )
    places = [{name: i for i, name in enumerate(one.items)} for one in answers]
    return np.stack([one.scores[[at[n] for n in names]] for one, at in zip(answers, places, strict=True)]), names


def difficulty(answers: Sequence[Answers]) -> Table:
    """Scores by model, the gap, and how well items tell models apart."""
    scores, names = together(answers)
    order = scores.mean(1).argsort(kind="stable")
    full = scores == 1
    out: Table = {
        "items": len(names), "metric": answers[0].metric, "chance": answers[0].chance,
        "models": [one.row(len(answers)) for one in answers],
        "right_by_all": float(full.all(0).mean()), "right_by_none": float((~full).all(0).mean()),
    }  # fmt: skip
    if len(answers) > 1 and len(names) > 1:
        weak, strong = int(order[0]), int(order[-1])
        gap = paired(scores[strong], scores[weak])
        out["gap"] = {
            "weakest": answers[weak].model, "strongest": answers[strong].model, "value": gap.mean,
            "low": gap.low, "high": gap.high,
        }  # fmt: skip
    if len(answers) < 3 or len(names) < 2:
        return out | {"item_rest": {"not_measured": "needs the answers of at least 3 models to 2 items"}}
    found = item_rest(scores).correlation
    defined = found[~np.isnan(found)]
    rest: Table = {"not_measured": "all models do equally well on each item"}
    if len(defined):
        rest = {
            "mean": float(defined.mean()), "below_0": float((defined < 0).mean()),
            "undefined": int(np.isnan(found).sum()), "of_chance": 1 / (len(answers) - 1) ** 0.5,
            "lowest": [names[i] for i in np.argsort(np.where(np.isnan(found), 2, found))[:5].tolist()],
        }  # fmt: skip
    return out | {"item_rest": rest}


def usefulness(answers: Sequence[Answers], other: Sequence[Answers]) -> Table:
    """Whether another benchmark ranks the models alike; not measurable where fewer than two models beat chance."""
    theirs = {one.model: one for one in other}
    both = [(one, theirs[one.model]) for one in answers if one.model in theirs]
    if len(both) < 3:
        return {"not_measured": f"needs at least 3 models with scores on both benchmarks, and there are {len(both)}"}
    above = [sum(one.above_chance(len(both)) for one in side) for side in zip(*both, strict=True)]
    out: Table = {"other": other[0].benchmark, "models": len(both), "above_chance": above}
    for count, side in zip(above, both[0], strict=True):
        if count < 2:
            why = f"{count} of {len(both)} models beat chance on {side.benchmark}: their order there is noise"
            return out | {"not_measured": why}
    x, y = ([one.value for one in side] for side in zip(*both, strict=True))
    for rule in ("spearman", "kendall"):
        found = rank_correlation(x, y, rule)
        out[rule] = {"value": None if np.isnan(found.value) else found.value, "low": found.low, "high": found.high}
    if len(both) < LEAST_RANKED:
        out["note"] = f"fewer than {LEAST_RANKED} models: the interval is wide, and the correlation says little"
    return out


def diversity(questions: Sequence[Sequence[str]], embedder: Any = None) -> Table:
    """Of the questions' texts; `embedder`: for the spread of meaning."""
    spec = _diversity.Spec()
    texts = [" ".join(one) for one in questions]
    if len(texts) < 2:
        return {"not_measured": "needs at least 2 questions"}
    drawn = [texts[i] for i in _diversity.sample(len(texts), spec.most, spec.seed)]
    found = spec.build()(drawn, None if embedder is None else embedder.texts(drawn).vectors)
    distinct = {str(n): None if np.isnan(value) else value for n, value in found.distinct.items()}
    same = Counter(text.strip().lower() for text in texts)
    return {
        "texts": found.texts, "of": len(texts), "distinct": distinct, "self_bleu": found.self_bleu,
        "spread": found.spread, "repeated": 1 - len(same) / len(texts),
    }  # fmt: skip


def baselines(own: Benchmark, items: Sequence[BenchmarkItem], metric: str) -> list[Table]:
    """The scores of answers that need no model: one place, the longest choice, the most frequent answer."""
    out: list[Table] = []

    def add(name: str, scores: Sequence[float]) -> None:
        values = np.array(scores)
        low, high = _interval(values)
        out.append({"baseline": name, "value": float(values.mean()), "low": low, "high": high})

    if own.choices:
        place = Counter(gold for item in items for gold in item.golds).most_common(1)[0][0]
        add(f"always choice {place + 1}", [float(place in item.golds) for item in items])
        lengths = [[len(text) for text in item.choices] for item in items]
        if any(len(set(row)) > 1 for row in lengths):
            longest = [[i for i, n in enumerate(row) if n == max(row)] for row in lengths]
            scores = [sum(i in item.golds for i in at) / len(at) for item, at in zip(items, longest, strict=True)]
            add("the longest choice", scores)
    elif own.generation and "code" not in own.generation.metrics:
        firsts = [
            item.references[0] if isinstance(item.references[0], str) else item.references[0][0] for item in items
        ]
        text = Counter(firsts).most_common(1)[0][0]
        verdicts = [judge_generated(own.generation, item, text) for item in items]
        scores = [one.scores[metric] for one in verdicts if metric in one.scores]
        if scores:
            add(f"always {text[-40:]!r}", scores)
    elif not own.generation:
        word = Counter(str(item.references[0]) for item in items).most_common(1)[0][0]
        add(f"always {word[:40]!r}", [float(word == str(item.references[0])) for item in items])
    return out


def leaked(
    questions: Sequence[Sequence[str]], names: Sequence[str], train: Sequence[str], *, column: str = "text"
) -> tuple[Table, Contamination]:
    """Which questions are in training files, by shared 13-grams. Raises what reading the files raises."""
    items = [TextItem(name, tuple(texts)) for name, texts in zip(names, questions, strict=True)]
    found = contamination(documents(files_of(train, column=column), CommandProblems()), items)
    out = found.summary()
    return {"found_share": out["found"] / out["looked_for"] if out["looked_for"] else None, **out}, found


def separates(found: Contamination, scores: Sequence[float]) -> Table:
    """How well a model's Min-K%++ separates the items that were found in the training text from the others."""
    hits = np.array([report.fraction > 0 for report in found.items])
    values = np.asarray(scores, np.float64)
    out: Table = {"mean": float(values.mean())}
    if min(hits.sum(), (~hits).sum()) < 2:
        return out | {"not_measured": "the AUC needs at least 2 items that were found and 2 that were not"}
    value, low, high = auc(values[hits], values[~hits])
    return out | {"auc": value, "low": low, "high": high}
