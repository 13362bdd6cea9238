"""Small models on made-up tokens: what the studies of recall, depth, recurrent memory and fine-tuning share."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evidence._page import with_interval
from llmanac.core import files
from llmanac.core.rng import numpy_generator, parameter_generator
from llmanac.core.spec import make_method
from llmanac.core.types import IGNORE, Batch, LossSum
from llmanac.lab.stats import mean
from llmanac.models.layers import init_normal
from llmanac.objectives import BaseObjective
from llmanac.train._trained import optimized, trained_modules
from llmanac.train.step import Stepper

WORK = Path(__file__).resolve().parent.parent / "studies" / "evidence"  # what `run.py` removes with a page's seeds
Rows = tuple[np.ndarray, np.ndarray]  # ids (B, T) or (B, n T), targets (B, T)


class Answers(BaseObjective):
    """The objective of rows (ids, targets) of one length: the loss at the places that have a target."""

    def collate(self, rows: Sequence[Any]) -> Batch:
        ids, targets = (torch.from_numpy(np.stack(part)) for part in zip(*rows, strict=True))
        return Batch(ids=ids, targets=targets)

    def loss(self, model: Any, batch: Batch) -> LossSum:
        return model.nll(embedded(model, batch.ids, batch.targets)), batch.units, {}


def embedded(model: Any, ids: Tensor | None, targets: Tensor | None = None) -> Batch:
    """The batch a model reads. Where there are several ids a place, (B, n T) for targets (B, T), it reads their sum."""
    assert ids is not None
    if targets is None or targets.shape == ids.shape:
        return Batch(ids=ids, targets=targets)
    return Batch(embeddings=model.embed(ids).unflatten(1, (targets.shape[1], -1)).sum(2), targets=targets)


def fit(model: Any, draw: Callable[[np.random.Generator], Any], steps: int, *, lr: float, schedule: Any, seed: int,
        most: float = 1e9, objective: Any = None, every: int = 0, look: Callable[[int], Any] | None = None,
        dtype: torch.dtype = torch.float32) -> list[float]:  # fmt: skip
    """Train in place with AdamW, without decay; returns the loss of every step, up to one that is above `most`.

    Models of one seed see the same rows. `objective` is `Answers` unless it is given; `look` is called with the number
    of steps after each `every` steps.
    """
    objective = objective or Answers()
    trained = optimized(trained_modules(model, objective))
    optimizer = make_method("optimizer", {"name": "adamw", "lr": lr, "weight_decay": 0.0}).build(model=trained)
    scale, rng, losses = make_method("schedule", schedule).build(steps=steps), numpy_generator(seed, "rows"), []
    model.train()
    with tempfile.TemporaryDirectory() as folder:
        step = Stepper(model, objective, optimizer, micro_batch=1 << 20, clip=1.0, dtype=dtype,
                       folder=Path(folder))  # fmt: skip
        for number in range(steps):
            losses.append(step(list(zip(*draw(rng), strict=True)), scale(number), number).loss)
            if not losses[-1] <= most:
                break
            if look is not None and (number + 1) % every == 0:
                model.eval()
                look(number + 1)
                model.train()
    model.eval()
    return losses


@torch.no_grad()
def right(model: Any, rows: Rows) -> np.ndarray:
    """(B, T): 1 where the most probable token is the target, 0 where it is not, NaN where there is none."""
    ids, targets = (torch.from_numpy(part) for part in rows)
    said = model(embedded(model, ids, targets)).logits.argmax(-1)
    return np.where(targets == IGNORE, np.nan, said == targets)


@torch.no_grad()
def writing(model: Any, seed: int) -> Any:
    """Draw the matrices that start at 0, those that write to the residual stream, like all others; returns the model.

    A recurrent layer whose output starts at 0 gets no gradient through time before that has grown.
    """
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and not parameter.any():
            generator = parameter_generator(seed, name, tuple(parameter.shape))
            init_normal(parameter, parameter.shape[1] ** -0.5, generator)
    return model


def once(study: str, run: str, make: Callable[[], Any]) -> Any:
    """The result of one run of a study, kept until its page is written, so that an interrupted study goes on."""
    path = WORK / study / f"{run}.json"
    if not path.exists():
        files.write_json(path, make())
        print(f"{study}: {run}", flush=True)
    return files.read_json(path)


def percent(values: Sequence[float]) -> str:
    """A mean of fractions with half its interval, in percent."""
    return f"{with_interval([100 * value for value in values], 0)}"


def verdict(holds: bool, words: str) -> str:
    """A finding: whether a part of the claim holds, and its numbers."""
    return f"{'Holds' if holds else 'Does not hold'}: {words}"


def over(seeds: Sequence[dict[str, Any]], *path: Any) -> list[float]:
    """One number of each seed, by its path."""
    found = []
    for value in seeds:
        for name in path:
            value = value[name]
        found.append(float(value))
    return found


def average(seeds: Sequence[dict[str, Any]], *path: Any) -> float:
    """The mean of `over`."""
    return mean(over(seeds, *path))
