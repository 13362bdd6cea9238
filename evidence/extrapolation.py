"""Positions in and past the training length, and scalings of RoPE.

Models of {parameters:,} parameters with one way of knowing positions each, trained on the same rows of {length} tokens
({tokens:,} tokens). The loss is that of held-out documents in rows of {long} tokens, by position. Learned positions
have {rows} rows, of which training reaches {length}; the others have no limit.

Extrapolating is judged by how much the loss grows past the training length, from its second half to the {length}
positions after it, and not by its level there: an arm that is better inside is better outside, too. The loss changes by
{rope} nats a token with RoPE and by {learned} with learned positions. Equal logits after a shift of all positions say
whether a method sees distances only. Sinusoidal positions have no parameters; relative ones cost more
computation: {slower}.

Scalings act on the trained RoPE models as they are, without further training, with a factor of {factor}. Rows of
{length} tokens, each read without what is before it, have a perplexity of {cut}. LongRoPE's factors are 1 for the first
pairs and {factor} for the others; how many is chosen on tuning documents, in place of the paper's search. `dynamic` is
given with the factor 1 too, which is the ratio of the row to the training length.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from evidence._grid import LENGTH, STEPS, model_spec, recipe, text, trained, training_steps, verdicts
from evidence._page import with_interval
from llmanac.core.pages import Line, Section, line_chart, table
from llmanac.core.spec import make_method
from llmanac.core.types import Batch
from llmanac.lab.stats import mean

ROWS = ("position/rope", "position/learned", "position/sinusoidal", "position/relative", "context/rope-scaling")
CLAIM = "RoPE extrapolates better than learned positions; scaling lowers its perplexity past the training length"
SEEDS = 3
TIMED = ("seconds", "ratio")
TOLERANCE = 1e-3  # float32 training
POSITIONS: dict[str, Any] = {
    "rope": "rope", "learned": {"name": "learned", "rows": 2 * LENGTH}, "sinusoidal": "sinusoidal",
    "relative": "relative", "t5": "t5", "alibi": "alibi", "none": "none",
}  # fmt: skip
FACTOR = 4
SCALINGS = {"linear": FACTOR, "dynamic": FACTOR, "dynamic, factor 1": 1, "yarn": FACTOR, "llama3": FACTOR}


def measure(seed: int, size: str) -> dict[str, Any]:
    length = recipe(size).train.length
    held, tuning = (rows(size, part, length) for part in (text(size).report, text(size).tuning))
    specs = {name: model_spec(size, position=position) for name, position in POSITIONS.items()}
    found: dict[str, Any] = {"by position": {}, "distances": {}, "parameters": {}}
    for name in specs if size == "full" else ("learned", "rope"):
        model = trained(specs[name], seed, size)
        found["parameters"][name] = model.parameter_count()
        found["by position"][name] = by_position(model, held[:, : (model.model.position.limit or 1 << 20) + 1], length)
        found["distances"][name] = shifted(model, held[:1, :length])
        if name == "rope":
            found["scaled"] = scaled(model, held, tuning, length)
    return {**found, "steps": training_steps(specs, 9) if size == "full" else {}}


def rows(size: str, texts: Sequence[str], length: int) -> torch.Tensor:
    """(N, 4 T + 1), N at most 48: the documents' tokens in rows that do not overlap; ends of documents are not read."""
    tokens = [text(size).tokenizer.encode_array(one) for one in texts]
    step = FACTOR * length
    cut = [torch.as_tensor(ids[i : i + step + 1]).long() for ids in tokens for i in range(0, len(ids) - step, step)]
    return torch.stack(cut[:48])


