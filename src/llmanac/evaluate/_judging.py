"""What an answer is worth: the scores of one item, and of all items together."""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import regex

from llmanac.core.errors import RequestError
from llmanac.evaluate._benchmark_rows import BenchmarkItem
from llmanac.evaluate._calls import calls_in, right_calls
from llmanac.evaluate._choosing import lettered, read_choice
from llmanac.evaluate._instructions import followed
from llmanac.evaluate._jinja import SECONDS
from llmanac.evaluate.benchmark import Benchmark, Extraction, Generation
from llmanac.metrics import Z, wilson_interval
from llmanac.metrics.answers import convention, drop, f1
from llmanac.metrics.multiple_choice import chosen
from llmanac.metrics.statistics.estimates import estimate

if TYPE_CHECKING:
    from llmanac.sandbox.pool import Result

PER = {"acc": "text", "acc_norm": "character", "acc_bytes": "byte"}
LEAST_HUMAN_F1 = 0.4  # QuAC leaves out questions on which people agree less
NO_ANSWER = "CANNOTANSWER"  # QuAC's
_PUNCTUATION, _DIGITS = str.maketrans("", "", string.punctuation), str.maketrans("", "", string.digits)


@dataclass(frozen=True)
class ItemVerdict:
    """One item's answer.

    Attributes:
        answer: what was generated, or the chosen choice; extracted: what was compared, None where nothing was found.
        right: by the benchmark's first metric.
        scores: by metric; empty for an item that its benchmark leaves out.
        values: log-likelihoods in nats, of each choice or of the text.
        note: more about it, such as how a program ended.
        several: of metrics that are a mean over parts of items, such as IFEval's instructions, the values of the parts.
    """

    answer: str
    extracted: str | None
    right: bool
    scores: dict[str, float] = field(default_factory=dict)
    values: tuple[float, ...] = ()
    note: str = ""
    several: dict[str, list[float]] = field(default_factory=dict)


def judge_choices(item: BenchmarkItem, sums: Sequence[float]) -> ItemVerdict:
    """Of log-likelihoods of the choices, in nats."""
    scored = [item.ending] * len(item.choices) if item.ending else item.choices
    picks = {name: int(chosen([sums], [scored], per)[0]) for name, per in PER.items()}
    scores = {name: float(pick in item.golds) for name, pick in picks.items()}
    return ItemVerdict(
        item.choices[picks["acc"]], item.choices[picks["acc"]], scores["acc"] == 1.0, scores, tuple(sums)
    )


def judge_mass(item: BenchmarkItem, sums: Sequence[float]) -> ItemVerdict:
    """Of log-likelihoods of the choices, in nats: the share of their probability that the right ones have."""
    shares = np.exp(np.asarray(sums) - max(sums))
    mass = float(shares[list(item.golds)].sum() / shares.sum())
    best = int(shares.argmax())
    return ItemVerdict(item.choices[best], item.choices[best], best in item.golds, {"mass of right": mass}, tuple(sums))


def judge_letter(item: BenchmarkItem, text: str) -> ItemVerdict:
    """Of an answer to `lettered`; one in which no letter can be read is wrong."""
    labels = lettered(item)[1]
    letter = read_choice(text, labels, item.choices)
    right = letter is not None and labels.index(letter) in item.golds
    return ItemVerdict(text, letter, right, {"acc": float(right), "extraction error": float(letter is None)})


def judge_likelihood(item: BenchmarkItem, total: float, greedy: bool | None) -> ItemVerdict:
    """Of the likelihood of the text itself. Raises RequestError where `greedy` is not known."""
    if greedy is None:
        raise RequestError("top_logprobs: the server does not name the most probable tokens, which `acc` needs")
    scores = {"acc": float(greedy), "log-likelihood": total}
    return ItemVerdict(str(item.references[0]), None, greedy, scores, (total,))


def judge_generated(own: Generation, item: BenchmarkItem, text: str) -> ItemVerdict:
    """Of a generated text, by every metric of the benchmark but `code`."""
    shown_text = text
    if own.strip == "first-line":
        text = text.strip().split("\n")[0]
    elif own.strip == "both":
        text = text.strip()
    scores: dict[str, float] = {}
    extracted: str | None = None
    found: str | None
    for number, name in enumerate(own.metrics):
        label = "exact match" if len(own.metrics) == 1 else f"exact match ({name})"
        if name == "quac":
            found, made = text, quac(text, [str(one) for one in item.references])
        else:
            rule = convention(name)
            found = rule.extract(text)
            made = _by_convention(name, rule.equal, found, item.references, label)
        extracted = found if number == 0 else extracted
        scores |= made
    for number, one in enumerate(own.extractions):
        found = extracted_by(one, text)
        extracted = found if number == 0 and not own.metrics else extracted
        answer = one.fallback if found is None else found
        equal = any(_plain(one, answer) == _plain(one, str(gold)) for gold in item.references)
        scores["exact match" if len(own.extractions) == 1 else f"exact match ({one.label})"] = float(equal)
    right = bool(scores) and next(iter(scores.values())) == 1.0
    return ItemVerdict(shown_text, extracted, right, scores)


