"""Benchmarks run on models: every item kept, finished blocks kept by content, two models compared item by item.

    found = evaluate(answerer, "hellaswag", items, benchmark, cache=folder)        found.scores, found.verdicts

Items go in blocks. A block's answers are kept under a hash of the model, the prompts and what was asked: a run that was
stopped goes on, and another limit or another metric computes only what is new. Decoding is greedy.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmanac.core.cluster import Each, here
from llmanac.core.errors import DataError, SpecError
from llmanac.core.files import read_json, write_json
from llmanac.core.progress import progress, say_once
from llmanac.evaluate._benchmark_rows import BenchmarkItem
from llmanac.evaluate._choosing import lettered
from llmanac.evaluate._judging import ItemVerdict, Score, judged, summarise
from llmanac.evaluate.answering import Answerer, RemoteAnswerer
from llmanac.evaluate.benchmark import Benchmark
from llmanac.evaluate.verdict import decide
from llmanac.evaluate.verdict.aggregates import lower_is_better

BLOCK = 32  # items that are answered, and kept, together
FORM = 1  # of what is kept; another number leaves older files alone


@dataclass(frozen=True)
class Evaluation:
    """One benchmark on one model. chat: its prompts were a user's messages, with choices by letter."""

    benchmark: str
    model: str
    items: list[BenchmarkItem]
    verdicts: list[ItemVerdict]
    scores: list[Score]
    chat: bool = False

    def lines(self) -> Iterator[dict[str, Any]]:
        """A JSON object for each item."""
        for item, one in zip(self.items, self.verdicts, strict=True):
            right: list[Any] = [item.choices[gold] for gold in item.golds] or [
                ref if isinstance(ref, str) else list(ref) for ref in item.references
            ]
            asked = lettered(item)[0] if self.chat and item.choices else item.prompt
            yield {
                "benchmark": self.benchmark, "model": self.model, "item": item.name, "prompt": asked,
                "answer": one.answer, "extracted": one.extracted, "references": right, "right": one.right,
                "scores": one.scores, "note": one.note, **({"choices": list(item.choices)} if item.choices else {}),
                **({"log_likelihoods": list(one.values)} if one.values else {}),
                **({"cluster": item.cluster} if item.cluster is not None else {}),
                **({"fields": dict(item.fields)} if item.fields else {}),
            }  # fmt: skip


def evaluate(
    model: Answerer | RemoteAnswerer,
    name: str,
    items: Sequence[BenchmarkItem],
    own: Benchmark,
    *,
    cache: Path | None = None,
    chat: bool = False,
    block: int | None = None,
    each: Each | None = None,
) -> Evaluation:
    """Answer and score items.

    Args:
        cache: the folder where answers are kept; None keeps none.
        chat: prompts are sent as a user's messages, choices are asked for by letter.
        block: items that are answered and kept together; changes no score.
        each: what computes; this process by default, `Actors.results` of processes that hold the model.

    Raises:
        SpecError: `chat` for a benchmark of a text's likelihood.
        LlmanacError: what the model or its server cannot do; a benchmark of code without a sandbox.
    """
    if chat and own.task == "likelihood":
        raise SpecError(f"--chat: {name} scores the likelihood of a text, which has no turns; leave --chat out")
    given, pairs = own.shots.delimiter, [] if chat or own.generation is not None else _pairs(items, own)
    if given[-1:].isspace() and any(text[len(given) :][:1].isspace() for row in pairs for _, text in row):
        say_once(f"note: {name}: texts that are scored begin with white space of their own and with shots.delimiter's")
    kind = str if chat or own.generation is not None else list
    block = block or (model.kept if chat else BLOCK)
    parts = [items[start : start + block] for start in range(0, len(items), block)]
    places = [_place(cache, _request(model, part, own, chat)) for part in parts]
    found = {n: kept for n, part in enumerate(parts) if (kept := _kept(places[n], len(part), kind)) is not None}
    left = [number for number in range(len(parts)) if number not in found]
    with progress(name, total=len(items), unit="items") as bar:
        bar.update(sum(len(parts[number]) for number in found))
        for number, answers in (each or here(model))(_answers, [(parts[number], own, chat) for number in left]):
            number = left[number]
            if (place := places[number]) is not None:
                write_json(place, answers, indent=None)
            found[number] = answers
            bar.advance(len(parts[number]))
    raw = [answer for number in range(len(parts)) for answer in found[number]]
    verdicts = judged(items, raw, own, chat)
    return Evaluation(name, model.name, list(items), verdicts, summarise(items, verdicts), chat)


