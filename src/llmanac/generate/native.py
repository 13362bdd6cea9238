"""The native runner: Llama-shaped models on a CPU, compiled by numba; what it computes with is in `kernels/infer`.

    Engine(model, tokenizer, runner="native")

It differs from the torch runner in the forward pass alone: rows, blocks, prefix cache and scheduling are the same. Its
rows are always paged. A row's logits are bitwise those that it has alone, whatever else is in the batch, how its prompt
was cut into pieces and what a cache gave; in float32 they are the model's own but for rounding.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llmanac.core.errors import RequestError
from llmanac.generate._native_model import LINES, PART, NativeModel
from llmanac.generate._rows import StateRunner
from llmanac.generate.decoding import Array
from llmanac.generate.prefix_cache import PrefixCache
from llmanac.models.state.paged import PagedState

if TYPE_CHECKING:
    from llmanac.adapters import AdapterRegistry

__all__ = ["NativeModel", "NativeRunner"]


class NativeRunner(StateRunner):
    """Runs a `NativeModel`; see `runner.Runner`.

    Args:
        prefix_cache: one whose blocks are those of the native model (`like=native.start`), or None.
        registry: the adapters that rows may have; read when a request begins.

    Raises:
        RequestError: a prefix cache whose blocks are another runner's.
    """

    def __init__(
        self, native: NativeModel, prefix_cache: PrefixCache | None = None, registry: AdapterRegistry | None = None
    ) -> None:
        super().__init__()
        self.native, self.prefix_cache, self.registry = native, prefix_cache, registry
        self._terms: dict[str, Any] = {}
        pool = native.pool() if prefix_cache is None else prefix_cache.pool
        own, held = ([(x.shape[1:], x.dtype) for x in one.stores()] for one in (native.pool(), pool))
        if own != held:
            raise RequestError("prefix_cache: its blocks are another runner's; use Engine.keep_prefixes")
        self._logits = np.zeros((0, 0), np.float32)
        self._pool = pool

    def extend(
        self,
        prompts: Sequence[Sequence[int] | None],
        reserve: int,
        planned: Sequence[int] = (),
        adapters: Sequence[str | None] = (),
        images: Sequence[Any] = (),
    ) -> list[int]:
        with self.native.lock:
            if self.native.changed():
                self.native.sync()
        names = list(adapters) or [None] * len(prompts)
        if self.registry is not None:
            from llmanac.generate._native_terms import Terms

            self._terms |= {name: Terms(self.registry, name) for name in set(names) if name is not None}
        if self.prefix_cache is not None:
            found, held = self.prefix_cache.start(prompts, [(name or "").encode() for name in names])
        else:
            found, held = PagedState.start(self._pool, len(prompts)), [0] * len(prompts)
        limit = self.native.model.max_length
        found.reserve(reserve if limit is None else min(reserve, limit))
        if self._state is None or not self._state.rows:
            self._state = found
        else:
            self._state.take(found)
        self._names += names
        return held

    def read(self, start: int, tokens: Sequence[Sequence[int]], *, every: bool, source: Any = None) -> Array:
        with self.native.lock:  # schedulers of other threads may use the same native model
            return self._read(start, tokens, every)

    def _read(self, start: int, tokens: Sequence[Sequence[int]], every: bool) -> Array:
        state = self._state
        vocabulary, pool = self.native.model.vocab_size, state.pool.layers[0]
        counts = [len(given) for given in tokens]
        if (start, start + len(tokens)) != (0, state.batch):
            state = state.view(start, start + len(tokens))
        before = np.array(state.counts)
        blocks = state.claim(counts)
        length = max(counts) if every else 1
        width = -(-vocabulary // PART) * PART
        logits = self._room(len(tokens) * length, width)
        store, names = (pool.stores[0], pool.stores[1]), self._names[start : start + len(tokens)]
        used = sorted({name for name in names if name is not None})
        shape = (len(used), len(self.native.source.shape.windows), 7, 3)
        terms = np.array([self._terms[name].table for name in used], np.int64).reshape(shape)
        chosen = np.array([-1 if name is None else used.index(name) for name in names])
        if len(tokens) <= LINES and max(counts) == 1:  # a step of decoding: a line a row, each of them wanted
            lines = np.arange(len(tokens))
            ids = [given[0] for given in tokens]
            self.native.run(ids, before, lines, lines + 1, blocks, lines, store, logits, terms, chosen)
        else:
            self._pieces(tokens, before, blocks, store, logits, every, terms, chosen)
        for row, count in zip(state.rows, counts, strict=True):
            row.count += count
        found = logits.reshape(len(tokens), length, width)[..., :vocabulary]
        if self.native.head_bias is not None:
            found += self.native.head_bias
        cap = self.native.source.shape.softcap
        return found if cap is None else np.tanh(found / np.float32(cap)) * np.float32(cap)

    def _room(self, lines: int, width: int) -> np.ndarray[Any, Any]:
        """Memory for logits: that of the last ones, if nobody has them any more, since new memory costs page faults."""
        if self._logits.shape != (lines, width) or sys.getrefcount(self._logits) > 2:
            self._logits = np.zeros((lines, width), np.float32)
        return self._logits

    def _pieces(
        self, tokens: Sequence[Sequence[int]], before: np.ndarray[Any, Any], blocks: np.ndarray[Any, Any],
        store: tuple[Array, Array], logits: np.ndarray[Any, Any], every: bool, terms: np.ndarray[Any, Any],
        chosen: np.ndarray[Any, Any],
    ) -> None:  # fmt: skip
        """Lines of several tokens a row, as many a pass as there is room for."""
        counts = [len(given) for given in tokens]
        rows = np.repeat(np.arange(len(tokens)), counts)
        first = np.repeat(np.cumsum(counts) - counts, counts)
        steps = np.arange(len(rows)) - first
        places, ids = before[rows] + steps, [i for given in tokens for i in given]
        ends = np.repeat(np.cumsum(counts), counts)
        # the lines whose logits are kept, and where they go
        wanted = np.arange(len(rows)) if every else ends[steps == 0] - 1
        target = rows * (len(logits) // len(tokens)) + steps if every else np.arange(len(tokens))
        for begin in range(0, len(rows), LINES):
            end = min(begin + LINES, len(rows))
            own = np.flatnonzero((wanted >= begin) & (wanted < end))
            direct = len(own) > 0 and target[own[-1]] - target[own[0]] == len(own) - 1
            out = (
                logits[target[own[0]] : target[own[-1]] + 1]
                if direct
                else np.empty((len(own), logits.shape[1]), np.float32)
            )
            self.native.run(
                ids[begin:end], places[begin:end], rows[begin:end], np.minimum(ends[begin:end], end) - begin, blocks,
                wanted[own] - begin, store, out, terms, chosen[rows[begin:end]],
            )  # fmt: skip
            if not direct and len(own):
                logits[target[own]] = out

    def best(self, logits: Array) -> list[tuple[Any, ...]] | None:
        """See `_sampling.choose`; None where a logit is not a finite number."""
        from llmanac.kernels.infer.best import best

        ids, numbers = np.empty(len(logits), np.int64), np.empty((len(logits), 2), np.float32)
        if not best(logits, logits.shape[1], ids, numbers):
            return None
        return [(i, own, {}, lead) for i, (own, lead) in zip(ids.tolist(), numbers.tolist(), strict=True)]
