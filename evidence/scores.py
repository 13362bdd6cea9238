"""Attention scores: nonlinear, bilinear, dot and scaled dot.

At initialisation, queries and keys of independent numbers of variance 1 are scored by each form; a query sees {half} to
{keys} keys, so that the entropy is {most:.2f} nats at most. With the plain dot product the scores' standard
deviation is the root of the width, so at width {wide} the softmax is all but a choice of one key: entropy
{dot:.2f} nats, and the median gradient that reaches the scores of a query is {less} of that at width {narrow}. Scaled
by the root, the entropy is {scaled} nats at every width. The bilinear form starts with scores of variance 1, as its
weights are drawn; the nonlinear one is bounded by its tanh. The claim {holds}: dot is unstable at large widths, scaled
dot is not.

Models of about {parameters:,} parameters with heads of {head} numbers, trained on the same {tokens:,} tokens of real
text, show how much of it is left after training. Against scaled dot the loss differs by {trained} with dot, by
{bilinear} with bilinear and by {additive} with the nonlinear form, the "most expressive" one. That one is slower, as
claimed: a training step takes {slow:.1f} times as long with {small} numbers inside the tanh, and {slower:.1f} times
with {head}. The bilinear form has {more:,} parameters more than a dot product, the nonlinear one of {small} numbers
{most_more:,}.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from evidence._grid import (
    LENGTH,
    MIXER,
    SHAPE,
    STATED,
    STEPS,
    arms,
    model_spec,
    recipe,
    text,
    training_steps,
    verdicts,
)  # fmt: skip
from evidence._page import with_interval
from llmanac.core.pages import Line, Section, line_chart, table
from llmanac.core.spec import make_method
from llmanac.core.types import Batch
from llmanac.lab import words
from llmanac.lab.stats import compare_arms, mean
from llmanac.models import masks

ROWS = ("attention/nonlinear", "attention/bilinear", "attention/dot", "attention/scaled-dot")
CLAIM = "dot products saturate the softmax at large widths and scaled ones do not; nonlinear scores are slower"
SEEDS = 3
TIMED = ("seconds", "ratio")
TOLERANCE = 1e-3  # float32 training
INSIDE = 8
FORMS: dict[str, Any] = {"scaled-dot": "scaled-dot", "dot": "dot", "bilinear": "bilinear",
                         "nonlinear": {"name": "nonlinear", "hidden": INSIDE}}  # fmt: skip
WIDTHS = (8, 16, 32, 64, 128, 256)
KEYS, HEADS = 128, 16
SHOWN = {
    "entropy": "entropy, nats", "single": "queries with one key of 0.99 or more",
    "to scores": "gradient of a query's scores", "to queries": "gradient of a query",
}  # fmt: skip


def measure(seed: int, size: str) -> dict[str, Any]:
    specs = {name: model_spec(size, mixer={"score": form}) for name, form in FORMS.items()}
    widths = WIDTHS if size == "full" else WIDTHS[:2]
    at_start = {name: {str(d): start(name, d, seed) for d in widths} for name in FORMS}
    found = {"start": at_start, "arms": arms(specs, seed, size)}
    if size == "small":
        return found
    specs[f"nonlinear, {SHAPE['dim'] // MIXER['heads']} inside"] = model_spec(size, mixer={"score": "nonlinear"})
    counts = {
        name: spec.build(vocab_size=text(size).tokenizer.vocab_size).parameter_count() for name, spec in specs.items()
    }
    return {**found, "parameters": counts, "steps": training_steps(specs, 5)}


def start(name: str, width: int, seed: int) -> dict[str, float]:
    """Entropy of the weights (nats), the share of queries that give one key 0.99 or more, gradients (medians).

    The loss is a random projection of what is read; a gradient is the norm over a query's scores, or over the query.
    """
    generator = torch.Generator().manual_seed(seed)
    q, k, v, back = (torch.randn(HEADS, 1, KEYS, width, generator=generator) for _ in range(4))
    score = make_method("score", name).build(heads=1, head_dim=width)
    for parameter_name, parameter in score.named_parameters():
        score.init_parameter(parameter_name, parameter, generator)
    mask = masks.of_batch(Batch(ids=torch.zeros(HEADS, KEYS, dtype=torch.long)))
    q.requires_grad_()
    bias = torch.zeros(HEADS, 1, KEYS, KEYS, requires_grad=True)  # its gradient is that of the scores
    out = score.attend(q, k, torch.eye(KEYS).expand(HEADS, 1, -1, -1), mask, bias=bias)
    last = slice(KEYS // 2, None)  # queries with at least half of the keys
    to_scores, to_q = torch.autograd.grad((out @ v * back).sum() / math.sqrt(width), (bias, q))
    weights = out.detach()[:, 0, last].double()
    entropy = -(weights * weights.clamp(min=1e-300).log()).sum(-1)
    return {
        "entropy": float(entropy.mean()), "single": float((weights.amax(-1) >= 0.99).double().mean()),
        "to scores": float(to_scores[:, 0, last].norm(dim=-1).median()),
        "to queries": float(to_q[:, 0, last].norm(dim=-1).median()),
    }  # fmt: skip


def losses(seeds: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    return {name: [one["arms"][name]["bits per byte"] for one in seeds] for name in FORMS}


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    parts, charts = [], []
    for what, label in SHOWN.items():
        values = {name: {float(d): [s["start"][name][str(d)][what] for s in seeds] for d in WIDTHS} for name in FORMS}
        body = [[name, *(f"{mean(v):.3g}" for v in points.values())] for name, points in values.items()]
        parts.append(table([label, *map(str, WIDTHS)], body))
        if what in ("entropy", "to scores"):
            lines = [Line.of_replicates(name, points) for name, points in values.items()]
            charts.append(line_chart(lines, "width of a head", label, label, log="x"))
    body = [[name, f"{seeds[0]['parameters'][name]:,}", with_interval([o["steps"][name]["ratio"] for o in seeds], 2)]
            for name in seeds[0]["steps"]]  # fmt: skip
    said = (
        "CPU time of one thread for a forward and backward pass, medians of paired ratios of interleaved rounds, on "
        f"a busy machine; rows of {LENGTH} tokens."
    )
    return [
        Section("At initialisation, by width", [], parts, charts),
        Section("Bits per byte, held out", [], [verdicts(losses(seeds))]),
        Section("Costs", [said], [table(["", "parameters", "time of a step"], body, 0)]),
    ]


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    def at(name: str, width: int, what: str = "entropy") -> float:
        return mean([s["start"][name][str(width)][what] for s in seeds])

    said = {}
    for found in compare_arms(losses(seeds), "scaled-dot", better="lower", **STATED):
        own = vars(found)
        said[found.arm] = f"{words.difference(own)} ({words.verdict(own, 'seed')})"
    scaled = [at("scaled-dot", d) for d in WIDTHS]
    narrow, wide = WIDTHS[0], WIDTHS[-1]
    steady = max(scaled) - min(scaled) < 0.3 < at("dot", narrow) - at("dot", wide)
    counts = seeds[0]["parameters"]
    full = f"nonlinear, {SHAPE['dim'] // MIXER['heads']} inside"
    times = {name: mean([s["steps"][name]["ratio"] for s in seeds]) for name in ("nonlinear", full)}
    return {
        "half": KEYS // 2 + 1, "keys": KEYS, "most": mean([math.log(n + 1) for n in range(KEYS // 2, KEYS)]),
        "wide": wide, "narrow": narrow, "dot": at("dot", wide),
        "less": f"{at('dot', wide, 'to scores') / at('dot', narrow, 'to scores'):.1%}",
        "scaled": f"{min(scaled):.2f} to {max(scaled):.2f}", "holds": "holds" if steady else "does not hold",
        "parameters": counts["dot"], "head": SHAPE["dim"] // MIXER["heads"], "small": INSIDE,
        "tokens": STEPS * recipe("full").train.batch_tokens, "trained": said["dot"], "additive": said["nonlinear"],
        "bilinear": said["bilinear"], "slow": times["nonlinear"], "slower": times[full],
        "more": counts["bilinear"] - counts["dot"], "most_more": counts["nonlinear"] - counts["dot"],
    }  # fmt: skip