def extracted_by(own: Extraction, text: str) -> str | None:
    """What a pattern finds in a text, as lm-eval's filters do; None where it finds nothing."""
    if own.strip:
        text = text.strip()
    if own.pattern is None:
        return text
    try:
        found = regex.findall(own.pattern, text, timeout=SECONDS)
        match = found[own.group] if found else None
    except (TimeoutError, IndexError):
        return None
    if isinstance(match, tuple):
        match = next((part for part in match if part), None)
    return None if match is None else match.strip()


def _plain(own: Extraction, text: str) -> str:
    """A text without what makes no difference."""
    for source in own.ignore:
        try:
            text = regex.sub(source, "", text, timeout=SECONDS)
        except TimeoutError:
            return text
    text = text.lower() if own.ignore_case else text
    text = text.translate(_PUNCTUATION) if own.ignore_punctuation else text
    return text.translate(_DIGITS) if own.ignore_numbers else text


def _by_convention(
    name: str, equal: Callable[[str, str], bool], answer: str | None, references: Sequence[Any], label: str
) -> dict[str, float]:
    if name == "drop":
        golds = [[one] if isinstance(one, str) else list(one) for one in references]
        golds = [gold for gold in golds if gold[0].strip()]  # as lm-eval: an empty annotation scores nothing
        pairs = [drop(answer, gold) for gold in golds] if answer is not None else []
        return {label: max((p[0] for p in pairs), default=0.0), "F1": max((p[1] for p in pairs), default=0.0)}
    exact = answer is not None and any(equal(answer, str(one)) for one in references)
    if name == "squad":
        return {label: float(exact), "F1": f1(answer or "", [str(one) for one in references])}
    return {label: float(exact)}


def quac(answer: str, references: Sequence[str]) -> dict[str, float]:
    """F1 of an answer against each choice of all references but one, and whether it is at least people's own (HEQ).

    Nothing where people agree on less than `LEAST_HUMAN_F1`. Choi et al. 2018, arXiv:1808.07036, section 5.1.
    """
    without = [one for one in references if one != NO_ANSWER]
    unanswerable = 2 * (len(references) - len(without)) > len(references)
    golds = [NO_ANSWER] if unanswerable else without or list(references)
    people, own = 1.0, f1(answer, golds)
    if len(golds) > 1:
        rest = [[*golds[:i], *golds[i + 1 :]] for i in range(len(golds))]
        people = float(np.mean([f1(gold, others) for gold, others in zip(golds, rest, strict=True)]))
        own = float(np.mean([f1(answer, others) for others in rest]))
    return {} if people < LEAST_HUMAN_F1 else {"F1": own, "HEQ-Q": float(own >= people)}


@dataclass(frozen=True)
class Score:
    """A metric over all items: the value with its standard error (clustered where items share a passage)."""

    metric: str
    value: float
    standard_error: float | None
    low: float | None
    high: float | None
    items: int
    clusters: int
    plain_error: float | None

    def as_json(self) -> dict[str, Any]:
        return dict(vars(self))


def summarise(items: Sequence[BenchmarkItem], verdicts: Sequence[ItemVerdict]) -> list[Score]:
    """Every metric's mean over the items that have it, with errors."""
    out = []
    for name in dict.fromkeys(metric for one in verdicts for metric in one.scores):
        kept = [(i, v) for i, v in zip(items, verdicts, strict=True) if name in v.scores]
        parts = [verdict.several.get(name, [verdict.scores[name]]) for _, verdict in kept]
        values = [value for own in parts for value in own]
        named: list[Any] = [item.cluster for item, _ in kept]
        named = list(range(len(kept))) if None in named and len(values) > len(kept) else named  # parts share their item
        clusters = [cluster for cluster, own in zip(named, parts, strict=True) for _ in own]
        shared = clusters if None not in clusters and len(set(clusters)) < len(clusters) else None
        score = _score(name, values, shared)
        out.append(_perplexity(score, values) if name == "log-likelihood" else score)
        if name == "HEQ-Q" and shared is not None:
            whole: dict[Any, float] = {}
            for cluster, value in zip(clusters, values, strict=True):
                whole[cluster] = min(value, whole.get(cluster, 1.0))
            out.append(_score("HEQ-D", list(whole.values()), None))
    return out


def _score(name: str, values: Sequence[float], clusters: Sequence[Any] | None) -> Score:
    count = len(values) if clusters is None else len(set(clusters))
    if count < 2 or not all(map(math.isfinite, values)):
        return Score(name, float(np.mean(values)), None, None, None, len(values), count, None)
    found, plain = estimate(values, clusters), estimate(values)
    if clusters is None and set(values) <= {0.0, 1.0}:  # Wilson's is not empty where all are equal
        limits = wilson_interval(int(sum(values)), len(values))[1:]
    else:
        limits = (found.low, found.high) if name == "log-likelihood" else (max(0.0, found.low), min(1.0, found.high))
    return Score(
        name, found.mean, found.standard_error, *limits, found.items, found.clusters, plain.standard_error
    )  # fmt: skip


