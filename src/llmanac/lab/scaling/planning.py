"""What to train with a budget: size and tokens from a law, batch and rate from rules, seconds from this machine.

    C = flops, or seconds x the FLOPs/s that a step of that model reaches here (measured)
    N, D = the law's best for C, or N = sqrt(C / 6r), D = rN without a law, r tokens a parameter
    batch = 0.292 C^0.327 tokens, at most D / 100 steps       rate = the recipe's at its width, carried by `base_dim`

Of the shapes that are known, and the widths between them, the one nearest N is proposed, with as many tokens as C has
left for it. The rule for the batch was fitted from 1e17 FLOPs on; below, it is an extrapolation.

Hoffmann et al. 2022 (https://arxiv.org/abs/2203.15556); DeepSeek-AI 2024 (https://arxiv.org/abs/2401.02954), section
3.1; Yang et al. 2022 (https://arxiv.org/abs/2203.03466).
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from llmanac.core.device import resolve_device
from llmanac.core.errors import SpecError
from llmanac.lab.scaling.compute import non_embedding
from llmanac.lab.scaling.ladder import LADDER, carried
from llmanac.lab.scaling.law import Fit
from llmanac.recipes.plan import TRIED, shaped, training_rate

BATCH = (0.2920, 0.3271)  # factor and exponent of the best batch over the compute
LEAST_STEPS = 100
LARGEST_TRIED = 30_000_000  # parameters
Shape = tuple[int, int, int, int]
LARGER = (  # (dim, layers, heads, kv_heads) beyond those that a run is planned from
    (2048, 24, 16, 16), (2560, 32, 20, 20), (4096, 32, 32, 32), (5120, 40, 40, 40), (8192, 64, 64, 64),
    (12288, 96, 96, 96),
)  # fmt: skip


@dataclass(frozen=True)
class Proposal:
    """What to train.

    Attributes:
        flops: C; rate: FLOPs/s here; seconds: of all steps at that rate.
        best_parameters, best_tokens: the law's, before a shape was chosen; in what `counted` says.
        size_interval: 95% of the best size, by the law's bootstrap; None without a law.
        parameters, tokens: of the proposed model, all of its parameters.
        off: its size over the best one, in what `counted` says; excess: loss that the law expects of it above that of
            the best size, None without a law.
        loss: what the law expects, and the interval of one run; None without a law.
        patches: of the recipe.
        beyond: compute over that of the largest run that was fitted; None where that is not known.
    """

    flops: float
    rate: float
    counted: str
    best_parameters: float
    best_tokens: float
    size_interval: tuple[float, float] | None
    parameters: int
    tokens: int
    off: float
    excess: float | None
    loss: tuple[float, tuple[float, float] | None] | None
    patches: dict[str, Any]
    beyond: float | None = None

    @property
    def seconds(self) -> float:
        return self.flops / self.rate


def propose(
    recipe: Any, vocabulary: int, *, flops: float | None = None, seconds: float | None = None, fit: Fit | None = None,
    tokens_per_parameter: float = 20.0, largest: float | None = None,
) -> Proposal:  # fmt: skip
    """What to train with a compute or a time.

    Args:
        recipe: gives all but size, tokens and batch; its rate is taken to be good at its width.
        fit: without one, `tokens_per_parameter` decides.
        largest: compute of the largest run of the fit.

    Raises:
        SpecError: a model without sizes, or a budget that trains no model at all.
    """
    if recipe.model.name != "transformer":
        raise SpecError(f"model: only a transformer's size is planned, not {recipe.model.name}")
    if fit is not None and min(fit.law.alpha, fit.law.beta) <= 0:
        raise SpecError("--fit: its loss does not fall with size or tokens, so there is no best size; fit more runs")
    recipe = carried(recipe)
    device = resolve_device(recipe.device)
    rate = training_rate(recipe, TRIED, vocabulary, device)
    shape: Any = None
    for _ in range(3):  # the rate depends on the size, and the size on the rate
        budget = flops if flops is not None else rate * (seconds or 0.0)
        best, tokens = _best(budget, fit, tokens_per_parameter)
        counted = "total" if fit is None else fit.counted
        before, (shape, model) = shape, _nearest(recipe, vocabulary, best, counted)
        if shape == before or model.parameter_count() > LARGEST_TRIED:
            break  # too large to be tried for a few seconds; large products reach the rate of the machine's product
        rate = training_rate(recipe, shape, vocabulary, device)
    size = model.parameter_count()
    own = size if counted == "total" else non_embedding(model)
    batch = _batch(budget, budget / 6 / own, recipe.train.length)
    steps = int(budget / 6 / own / batch)
    if steps < 1:
        raise SpecError(f"--budget: {budget:.2g} FLOPs are too few for a step of the smallest model; give more")
    new = shaped(recipe.model, shape)
    patches: dict[str, Any] = {"model.dim": new.dim, "model.layers": new.layers}
    for at, block in enumerate(new.blocks):
        for name in ("heads", "kv_heads"):
            if getattr(block.mixer, name, None) is not None:
                patches[f"model.blocks.{at}.mixer.{name}"] = getattr(block.mixer, name)
    patches |= {"train.batch_tokens": batch, "train.steps": steps, "train.optimizer.lr": recipe.train.optimizer.lr}
    for path, part in (("train.optimizer", recipe.train.optimizer), ("model.head", recipe.model.head)):
        if part.base_dim:
            patches[f"{path}.base_dim"] = part.base_dim
    interval = None if fit is None else fit.interval(lambda law: law.best(budget)[0])
    loss = None if fit is None else fit.predict(own, steps * batch)
    beyond = None if largest is None else budget / largest
    excess = None if fit is None else fit.law.loss(own, steps * batch) - fit.law.loss(best, tokens)
    return Proposal(
        budget, rate, counted, best, tokens, interval, size, steps * batch, own / best, excess, loss, patches, beyond
    )


def for_a_run(recipe: Any, vocabulary: int, parameters: int, tokens: int, ratio: float = 20.0) -> str:
    """In a line, what is proposed for the compute of a run; nothing is measured. Empty where no such model is planned.

    Args:
        parameters, tokens: what the run trained, and on how many tokens.
    """
    if recipe.model.name != "transformer":
        return ""
    flops = 6.0 * parameters * tokens
    _, model = _nearest(recipe, vocabulary, _best(flops, None, ratio)[0], "total")
    size = model.parameter_count()
    return (
        f"scaling plan: the same {flops:.2g} FLOPs on fresh text ({ratio:g} tokens a parameter) would train {size:,} "
        f"parameters on {flops / 6 / size:,.0f} tokens; this run trained {parameters:,} on {tokens:,}"
    )


def _best(budget: float, fit: Fit | None, ratio: float) -> tuple[float, float]:
    if fit is not None:
        return fit.law.best(budget)
    size = math.sqrt(budget / 6 / ratio)
    return size, ratio * size


def _nearest(recipe: Any, vocabulary: int, wanted: float, counted: str) -> tuple[Shape, Any]:
    """The shape whose number of parameters is nearest, and its model without weights."""
    found: list[tuple[float, Shape, Any]] = []

    def add(shape: Shape) -> int:
        with torch.device("meta"):
            model = shaped(recipe.model, shape).build(vocab_size=vocabulary)
        size: int = model.parameter_count() if counted == "total" else non_embedding(model)
        found.append((abs(math.log(size / wanted)), shape, model))
        return size

    known = (*LADDER, *LARGER)
    for shape in known:
        if add(shape) > 4 * wanted:
            break
    at = min(range(len(found)), key=lambda i: found[i][0])
    for one, two in itertools.pairwise(known[max(0, at - 1) : at + 2]):
        for shape in _between(one, two):
            add(shape)
    _, shape, model = min(found, key=lambda row: row[0])
    return shape, model


def _between(one: Shape, two: Shape) -> Iterator[Shape]:
    """Wider shapes up to the next, 8 dimensions a head at a time: heads stay whole, and of an even width."""
    dim, layers, heads, kv_heads = one
    for wider in range(dim + 8 * heads, two[0] + 1, 8 * heads):
        if (wider, layers) != two[:2]:
            yield wider, layers, heads, kv_heads


def _batch(budget: float, tokens: float, length: int) -> int:
    """Tokens of a step: a whole number of rows, at least one."""
    wanted = min(BATCH[0] * budget ** BATCH[1], tokens / LEAST_STEPS)
    return max(1, round(wanted / length)) * length