@torch.no_grad()
def by_position(model: Any, ids: torch.Tensor, length: int) -> list[float]:
    """Mean nats a token for each half of the training length."""
    nll = [model.nll(Batch(ids=part[:, :-1], targets=part[:, 1:]), "none") for part in ids.split(8)]
    return torch.cat(nll).double().mean(0).view(-1, length // 2).mean(1).tolist()  # type: ignore[no-any-return]


@torch.no_grad()
def shifted(model: Any, ids: torch.Tensor) -> float:
    """The largest change of a logit when all positions grow by 7, over the standard deviation of the logits."""
    at = torch.arange(ids.shape[1])[None]
    first, second = (model(Batch(ids=ids, positions=at + by)).logits for by in (0, 7))
    return float((first - second).abs().max() / first.std())


def scaled(model: Any, held: torch.Tensor, tuning: torch.Tensor, length: int) -> dict[str, Any]:
    """The loss by position of a RoPE model under each scaling, and of rows of the training length."""

    def under(scaling: Mapping[str, Any] | None) -> Any:
        position = make_method("position", {"name": "rope", **({"scaling": scaling} if scaling else {})})
        other = dataclasses.replace(model.spec, position=position).build(vocab_size=model.vocab_size)
        other.load_state_dict(model.state_dict())
        return other.eval()

    own = {"original_length": length}
    ways: dict[str, Any] = {"unscaled": None}
    ways |= {name: {"type": name.split(",")[0], "factor": float(s), **own} for name, s in SCALINGS.items()}
    pairs = model.model.position.turned // 2
    longrope = [
        {"type": "longrope", "factor": float(FACTOR), **own, "short_factors": [1.0] * pairs,
         "long_factors": [1.0] * kept + [float(FACTOR)] * (pairs - kept)}
        for kept in range(pairs + 1)
    ]  # fmt: skip
    ways["longrope"] = min(longrope, key=lambda way: mean(by_position(under(way), tuning, length)[2:]))
    found = {}
    for name, way in ways.items():
        read = {"long": held, "short": held[:, : length + 1]}
        found[name] = {part: by_position(under(way), ids, length) for part, ids in read.items()}
    parts = torch.cat([held[:, i : i + length + 1] for i in range(length, FACTOR * length, length)])
    cut = mean(by_position(model, parts, length))
    return {"ways": found, "cut": cut, "kept": ways["longrope"]["long_factors"].count(1.0), "pairs": pairs}


def past(losses: Sequence[float]) -> float:
    """Mean loss of the positions after the training length, over as many as it has."""
    return mean(losses[2:4])


def nats(seeds: Sequence[dict[str, Any]]) -> dict[str, list[list[float]]]:
    """Loss by position of each seed, by arm."""
    return {name: [one["by position"][name] for one in seeds] for name in seeds[0]["by position"]}


def perplexity(seeds: Sequence[dict[str, Any]], part: str, ranges: slice) -> dict[str, list[float]]:
    """Of each seed over a range of halves of the training length, by scaling."""
    ways = seeds[0]["scaled"]["ways"]
    return {way: [math.exp(mean(s["scaled"]["ways"][way][part][ranges])) for s in seeds] for way in ways}


def grown(seeds: Sequence[dict[str, Any]], name: str, other: str = "") -> list[float]:
    """The relative growth of the loss past the training length, over its second half; less that of another arm."""
    of = {arm: [past(run) / run[1] - 1 for run in runs] for arm, runs in nats(seeds).items()}
    return [a - b for a, b in zip(of[name], of[other], strict=True)] if other else of[name]


def lowered(seeds: Sequence[dict[str, Any]], way: str) -> list[float]:
    """The relative change of the perplexity past the training length by a scaling."""
    found = perplexity(seeds, "long", slice(2, None))
    return [a / b - 1 for a, b in zip(found[way], found["unscaled"], strict=True)]


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    curves = nats(seeds)
    heads = ["", *(f"{i * LENGTH // 2}–{(i + 1) * LENGTH // 2}" for i in range(2 * FACTOR))]
    body = [[name, *(with_interval(c) for c in zip(*runs, strict=True))] for name, runs in curves.items()]
    body = [[*row, *[""] * (len(heads) - len(row))] for row in body]
    points = [
        Line.of_replicates(name, {(i + 0.5) * LENGTH / 2: list(c) for i, c in enumerate(zip(*runs, strict=True))})
        for name, runs in curves.items()
    ]
    about = f"Loss by position; trained on rows of {LENGTH}; a dot is one seed."
    chart = line_chart(points, "position", "nats a token", about, log="x")
    after = {name: [past(run) for run in curves[name]] for name in ("learned", *(n for n in curves if n != "learned"))}
    costs = [
        [name, f"{seeds[0]['parameters'][name]:,}", f"{max(s['distances'][name] for s in seeds):.1g}",
         with_interval([s["steps"][name]["ratio"] for s in seeds], 2)]
        for name in curves
    ]  # fmt: skip
    read = (("short", slice(0, 2)), ("long", slice(0, 2)), ("long", slice(2, 4)), ("long", slice(4, None)))
    found = [perplexity(seeds, *how) for how in read]
    ways = [[way, *(with_interval(one[way], 2) for one in found)] for way in found[0]]
    names = ["", f"rows of {LENGTH}", *(f"{a * LENGTH}–{b * LENGTH}" for a, b in ((0, 1), (1, 2), (2, FACTOR)))]
    return [
        Section("Loss by position", ["Nats a token, by ranges of positions."], [table(heads, body, 0)], [chart]),
        Section(f"The {LENGTH} positions after the training length", [], [verdicts(after, "nat")]),
        Section("Distances and costs", [
            "Change of logits: the largest, over the standard deviation of the logits, when all positions grow by 7. "
            "Time of a forward and backward pass against RoPE's: CPU time of one thread, medians of paired ratios of "
            "interleaved rounds on a busy machine."],
            [table(["", "parameters", "change of logits", "time"], costs, 0)]),
        Section(f"Perplexity past the training length ({LENGTH}–{FACTOR * LENGTH}), by scaling", [],
                [verdicts(perplexity(seeds, "long", slice(2, None)), "")]),
        Section("Perplexity by scaling and position", [
            f"The first column is for rows of {LENGTH} tokens, the others for rows of {FACTOR * LENGTH}."],
            [table(names, ways, 0)]),
    ]  # fmt: skip


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    change = {name: mean([past(run) - run[1] for run in runs]) for name, runs in nats(seeds).items()}
    times = {name: mean([s["steps"][name]["ratio"] for s in seeds]) for name in ("relative", "t5", "alibi")}
    return {
        "parameters": seeds[0]["parameters"]["rope"], "length": LENGTH, "long": FACTOR * LENGTH, "rows": 2 * LENGTH,
        "tokens": STEPS * recipe("full").train.batch_tokens, "factor": FACTOR,
        "rope": f"{change['rope']:+.3f}", "learned": f"{change['learned']:+.3f}",
        "slower": ", ".join(f"{name} takes {ratio:.2f} times as long as RoPE" for name, ratio in times.items()),
        "cut": f"{mean([math.exp(s['scaled']['cut']) for s in seeds]):.2f}",
    }  # fmt: skip
