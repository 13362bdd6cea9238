"""The torch runner: runs any `LanguageModel` on its device. The rest of the engine works on arrays of the host."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from llmanac.adapters import AdapterRegistry
from llmanac.core.types import ALL, LAST, Batch, LanguageModel, OutputRequest, capabilities
from llmanac.generate._rows import StateRunner
from llmanac.generate.decoding import Array
from llmanac.generate.prefix_cache import PrefixCache
from llmanac.generate.schedule import READ_TOKENS
from llmanac.models.layers import LinearMap
from llmanac.models.lm import TrainedModel
from llmanac.models.soft_prompt import prime
from llmanac.models.state.pool import BlockPool

FRONT = -1  # in the place of a token where an adapter's places are


class TorchRunner(StateRunner):
    """Runs a model in torch.

    Args:
        prefix_cache: where beginnings are kept; the state is then paged.
        registry: the adapters that rows may have.
    """

    def __init__(
        self, model: LanguageModel, prefix_cache: PrefixCache | None = None, registry: AdapterRegistry | None = None
    ) -> None:
        super().__init__()
        self.model, self.prefix_cache, self.registry = model, prefix_cache, registry
        self.device = device_of(model)
        self.reads_source, self.soft_prompts = capabilities(model).reads_source, capabilities(model).soft_prompts
        self._call: Any = model if isinstance(model, torch.nn.Module) else model.forward  # a call runs a module's hooks

    @torch.inference_mode()
    def extend(
        self,
        prompts: Sequence[Sequence[int] | None],
        reserve: int,
        planned: Sequence[int] = (),
        adapters: Sequence[str | None] = (),
        images: Sequence[Any] = (),
    ) -> list[int]:
        held, names = [0] * len(prompts), list(adapters) or [None] * len(prompts)
        soft_prompts = [self._soft_prompt(name) for name in names]
        counts = [0 if own is None else own.tokens for own in soft_prompts]
        if self.prefix_cache is not None:
            given = [None if p is None else [FRONT] * n + list(p) for p, n in zip(prompts, counts, strict=True)]
            found, places = self.prefix_cache.start(given, [(name or "").encode() for name in names])
            held = [max(0, n - own) for n, own in zip(places, counts, strict=True)]
            if self._state is None or not self._state.rows:
                self._state = found
            else:
                self._state.take(found)
        elif self._state is None:
            self._state = self.model.start(len(prompts))
        else:
            self._state.extend(len(prompts))
        limit = self.model.max_length
        first = self._state.batch - len(prompts)
        new = self._state.view(first, self._state.batch)
        new.reserve(max(counts) + (reserve if limit is None else min(reserve, limit)))
        if planned and new.by_length is not None:
            new.plan([new.by_length(n + own) for n, own in zip(planned, counts, strict=True)])
        for row, image in zip(new.rows, images, strict=False):
            row.images = image
        self._names = [*self._names[:first], *names]
        for index, soft_prompt in enumerate(soft_prompts, first):
            self._prime(index, soft_prompt)
        return held

    def _prime(self, index: int, soft_prompt: Any) -> None:
        """Note what comes before a row's tokens, and read what is not the model's own."""
        if soft_prompt is not None:
            row = self._state.view(index, index + 1)
            row.rows[0].soft_tokens = soft_prompt.tokens
            if self._names[index] is not None:  # that of the model itself is read by the model
                prime(self.model, soft_prompt, row)

    arrange = torch.inference_mode()(StateRunner.arrange)
    rewind = torch.inference_mode()(StateRunner.rewind)
    mark = torch.inference_mode()(StateRunner.mark)

    @torch.inference_mode()
    def read_again(self, row: int, tokens: Sequence[int], length: int) -> None:
        self.replan(row, length)
        for at in range(0, len(tokens), READ_TOKENS):
            self.read(row, [tokens[at : at + READ_TOKENS]], every=False)

    def replan(self, row: int, length: int) -> None:
        """Empty a row, and let it be read as one of `length` tokens."""
        state, soft_prompt = self._state.view(row, row + 1), self._soft_prompt(self._names[row])
        state.rewind(None, [0])
        state.plan([state.by_length(length + (0 if soft_prompt is None else soft_prompt.tokens))])
        self._prime(row, soft_prompt)

    def _soft_prompt(self, name: str | None) -> Any:
        """What comes before a row's tokens, or None."""
        if name is not None and self.registry is not None:
            return self.registry.soft_prompts.get(name)
        soft_prompt = cast(Any, self.model).soft_prompt if self.soft_prompts else None
        return soft_prompt if soft_prompt is not None and soft_prompt.enabled else None

    def keep(self, row: int, tokens: Sequence[int]) -> None:
        if self.prefix_cache is not None and self._state.rows[row].images is None:  # tokens do not say which image
            super().keep(row, [FRONT] * self._state.rows[row].soft_tokens + list(tokens))

    def read(self, start: int, tokens: Sequence[Sequence[int]], *, every: bool, source: Any = None) -> Array:
        return on_host(self.logits(start, tokens, every, source))

    @torch.inference_mode()
    def logits(self, start: int, tokens: Sequence[Sequence[int]], every: bool, source: Any = None) -> Tensor:
        """As `read`, on the model's device."""
        state, stop = self._state, start + len(tokens)
        if self.registry is not None:
            names = self._names[start:stop]
            ends = [i for i in range(1, len(names)) if names[i] != names[i - 1]] if self.registry.one_by_one else []
            if ends:  # neighbours with the same adapter together
                parts = [
                    self.logits(start + a, tokens[a:b], every, None if source is None else source[a:b])
                    for a, b in itertools.pairwise([0, *ends, len(names)])
                ]
                longest = max(part.shape[1] for part in parts)
                return torch.cat([F.pad(part, (0, 0, 0, longest - part.shape[1])) for part in parts])
            with self.registry.rows(names):
                return self._read(state, start, stop, tokens, every, source)
        return self._read(state, start, stop, tokens, every, source)

    def _read(
        self, state: Any, start: int, stop: int, tokens: Sequence[Sequence[int]], every: bool, source: Any
    ) -> Tensor:
        if (start, stop) != (0, state.batch):
            state = state.view(start, stop)
        given = None if source is None else Batch.padded(source, device=self.device)
        batch = replace(Batch.padded(tokens, device=self.device), source=given)
        want: OutputRequest = ALL if every else LAST
        logits: Tensor = self._call(batch, state, want).logits
        return logits


