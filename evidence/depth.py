"""Where the norms are, and depth: gradients of every layer, and training without warm-up.

Attention and ReLU feed-forward blocks of width {dim} with LayerNorm, {depths} of them. Two initialisations: the
published one (Vaswani et al. 2017; Xiong et al. 2020: every matrix by Glorot & Bengio's uniform rule, embeddings of
variance 1), and llmanac's own, in which what writes to the residual stream starts at 0. The text is a random chain in
which any two tokens leave two equally likely next ones: the best loss is ln 2 = 0.69. {steps} steps of {tokens} tokens,
AdamW at {lr} from the first step, no warm-up, gradients clipped at 1; the mean loss of the last {last} steps. Models of
one seed see the same tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from evidence._page import with_interval
from evidence._synthetic import Answers, Rows, fit, once, over
from llmanac.core.pages import Line, Section, line_chart, table
from llmanac.core.rng import numpy_generator, parameter_generator
from llmanac.core.spec import make_method
from llmanac.lab.stats import mean

ROWS = ("block/post-norm", "block/pre-norm")
CLAIM = (
    "with depth, gradients flow worse through post-norm blocks than through pre-norm ones: the norm of the gradient "
    "per layer at initialisation, and early training without warm-up"
)
SEEDS = 3
TOLERANCE = 0.02  # float32 training

DIM, TOKENS, LENGTH, ROWS_A_STEP, LR, LAST = 32, 16, 24, 16, 3e-3, 20
BLOCKS = ("post-norm", "pre-norm", "sandwich", "parallel")
DEPTHS = {"full": (4, 12, 24, 48), "small": (2, 4)}
TRAINED = {"post-norm": (4, 12, 48), "pre-norm": (4, 12, 48), "sandwich": (12,), "parallel": (12,)}
STEPS = {"full": 100, "small": 3}
PUBLISHED, OWN = "published", "llmanac's own"


def text(seed: int) -> np.ndarray:
    """(V, V, 2): the two tokens that may follow any two."""
    return numpy_generator(seed, "chain").integers(TOKENS, size=(TOKENS, TOKENS, 2))


def draw(chain: np.ndarray, rng: np.random.Generator) -> Rows:
    """Rows of the chain with every next token as target."""
    ids = rng.integers(TOKENS, size=(ROWS_A_STEP, LENGTH + 1))
    which = rng.integers(2, size=ids.shape)
    for t in range(2, LENGTH + 1):
        ids[:, t] = chain[ids[:, t - 2], ids[:, t - 1], which[:, t]]
    return ids[:, :-1].copy(), ids[:, 1:].copy()


def built(block: str, depth: int, start: str, seed: int) -> Any:
    """A model with initial weights."""
    scale = DIM**0.5 if start == PUBLISHED else None
    spec = {"name": "transformer", "dim": DIM, "layers": depth, "norm": "layernorm", "max_length": LENGTH,
            "blocks": [{"name": block, "mixer": "multi-head", "ffn": "relu"}], "embedding_scale": scale}  # fmt: skip
    model = make_method("lm", spec).build(vocab_size=TOKENS).initialise(seed)
    if start == PUBLISHED:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim == 2:
                    generator = parameter_generator(seed, name, tuple(parameter.shape))
                    if "embed" in name:
                        parameter.normal_(0.0, DIM**-0.5, generator=generator)
                    else:
                        bound = math.sqrt(6 / sum(parameter.shape))
                        parameter.uniform_(-bound, bound, generator=generator)
    return model


def gradients(model: Any, rows: Rows) -> list[float]:
    """The norm of the mean loss's gradient of each block's parameters, first block first."""
    objective = Answers()
    total, units, _ = objective.loss(model, objective.collate(list(zip(*rows, strict=True))))
    (total / units).backward()
    found = [
        float(torch.stack([p.grad.norm() for p in layer.parameters() if p.grad is not None]).norm())
        for layer in model.model.layers
    ]
    model.zero_grad()
    return found


def one(block: str, depth: int, start: str, seed: int, size: str) -> dict[str, Any]:
    """Gradients at initialisation, and for some depths the loss after the first steps."""
    model, chain = built(block, depth, start, seed), text(seed)
    found: dict[str, Any] = {"gradients": gradients(model, draw(chain, numpy_generator(seed, "first")))}
    if size == "small" or depth in (TRAINED[block] if start == PUBLISHED else (12,)):
        losses = fit(model, lambda rng: draw(chain, rng), STEPS[size], lr=LR, schedule={"name": "constant"},
                     seed=seed)  # fmt: skip
        found["loss"] = mean(losses[-LAST:])
    return found


def measure(seed: int, size: str) -> dict[str, Any]:
    """Every block at every depth from both initialisations."""
    out: dict[str, Any] = {}
    for start in (PUBLISHED, OWN):
        for block in BLOCKS if start == PUBLISHED else BLOCKS[:2]:
            for depth in DEPTHS[size]:
                run = f"{block}-{depth}-{'own' if start == OWN else 'published'}-{seed}"
                arguments = (block, depth, start, seed, size)
                found = one(*arguments) if size == "small" else once("depth", run, lambda a=arguments: one(*a))
                out.setdefault(start, {}).setdefault(block, {})[str(depth)] = found
    return out


def uneven(seeds: Sequence[dict[str, Any]], block: str, other: str) -> list[float]:
    """How far apart gradients of the deepest model's first and last block are, in decades, less the same of another."""

    def of(one: dict[str, Any], name: str) -> float:
        first, *_, last = [*one[PUBLISHED][name].values()][-1]["gradients"]
        return abs(math.log10(last / first))

    return [of(one, block) - of(one, other) for one in seeds]


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    """The page."""
    depths = list(seeds[0][PUBLISHED]["pre-norm"])
    shown = depths[-2] if len(depths) > 2 else depths[-1]
    gradient, losses = [], []
    for start, blocks in seeds[0].items():
        for block in blocks:
            cells = [over_list(seeds, start, block, d) for d in depths]
            gradient.append([f"{block}, {start}", *(f"{c[0]:.2g} to {c[-1]:.2g}" for c in cells)])
            own = [d for d in depths if "loss" in blocks[block][d]]
            losses.append(
                [
                    f"{block}, {start}",
                    *(with_interval(over(seeds, start, block, d, "loss"), 2) if d in own else "" for d in depths),
                ]
            )
    lines = [
        Line(block, [(i, math.log10(g)) for i, g in enumerate(over_list(seeds, PUBLISHED, block, shown), 1)], shade=k)
        for k, block in enumerate(BLOCKS)
    ]  # fmt: skip
    words = f"Gradients of {shown} blocks at the published initialisation, mean over the seeds; block 1 is the first."
    chart = line_chart(lines, "block", "log10 of the gradient's norm", words)
    return [
        Section("Gradient's norm at initialisation", ["Of the parameters of the first and of the last block."],
                [table(["blocks", *depths], gradient)], [chart]),
        Section("Loss of early training", ["Where a cell is empty, no such model was trained."],
                [table(["blocks", *depths], losses)]),
    ]  # fmt: skip


def over_list(seeds: Sequence[dict[str, Any]], start: str, block: str, depth: str) -> list[float]:
    """The mean gradient norm of every block."""
    return [mean(layer) for layer in zip(*(one[start][block][depth]["gradients"] for one in seeds), strict=True)]


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The numbers of the text."""
    depths = list(seeds[0][PUBLISHED]["pre-norm"])
    return {
        "dim": DIM, "depths": ", ".join(depths), "steps": STEPS["full"], "tokens": LENGTH * ROWS_A_STEP, "lr": LR,
        "last": LAST,
    }  # fmt: skip
