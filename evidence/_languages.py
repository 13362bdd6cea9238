"""Two made-up languages and a small model of the first one, which studies tune to the second.

The next token depends on the two tokens before it. Both languages are tables of its probabilities, so that what a model
has yet to learn is known exactly: the Kullback-Leibler divergence from the table, 0 for a perfect model.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch

from evidence._synthetic import Rows, fit
from llmanac.core.rng import numpy_generator
from llmanac.core.spec import make_method
from llmanac.core.types import IGNORE

TOKENS, KNOWN, LENGTH, ROWS = 12, 8, 32, 16  # tokens; those of the second language; of a row; rows of a step
NOISE = 0.2  # of the probability is spread evenly, so that nothing is impossible
SIZES = {
    "full": {"dim": 64, "base": 600, "tune": 120, "every": 20},
    "small": {"dim": 16, "base": 3, "tune": 3, "every": 3},
}
BASE_LR, SCHEDULE = 8e-3, {"name": "cosine", "warmup": 0.05}
Table = np.ndarray  # (first token, second token, next token): its probability


def language(seed: int, name: str, tokens: int) -> Table:
    """A table over the first `tokens` tokens."""
    found = np.zeros((tokens, tokens, TOKENS))
    drawn = numpy_generator(seed, name).dirichlet(np.full(tokens, 0.3), (tokens, tokens))
    found[:, :, :tokens] = (1 - NOISE) * drawn + NOISE / tokens
    return found


def languages(seed: int) -> tuple[Table, Table]:
    """The base's language, and the new one: of fewer tokens, with other probabilities after every pair of them."""
    return language(seed, "old", TOKENS), language(seed, "new", KNOWN)


def draw(table: Table, rng: np.random.Generator, rows: int, length: int = LENGTH) -> Rows:
    """Rows of a language; the first two tokens are even, and predicted by nothing."""
    sums = table.cumsum(-1)
    ids = np.empty((rows, length + 1), np.int64)
    ids[:, :2] = rng.integers(table.shape[0], size=(rows, 2))
    for at in range(2, length + 1):
        chosen = rng.random((rows, 1)) > sums[ids[:, at - 2], ids[:, at - 1]]
        ids[:, at] = chosen.sum(-1).clip(max=table.shape[0] - 1)
    targets = ids[:, 1:].copy()
    targets[:, 0] = IGNORE
    return ids[:, :-1], targets


@torch.no_grad()
def divergence(model: Any, table: Table, ids: np.ndarray, *, only: Callable[[np.ndarray], Any] | None = None) -> float:
    """Mean KL(table || model) in nats over the places of rows; over those where `only(pairs)` holds."""
    logs = model(torch.from_numpy(ids)).logits[:, 1:].float().log_softmax(-1).numpy()
    pairs = np.stack([ids[:, :-1], ids[:, 1:]], -1)
    truth = table[pairs[..., 0], pairs[..., 1]]
    apart = (truth * (np.log(np.where(truth > 0, truth, 1.0)) - logs)).sum(-1)
    return float(apart.mean() if only is None else apart[only(pairs)].mean())


@cache
def _base(seed: int, size: str) -> Any:
    sizes = SIZES[size]
    spec = {"name": "transformer", "dim": sizes["dim"], "layers": 2, "max_length": 128}
    model = make_method("lm", spec).build(vocab_size=TOKENS).initialise(seed)
    old, _ = languages(seed)
    fit(model, lambda rng: draw(old, rng, ROWS), sizes["base"], lr=BASE_LR, schedule=SCHEDULE, seed=seed)
    return model


def base(seed: int, size: str) -> Any:
    """A copy of the model that was trained on the old language."""
    return copy.deepcopy(_base(seed, size))


def source(table: Table, seed: int, rows: int | None, batch: int = ROWS) -> Callable[[np.random.Generator], Rows]:
    """Batches of `rows` different rows, in epochs of random order; None for new rows at every step."""
    if rows is None:
        return lambda rng: draw(table, rng, batch)
    ids, targets = draw(table, numpy_generator(seed, "tuning rows"), rows)
    waiting: list[int] = []

    def epochs(rng: np.random.Generator) -> Rows:
        while len(waiting) < batch:
            waiting.extend(rng.permutation(rows).tolist())
        chosen, waiting[:batch] = waiting[:batch], []
        return ids[chosen], targets[chosen]

    return epochs


def tune(model: Any, rows: Callable[[np.random.Generator], Rows], lr: float, seed: int, size: str,
         look: Callable[[int], Any], times: int = 1) -> None:  # fmt: skip
    """Train what is not frozen on the new language; `look` sees it from time to time."""
    sizes = SIZES[size]
    fit(model, rows, sizes["tune"] * times, lr=lr, schedule=SCHEDULE, seed=seed, most=20.0, every=sizes["every"],
        look=look)  # fmt: skip


def best(values: Sequence[float]) -> int:
    """Where the smallest finite value is."""
    return min(range(len(values)), key=lambda i: values[i] if math.isfinite(values[i]) else math.inf)
