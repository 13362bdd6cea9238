"""The native runner: Llama-shaped models on a CPU, compiled by numba; what it computes with is in `kernels/infer`.

    Engine(model, tokenizer, runner="native")

It differs from the torch runner in the forward pass alone: rows, blocks, prefix cache and scheduling are the same. Its
rows are always paged. A row's logits are bitwise those that it has alone, whatever else is in the batch, how its prompt
was cut into pieces and what a cache gave; in float32 they are the model's own but for rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmanac.core.errors import RequestError
from llmanac.generate._native_model import LINES, PART, NativeModel, refusal
from llmanac.generate.prefix_cache import PrefixCache
from llmanac.generate.runner import StateRunner
from llmanac.models.state.paged import PagedState
from llmanac.models.state.pool import BlockPool

__all__ = ["NativeModel", "NativeRunner", "refusal"]


class NativeRunner(StateRunner):
    """Runs a `NativeModel`; see `runner.Runner`.

    Args:
        prefix_cache: one whose blocks are those of the native model (`like=native.start`), or None.

    Raises:
        RequestError: a prefix cache whose blocks are another runner's.
    """

    def __init__(self, native: NativeModel, prefix_cache: PrefixCache | None = None) -> None:
        self.native, self.prefix_cache = native, prefix_cache
        if prefix_cache is not None and [x.stores[0].shape[2:] for x in prefix_cache.pool.layers if x] != [
            native.start().layers[0].tensors[0].shape[1::2]
        ]:
            raise RequestError("prefix_cache: its blocks are another runner's; use Engine.keep_prefixes")
        self._pool = None if prefix_cache is not None else BlockPool(native.start(), block_tokens=native.block_tokens)

    def extend(
        self,
        prompts: Sequence[Sequence[int] | None],
        reserve: int,
        planned: Sequence[int] = (),
        adapters: Sequence[str | None] = (),
    ) -> list[int]:
        with self.native.lock:
            if self.native.changed():
                self.native.sync()
        if self.prefix_cache is not None:
            found, held = self.prefix_cache.start(prompts)
        else:
            assert self._pool is not None
            found, held = PagedState.start(self._pool, len(prompts)), [0] * len(prompts)
        limit = self.native.model.max_length
        found.reserve(reserve if limit is None else min(reserve, limit))
        if self._state is None or not self._state.rows:
            self._state = found
        else:
            self._state.take(found)
        return held

    def read(self, start: int, tokens: Sequence[Sequence[int]], *, every: bool, source: Any = None) -> Tensor:
        with self.native.lock:  # schedulers of other threads may use the same native model
            return self._read(start, tokens, every)

    def _read(self, start: int, tokens: Sequence[Sequence[int]], every: bool) -> Tensor:
        state = self._state
        vocabulary, pool = self.native.model.vocab_size, state.pool.layers[0]
        assert pool is not None
        counts = [len(given) for given in tokens]
        if (start, start + len(tokens)) != (0, state.batch):
            state = state.view(start, start + len(tokens))
        before = state.counts
        blocks = state.claim(counts).numpy()
        rows = np.repeat(np.arange(len(tokens)), counts)
        first = np.repeat(np.cumsum(counts) - counts, counts)
        steps = np.arange(len(rows)) - first
        places, ids = np.array(before)[rows] + steps, [i for given in tokens for i in given]
        ends = np.repeat(np.cumsum(counts), counts)
        length = max(counts) if every else 1
        width = -(-vocabulary // PART) * PART
        logits = torch.empty(len(tokens) * length, width)
        if every and min(counts) < length:
            logits.zero_()
        # the lines whose logits are kept, and where they go
        wanted = np.arange(len(rows)) if every else ends[steps == 0] - 1
        target = rows * length + steps if every else np.arange(len(tokens))
        for begin in range(0, len(rows), LINES):
            end = min(begin + LINES, len(rows))
            own = np.flatnonzero((wanted >= begin) & (wanted < end))
            direct = len(own) > 0 and target[own[-1]] - target[own[0]] == len(own) - 1
            out = logits[target[own[0]] : target[own[-1]] + 1] if direct else torch.empty(len(own), width)
            store = pool.stores
            self.native.run(
                ids[begin:end], places[begin:end], rows[begin:end], np.minimum(ends[begin:end], end) - begin, blocks,
                wanted[own] - begin, (store[0], store[1]), out,
            )  # fmt: skip
            if not direct and len(own):
                logits[torch.from_numpy(target[own])] = out
        for row, count in zip(state.rows, counts, strict=True):
            row.count += count
        return logits.view(len(tokens), length, width)[..., :vocabulary]