def _request(model: Answerer | RemoteAnswerer, items: Sequence[BenchmarkItem], own: Benchmark, chat: bool) -> list[Any]:
    made = own.generation
    if made is not None:
        return [FORM, model.identity, chat, list(made.stop), made.length, [item.prompt for item in items]]
    return [FORM, model.identity, chat, [lettered(item) for item in items] if chat else _pairs(items, own)]


def _pairs(items: Sequence[BenchmarkItem], own: Benchmark) -> list[list[tuple[str, str]]]:
    delimiter = own.shots.delimiter
    return [
        [(item.prompt + text, delimiter + item.ending) for text in item.choices] if item.ending else
        [(item.prompt, delimiter + text) for text in (item.choices or map(str, item.references))]
        for item in items
    ]  # fmt: skip


def _answers(model: Answerer, items: Sequence[BenchmarkItem], own: Benchmark, chat: bool) -> list[Any]:
    made = own.generation
    if made is not None:
        return list(model.generate([item.prompt for item in items], made.stop, made.length, chat))
    if chat:
        prompts, labels = zip(*map(lettered, items), strict=True)
        return list(model.choose(prompts, labels))
    pairs = _pairs(items, own)
    found = iter(model.likelihoods([pair for row in pairs for pair in row]))
    return [[list(next(found)) for _ in row] for row in pairs]


def _place(cache: Path | None, request: list[Any]) -> Path | None:
    """Where the answers to a request are kept."""
    if cache is None:
        return None
    key = hashlib.sha256(json.dumps(request, ensure_ascii=True).encode()).hexdigest()
    return cache / key[:2] / f"{key}.json"


def _kept(place: Path | None, count: int, kind: type) -> list[Any] | None:
    """The answers of an earlier run, texts or lists of likelihoods."""
    if place is not None:
        with contextlib.suppress(DataError):  # not there, or damaged
            found = read_json(place)
            if isinstance(found, list) and len(found) == count and all(isinstance(one, kind) for one in found):
                return found
    return None


@dataclass(frozen=True)
class Difference:
    """Model B less model A on the same items, by the tests of `llmanac verdict` (`verdict/decide.py`).

    Attributes:
        p: of no difference; verdict: better, worse, or not settled.
        more: items like these beyond those at hand that would settle a true difference of this size; None where it is
            settled or there is no difference.
    """

    benchmark: str
    metric: str
    difference: float
    standard_error: float
    low: float
    high: float
    p: float
    verdict: str
    more: int | None

    def as_json(self) -> dict[str, Any]:
        return dict(vars(self))


def compare_all(pairs: Sequence[tuple[Evaluation, Evaluation]]) -> list[Difference]:
    """The paired differences of two models on several benchmarks; p values are Holm's over the benchmarks.

    The benchmarks' first metrics are one family of tests, their second ones another, and so on.

    Raises:
        DataError: other items or prompts.
    """
    found = [_compared(one, two) for one, two in pairs]
    for number in range(max(map(len, found), default=0)):
        family = [own for own in found if len(own) > number]
        for own, one in zip(family, decide.adjusted([own[number] for own in family]), strict=True):
            own[number] = one
    return [
        Difference(
            one.benchmark, one.metric, one.difference, one.standard_error, one.low, one.high, one.p,
            one.verdict if one.verdict in ("better", "worse") else "not settled", one.more,
        ) for own in found for one in own
    ]  # fmt: skip


def _compared(one: Evaluation, two: Evaluation) -> list[decide.Comparison]:
    if [(item.name, item.prompt) for item in one.items] != [(item.name, item.prompt) for item in two.items]:
        raise DataError(f"{one.benchmark}: the two models were asked other items; evaluate both with the same options")
    out = []
    for name in dict.fromkeys(metric for verdict in one.verdicts for metric in verdict.scores):
        both = [
            (a.scores[name], b.scores[name], item.cluster)
            for item, a, b in zip(one.items, one.verdicts, two.verdicts, strict=True)
            if name in a.scores and name in b.scores
        ]
        if len(both) < 2:
            continue
        scores, clusters = np.array([row[:2] for row in both], np.float64), [row[2] for row in both]
        groups = None if None in clusters else np.unique(np.array(clusters), return_inverse=True)[1]
        named, higher = (one.benchmark, "B", "A"), not lower_is_better(name)
        out.append(decide.compare(scores[:, 1:], scores[:, :1], name, groups=groups, higher=higher, named=named))
    return out