def _perplexity(score: Score, values: Sequence[float]) -> Score:
    """exp(-mean log-likelihood) of a text; its error is the bootstrap's, its interval that of the mean.

    Of n draws with replacement E exp(-k mean) = (mean_i exp(-k x_i / n))^n, so no draw is needed: this is what
    lm-eval's bootstrap tends to. Where items come in clusters, it is wider by as much as the error of the mean is.
    """
    value = math.exp(min(700.0, -score.value))
    if score.standard_error is None or score.plain_error is None:
        return Score("perplexity", value, None, None, None, score.items, score.clusters, None)
    count, nats = len(values), -np.asarray(values, float)
    one, two = (count * (float(np.logaddexp.reduce(k * nats / count)) - math.log(count)) for k in (1, 2))
    plain = math.exp(min(700.0, one)) * math.sqrt(max(0.0, math.expm1(min(700.0, two - 2 * one))))
    error = plain * (score.standard_error / score.plain_error if score.plain_error else 1.0)
    low, high = (math.exp(min(700.0, -score.value + side * Z * score.standard_error)) for side in (-1, 1))
    return Score("perplexity", value, error, low, high, score.items, score.clusters, plain)


def judge_instructions(items: Sequence[BenchmarkItem], answers: Sequence[str]) -> list[ItemVerdict]:
    """Of IFEval: whether all instructions are followed, and how many; strictly and loosely."""
    out = []
    for item, answer in zip(items, answers, strict=True):
        ways = dict(zip(("strict", "loose"), followed(item.row or {}, answer), strict=True))
        scores = {f"prompt {way}": float(all(own)) for way, own in ways.items()}
        scores |= {f"instruction {way}": sum(own) / len(own) for way, own in ways.items()}
        several = {f"instruction {way}": list(map(float, own)) for way, own in ways.items()}
        names = (item.row or {})["instruction_id_list"]
        broken = [name for name, kept in zip(names, ways["strict"], strict=True) if not kept]
        note = "not followed: " + ", ".join(broken) if broken else ""
        out.append(ItemVerdict(answer, None, not broken, scores, note=note, several=several))
    return out


def judge_calls(items: Sequence[BenchmarkItem], answers: Sequence[str]) -> list[ItemVerdict]:
    """Of function calls, against those of the row."""
    found = [(answer, calls, right_calls(item.row or {}, calls)) for item, answer in zip(items, answers, strict=True)
             for calls in [calls_in(answer)]]  # fmt: skip
    return [
        ItemVerdict(answer, None if calls is None else repr(calls), right, {"right calls": float(right)})
        for answer, calls, right in found
    ]


def judge_programs(items: Sequence[BenchmarkItem], answers: Sequence[str]) -> list[ItemVerdict]:
    """Run each answer with its row's tests in the sandbox. Raises SandboxError where programs cannot be confined."""
    from llmanac.evaluate import code
    from llmanac.sandbox.pool import Sandbox

    samples = [(item.row or {}, answer) for item, answer in zip(items, answers, strict=True)]
    with Sandbox() as sandbox:
        found = [one.result for one in code.check(samples, sandbox)]
    return [
        ItemVerdict(answer, code.program(row, answer), one.passed, {"pass@1": float(one.passed)}, note=_ending(one))
        for (row, answer), one in zip(samples, found, strict=True)
    ]


def _ending(result: Result) -> str:
    """How a program ended, with its exception."""
    lines = result.stderr.strip().splitlines()
    return result.status + (f": {lines[-1][:200]}" if lines and not result.passed else "")


BY_ROW: dict[str, Callable[[Sequence[BenchmarkItem], Sequence[str]], list[ItemVerdict]]] = {
    "code": judge_programs, "ifeval": judge_instructions, "function-calls": judge_calls,
}  # fmt: skip


def judged(items: Sequence[BenchmarkItem], raw: Sequence[Any], own: Benchmark, chat: bool) -> list[ItemVerdict]:
    """What the model's answers are worth: letters in a chat, likelihoods, texts, or what the row says of them."""
    made = own.generation
    if made is None:
        if chat:
            return [judge_letter(item, text) for item, text in zip(items, raw, strict=True)]
        if own.choices:
            judge = {"pick": judge_choices, "mass": judge_mass}[own.choices.score]
            return [judge(item, [pair[0] for pair in row]) for item, row in zip(items, raw, strict=True)]
        return [judge_likelihood(item, *row[0]) for item, row in zip(items, raw, strict=True)]
    if made.by_row is not None:
        return BY_ROW[made.by_row](items, raw)
    return [judge_generated(made, item, text) for item, text in zip(items, raw, strict=True)]
