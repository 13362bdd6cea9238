"""A benchmark inspected: every property of `properties.py` and `variants.py` in one table.

inspect("piqa", own, data=folder, models=["a", "b", "c"], load=load_answerer)        a table for JSON

What needs more runs of a model: variants of a benchmark that should not matter, the question hidden, Min-K%++.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llmanac.core.errors import LlmanacError
from llmanac.core.progress import progress
from llmanac.core.types import ALL, evaluating
from llmanac.evaluate._benchmark_rows import BenchmarkItem, items_of, questions_of
from llmanac.evaluate.answering import Answerer, Local
from llmanac.evaluate.benchmark import Benchmark
from llmanac.evaluate.evaluation import evaluate
from llmanac.evaluate.likelihood import BATCH_TOKENS, LOGITS
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
)
from llmanac.generate.windows import batches
from llmanac.metrics.min_k import lowest, token_scores
from llmanac.metrics.statistics.estimates import estimate
from llmanac.models.pairs import encode, start_token

EXAMPLES, ORDER, FORMAT, BATCH = "examples drawn", "order of examples", "format", "batch size"


def variants(own: Benchmark, count: int, seeds: int) -> Iterator[tuple[str, str, Benchmark]]:
    """`(kind, label, benchmark)`: other examples, the same in another order, other formats of the prompt.

    Args:
        count: examples before a question; seeds: draws of examples and of orders.
    """
    for seed in range(1, seeds + 1):
        if count and not own.shots.samples:
            drawn = replace(own.shots, order="random", seed=own.shots.seed + seed)
            yield EXAMPLES, f"seed {seed}", replace(own, shots=drawn)
        if count > 1:
            yield ORDER, f"seed {seed}", replace(own, shots=replace(own.shots, shuffle=seed))
    yield FORMAT, "a new line before the answer", replace(own, shots=replace(own.shots, delimiter="\n"))
    yield FORMAT, "Question: before the prompt", replace(own, prompt="Question: " + own.prompt)
    if own.description:
        yield FORMAT, "no description", replace(own, description="")
    if count:
        yield FORMAT, "one line between examples", replace(own, shots=replace(own.shots, separator="\n"))


@contextlib.contextmanager
def _together(model: Answerer, one_by_one: bool) -> Iterator[Answerer]:
    """The model with other batches: a text at a time, or as many as fit."""
    if not isinstance(model, Local):
        yield model
        return
    rows = model.engine.rows
    model.engine.rows = 1 if one_by_one else 4 * rows
    try:
        yield Local(model.engine, model.name, model.identity, batch_tokens=1 if one_by_one else 4 * model.batch_tokens)
    finally:
        model.engine.rows = rows


def reproducibility(
    model: Answerer,
    name: str,
    own: Benchmark,
    folder: Path,
    *,
    base: Answers,
    limit: int | None = None,
    shots: int | None = None,
    seeds: int = 3,
    cache: Path | None = None,
) -> Table:
    """The scores of variants of a benchmark, against the noise of its items.

    Args:
        base: the model's answers to the benchmark as it is written.
        limit, shots: as of `items_of`; seeds: draws of each kind.

    Raises:
        LlmanacError: what evaluating raises; a variant whose data are too few is named in the result instead.
    """
    count = own.shots.count if shots is None else shots
    plain = items_of(own, folder, limit=limit, shots=shots)
    rows: list[Table] = []
    skipped: dict[str, str] = {}

    def add(kind: str, label: str, found: Answers) -> None:
        changed = float((found.scores != base.scores).mean()) if found.items == base.items else None
        rows.append({"kind": kind, "label": label, "value": found.value, "changed": changed})

    for kind, label, other in variants(own, count, seeds):
        try:
            items = items_of(other, folder, limit=limit, shots=shots)
        except LlmanacError as error:
            skipped[f"{kind}: {label}"] = str(error)
            continue
        if items == plain and (own.generation or other.shots.delimiter == own.shots.delimiter):
            continue  # the same prompts
        add(kind, label, answers_of(evaluate(model, name, items, other, cache=cache), base.metric))
    if isinstance(model, Local):
        for alone, label in ((True, "one by one"), (False, "four times as many")):
            with _together(model, alone) as other_model:
                found = evaluate(other_model, name, plain, own, block=1 if alone else 128)
            add(BATCH, label, answers_of(found, base.metric))
    noise = estimate(base.scores, base.clusters)
    kinds = {kind: [base.value, *(row["value"] for row in rows if row["kind"] == kind)] for kind in
             dict.fromkeys(row["kind"] for row in rows)}  # fmt: skip
    return {
        "model": base.model, "value": base.value, "standard_error": noise.standard_error,
        "detectable": noise.detectable, "variants": rows,
        "spread": {kind: {"low": min(v), "high": max(v), "deviation": float(np.std(v, ddof=1)), "runs": len(v)}
                   for kind, v in kinds.items()},
        **({} if count else {"note": "no examples precede the questions: nothing is drawn, and there is no order"}),
        **({"skipped": skipped} if skipped else {}),
    }  # fmt: skip


def hidden(
    model: Answerer, name: str, own: Benchmark, items: Sequence[BenchmarkItem], metric: str, cache: Path | None = None
) -> Table:
    """The score of a model that sees only the choices, or nothing before the text."""
    if own.generation:
        return {"not_measured": "an answer is written: without the question there is nothing to answer"}
    try:
        found = evaluate(model, name, [replace(item, prompt="") for item in items], own, cache=cache)
    except LlmanacError as error:
        return {"not_measured": str(error)}
    return {"baseline": "the question hidden", **answers_of(found, metric).row(1)}


@torch.inference_mode()
def min_k(model: Local, texts: Sequence[str], k: float = 0.2, label: str | None = "Min-K%++") -> list[float]:
    """Min-K%++ of each text; what is longer than the model reads is cut. Raises DataError for a text of no token."""
    network, tokenizer = model.engine.model, model.engine.tokenizer
    first, most = start_token(tokenizer), network.max_length
    pieces = []
    for text in texts:
        ids = encode(tokenizer, text)
        ids = ids if first is None or ids[:1] == [first] else [first, *ids]
        row = np.array(ids[: None if most is None else most + 1], np.int64)
        pieces.append((row[:-1], row[1:]) if len(row) > 1 else (row, row))
    out = [0.0] * len(pieces)
    call: Any = network if isinstance(network, torch.nn.Module) else network.forward
    shown = contextlib.nullcontext() if label is None else progress(label, total=len(texts), unit="texts")
    with evaluating(network), shown as bar:
        for chosen, batch in batches(network, pieces, max(1, min(BATCH_TOKENS, LOGITS // network.vocab_size))):
            logprobs = call(batch, None, ALL).logits.double().log_softmax(-1)
            for place, piece in enumerate(chosen):
                targets = torch.from_numpy(pieces[piece][1]).to(logprobs.device)
                out[piece] = lowest(token_scores(logprobs[place, : len(targets)], targets).cpu().numpy(), k)
            if bar is not None:
                bar.advance(len(chosen))
    return out


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
    rows = [(one["baseline"] + (f", {one['model']}" if "model" in one else ""), _between(one)) for one in part["rows"]]
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