def device_of(model: Any) -> torch.device:
    """Where a model's parameters are; the CPU for a model without any."""
    if isinstance(model, torch.nn.Module):
        for parameter in model.parameters():
            return parameter.device
    return torch.device("cpu")


def on_host(logits: Tensor) -> Array:
    """Logits as an array of the host, float64 or float32."""
    found: Array = (logits if logits.dtype == torch.float64 else logits.float()).numpy(force=True)
    return found


def prefix_cache(model: Any, size: int) -> PrefixCache:
    """A prefix cache of the torch runner's blocks. Raises RequestError as `PrefixCache` does."""
    return PrefixCache(lambda budget: BlockPool(model.start(1), budget=budget), partial(weights_stamp, model), size)


def weights_stamp(model: Any) -> list[tuple[Any, ...]]:
    """What changes when the weights do: each parameter's address and how often it was written to; what layers add.

    What layers add for some requests only (an engine's adapters) is not among it. Writes through `parameter.data` are
    not counted.
    """
    if not isinstance(model, torch.nn.Module):
        return []
    dtype = model.compute_dtype if "compute_dtype" in capabilities(model).settings else None
    weights = [(p.data_ptr(), p.dtype, 0 if p.is_inference() else p._version, dtype) for p in model.parameters()]
    maps = [m for m in model.modules() if isinstance(m, LinearMap)]
    changes: list[Any] = [m.own_change for m in maps if m.own_change is not None]
    changes += [m.soft_prompt for m in model.modules() if isinstance(m, TrainedModel) and m.soft_prompt is not None]
    rounded = [(id(m.through), None, True, None) for m in maps if m.through is not None]
    return [*weights, *((id(c), None, bool(c.enabled), None) for c in changes), *rounded]
