"""A benchmark inspected: every property of `properties.py` and `variants.py` in one table.

inspect("piqa", own, data=folder, models=["a", "b", "c"], load=load_answerer)        a table for JSON
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llmanac.evaluate._benchmark_rows import BenchmarkItem, items_of, questions_of
from llmanac.evaluate.answering import Answerer, Local
from llmanac.evaluate.benchmark import Benchmark
from llmanac.evaluate.evaluation import evaluate
from llmanac.evaluate.properties import (
    Answers,
    Table,
    answers_of,
    baselines,
    difficulty,
    diversity,
    leaked,
    separates,
    stored,
    usefulness,
)  # fmt: skip
from llmanac.evaluate.variants import hidden, min_k, reproducibility

PROPERTIES = ("difficulty", "diversity", "usefulness", "reproducibility", "artefacts", "contamination")
NO_MODEL = {"not_measured": "needs models: --models, or --results with folders of `llmanac evaluate`"}
NO_DATA = {"not_measured": "needs the questions: name their folder with --data"}
NO_RUN = {"not_measured": "needs a model that can be run: --models, and --data"}


def inspect(
    name: str,
    own: Benchmark,
    *,
    data: Path | None = None,
    models: Sequence[str] = (),
    load: Callable[[str], Answerer] | None = None,
    results: Sequence[Path] = (),
    against: tuple[str, Benchmark, Path | None] | None = None,
    limit: int | None = None,
    shots: int | None = None,
    metric: str | None = None,
    train: Sequence[str] = (),
    column: str = "text",
    embedder: Any = None,
    seeds: int = 3,
    cache: Path | None = None,
) -> Table:
    """Every property that what is given can show; the others say in `not_measured` what they need.

    Args:
        data: the folder of the benchmark's files.
        models: loaded with `load`, one after another; the first one answers the variants of `reproducibility`.
        results: folders that `llmanac evaluate` wrote, instead of running models, or besides.
        against: another benchmark, for `usefulness`; its questions are asked of the models too.
        limit, shots: as of `items_of`; metric: the benchmark's first by default.
        train: training files in which the questions are searched; column: of their text.
        embedder: for the spread of meaning; seeds: draws of examples and of orders, 0 skips the variants.
        cache: folder of kept answers.

    Raises:
        LlmanacError: data or results that cannot be read, models that cannot be loaded, no such metric.
    """
    items: list[BenchmarkItem] = [] if data is None else items_of(own, data, limit=limit, shots=shots)
    questions = [] if data is None else questions_of(own, data, limit=limit)
    found = [one for folder in results for one in stored(folder, name, metric)]
    others = [one for folder in results for one in stored(folder, against[0])] if against else []
    out: Table = {"benchmark": name, "title": own.title, "items": len(items) or None, "limit": limit, "shots": shots}
    out["diversity"] = diversity(questions, embedder) if items else NO_DATA
    report = None
    out["contamination"] = NO_DATA if not items else {"not_measured": "needs training text: name it with --train"}
    if items and train:
        out["contamination"], report = leaked(questions, [item.name for item in items], train, column=column)
    out["reproducibility"] = NO_RUN
    artefacts: list[Table] = []
    memory: list[Table] = []
    for number, path in enumerate(models if items and load else ()):
        assert load is not None and data is not None
        model = load(path)
        mine = answers_of(evaluate(model, name, items, own, cache=cache), metric)
        found.append(mine)
        if against:
            their, theirs, place = against
            asked = items_of(theirs, place or data, limit=limit)
            others.append(answers_of(evaluate(model, their, asked, theirs, cache=cache)))
        artefacts.append({"model": path, **hidden(model, name, own, items, mine.metric, cache)})
        if report is not None and isinstance(model, Local):
            texts = [item.prompt + own.shots.delimiter + _right(item) for item in _alone(own, data, limit)]
            memory.append({"model": path, **separates(report, min_k(model, texts))})
        if number == 0 and seeds:
            out["reproducibility"] = reproducibility(
                model, name, own, data, base=mine, limit=limit, shots=shots, seeds=seeds, cache=cache
            )
    if memory:
        out["contamination"] = {**out["contamination"], "min_k": memory}
    out["difficulty"] = difficulty(found) if found else NO_MODEL
    out["usefulness"] = _useful(found, others, against is not None)
    metric = found[0].metric if found else metric or _first_metric(own)
    rows = [one for one in artefacts if "value" in one]
    missing = {one["model"]: one["not_measured"] for one in artefacts if "not_measured" in one}
    both = [*(baselines(own, items, metric) if items and metric else []), *rows]
    out["artefacts"] = {"rows": both, **({"not_measured": missing} if missing else {})} if items else NO_DATA
    return out


def _useful(found: Sequence[Answers], others: Sequence[Answers], asked: bool) -> Table:
    if not asked:
        return {"not_measured": "needs another benchmark: name it with --against"}
    return usefulness(found, others) if found and others else NO_MODEL


def _alone(own: Benchmark, data: Path, limit: int | None) -> list[BenchmarkItem]:
    """The items without examples before them."""
    return items_of(own, data, limit=limit, shots=0)


def _right(item: BenchmarkItem) -> str:
    if item.golds:
        return item.choices[item.golds[0]]
    first = item.references[0] if item.references else ""
    return first if isinstance(first, str) else str(first[0])


def _first_metric(own: Benchmark) -> str | None:
    """What the first metric of a benchmark is called, where no model has answered it."""
    made = own.generation
    if made is None:
        return "acc"
    if made.metrics[:1] == ("quac",):
        return "F1"
    return (
        None if "code" in made.metrics else "exact match" if len(made.metrics) == 1 and not made.extractions else None
    )


def summary(found: Table) -> list[tuple[str, str, str]]:
    """`(property, measure, value)` rows for a table."""
    rows: list[tuple[str, str, str]] = []
    for name in PROPERTIES:
        part = found[name]
        if isinstance(part.get("not_measured"), str) and len(part) == 1:
            rows.append((name, "", "not measured: " + part["not_measured"]))
        else:
            rows += [(name, measure, value) for measure, value in _ROWS[name](part)]
    return rows


def _between(one: Table) -> str:
    value = one.get("value")
    text = "undefined" if value is None else f"{value:.4f}"
    return text if one.get("low") is None else f"{text} ({one['low']:.4f} to {one['high']:.4f})"


def _difficulty(part: Table) -> list[tuple[str, str]]:
    rows = [
        (one["model"], _between(one) + ("" if one["above_chance"] else ", not above chance")) for one in part["models"]
    ]
    rows.append(("chance", f"{part['chance']:.4f}"))
    if gap := part.get("gap"):
        rows.append(("strongest less weakest", f"{gap['value']:+.4f} ({gap['low']:+.4f} to {gap['high']:+.4f})"))
    rows.append(("items right by all, by none", f"{part['right_by_all']:.0%}, {part['right_by_none']:.0%}"))
    rest = part["item_rest"]
    text = rest.get("not_measured") or f"{rest['mean']:+.3f}; {rest['below_0']:.0%} of the items below 0"
    return [*rows, ("item-rest correlation", text)]


def _diversity(part: Table) -> list[tuple[str, str]]:
    distinct = ", ".join("undefined" if value is None else f"{value:.3f}" for value in part["distinct"].values())
    orders = ", ".join(part["distinct"])
    rows = [(f"distinct-{orders}", distinct), ("self-BLEU", f"{part['self_bleu']:.1f}")]
    rows.append(("embedding spread", "not measured: needs --embedder" if part["spread"] is None else
                 f"{part['spread']:.3f}"))  # fmt: skip
    cut = f", {part['texts']:,} of {part['of']:,} compared" if part["texts"] < part["of"] else ""
    return [*rows, ("repeated questions", f"{part['repeated']:.1%}{cut}")]


def _usefulness(part: Table) -> list[tuple[str, str]]:
    if "not_measured" in part:
        return [(f"with {part.get('other', 'another')}", "not measurable: " + part["not_measured"])]
    rows = [(f"{rule} with {part['other']}", _between(part[rule])) for rule in ("spearman", "kendall")]
    return rows + ([("", part["note"])] if "note" in part else [])


def _reproducibility(part: Table) -> list[tuple[str, str]]:
    rows = [(part["model"], f"{part['value']:.4f} ± {part['standard_error']:.4f}, detects {part['detectable']:.4f}")]
    for kind, one in part["spread"].items():
        rows.append((kind, f"{one['low']:.4f} to {one['high']:.4f} in {one['runs']} runs"))
    rows += [(f"{label}", "left out: " + why) for label, why in part.get("skipped", {}).items()]
    return rows + ([("", part["note"])] if "note" in part else [])


def _artefacts(part: Table) -> list[tuple[str, str]]:
    rows = []
    for one in part["rows"]:
        rows.append((one["baseline"] + (f", {one['model']}" if "model" in one else ""), _between(one)))
    return rows + [(model, "not measured: " + why) for model, why in part.get("not_measured", {}).items()]


def _contamination(part: Table) -> list[tuple[str, str]]:
    if "items" not in part:
        return [("", "not measured: " + part["not_measured"])]
    rows = [("items with a shared 13-gram", f"{part['found']:,} of {part['looked_for']:,} that are long enough"),
            ("found completely", f"{part['found_wholly']:,}")]  # fmt: skip
    for one in part.get("min_k", ()):
        text = f"not measured: {one['not_measured']}" if "auc" not in one else _between({**one, "value": one["auc"]})
        rows.append((f"Min-K%++ of found against others, AUC, {one['model']}", text))
    return rows


_ROWS: dict[str, Callable[[Table], list[tuple[str, str]]]] = {
    "difficulty": _difficulty, "diversity": _diversity, "usefulness": _usefulness,
    "reproducibility": _reproducibility, "artefacts": _artefacts, "contamination": _contamination,
}  # fmt: skip
