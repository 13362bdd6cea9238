"""Rows whose answers the student writes itself, as a source: on-policy distillation (GKD).

A row is a prompt and an answer with loss. With the probability `share` its answer is replaced by one that is sampled
from the model as it is then; the objective compares teacher and student on either, so the student is taught at the
places that it reaches by itself (Agarwal et al. 2024, arXiv:2306.13649, algorithm 1; `share` is lambda there).

What is sampled follows from the seed, the step and the weights: a training that was killed goes on bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from llmanac.core.errors import SpecError
from llmanac.core.rng import numpy_generator
from llmanac.core.types import SourceState
from llmanac.data.pack import ListStream
from llmanac.generate.engine import Engine

Pair = tuple[np.ndarray, np.ndarray]


class OnPolicy:
    """A `Source` of `(ids, loss mask)`; see the module.

    Args:
        rows: of a prompt and an answer; `count` of them a step. What comes before the first token with loss is the
            prompt, and a row without a prompt is always read as it is.
        engine: of the model that is trained, by the same tensors.
        share: of the rows that are answered anew; tokens: the longest answer; temperature: of sampling.
    """

    def __init__(
        self, rows: Sequence[Pair], engine: Engine, *, count: int, share: float, tokens: int, seed: int,
        temperature: float = 1.0,
    ) -> None:  # fmt: skip
        if not 0 < share <= 1:
            raise SpecError(f"on_policy: {share} is not above 0 and at most 1")
        self.stream = ListStream(rows, rows=count, seed=seed, name="rows")
        self.engine, self.share, self.tokens, self.seed, self.temperature = engine, share, tokens, seed, temperature
        self.steps = 0

    def __iter__(self) -> OnPolicy:
        return self

    def __next__(self) -> list[Pair]:
        """The rows of one step."""
        rows = list(next(self.stream))
        draw = numpy_generator(self.seed, "on-policy", self.steps)
        begins = [int(np.argmax(mask)) for _, mask in rows]
        new = [n for n, begin in enumerate(begins) if draw.random() < self.share and begin > 0]
        self.steps += 1
        if not new:
            return rows
        self.engine.sync()
        found = self.engine.generate(
            [rows[n][0][: begins[n]].tolist() for n in new], seed=int(draw.integers(1 << 62)), logprobs=0,
            max_new_tokens=self.tokens, temperature=self.temperature,
        )  # fmt: skip
        for n, answer in zip(new, found, strict=True):
            ids = np.array([*rows[n][0][: begins[n]], *(token.id for token in answer.token_logprobs)], np.int64)
            rows[n] = ids, np.arange(len(ids)) >= begins[n]
        return rows

    def sample_rows(self) -> list[Pair]:
        """Rows of the largest shape that cost nothing, for planning."""
        ids, _ = max(self.stream.items[:64], key=lambda row: len(row[0]))
        ids = np.r_[ids, np.repeat(ids[-1:], self.tokens)]
        return [(ids, np.arange(len(ids)) >= len(ids) - self.tokens)] * self.stream.rows

    def state(self) -> SourceState:
        """Where it is: its rows and its steps."""
        return {"rows": self.stream.state()[0], "steps": self.steps}, {}

    def restore(self, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Continue from a `state`. Raises DataError where it belongs to other rows."""
        self.stream.restore(state["rows"], {})
        self.steps = int(state["steps"])
