"""What needs more runs of a model: variants of a benchmark that should not matter, the question hidden, Min-K%++."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llmanac.core.errors import LlmanacError
from llmanac.core.progress import progress
from llmanac.core.types import ALL, evaluating
from llmanac.evaluate._benchmark_rows import BenchmarkItem, items_of
from llmanac.evaluate.answering import Answerer, Local
from llmanac.evaluate.benchmark import Benchmark
from llmanac.evaluate.evaluation import evaluate
from llmanac.evaluate.likelihood import BATCH_TOKENS, LOGITS
from llmanac.evaluate.properties import Answers, Table, answers_of
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
