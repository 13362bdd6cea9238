"""Continuous batching: requests wait, are read (prefill), run together, and leave one by one.

Every running sequence is one row of one `State`. A prompt is read together with others of its wave, padded on the
right; its samples fork from the row (`State.select` with repeats); the rows join those that run (`State.join`); and a
row that ends leaves at once (`State.select`), so nothing is computed for it again. With a prefix cache the state is
paged, and what an earlier prompt or answer began with is not read again (`prefix_cache.py`).
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from llmanac.core.types import Batch, LanguageModel, State, Want
from llmanac.generate._requests import Request, Sequence, TokenLogprob
from llmanac.generate._sampling import choose, score_prompt
from llmanac.generate.prefix_cache import PrefixCache

PREFILL_TOKENS = 2048  # padded tokens read in one call; a longer prompt is read alone, in parts
SCORED_LOGITS = 2**25  # logits held at once while a prompt's own tokens are scored (128 MiB in float32)
ROOM = 256  # tokens of room made ahead a row, so that appending rarely reallocates


class Scheduler:
    """Runs requests on a model, a step at a time.

    Args:
        rows: how many sequences run at once; a single request with more samples than that runs alone.
        prefix_cache: where the states of prompts and answers are kept for later ones; None keeps nothing.
    """

    def __init__(self, model: LanguageModel, *, rows: int = 32, prefix_cache: PrefixCache | None = None) -> None:
        self.model = model
        self.rows = rows
        self.prefix_cache = prefix_cache
        self.waiting: deque[Request] = deque()
        self.running: list[Sequence] = []
        self._state: State | None = None
        self._call = model if isinstance(model, torch.nn.Module) else model.forward  # a call runs a module's hooks too
        self._device = device_of(model)

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.running)

    def submit(self, request: Request) -> None:
        """Queue a request; it starts as soon as there are rows for it, first come first served."""
        self.waiting.append(request)

    def cancel(self, request: Request) -> None:
        """Forget a request, waiting or running; its rows leave the batch now."""
        if request in self.waiting:
            self.waiting.remove(request)
        with self._lock():
            self._keep([s.request is not request for s in self.running])

    def reset(self) -> None:
        """Forget everything, after an error in the model."""
        self.waiting.clear()
        self.running = []
        self._become(None)

    @torch.inference_mode()
    def step(self) -> list[Sequence]:
        """Advance every running sequence by a token and start what fits; returns the sequences that moved."""
        with self._lock():
            moved = self._decode()
            for group in self._admit():
                moved += self._start(group)
            return moved

    def _lock(self) -> Any:
        """Held while blocks change hands: a prefix cache may serve another thread's scheduler too."""
        return contextlib.nullcontext() if self.prefix_cache is None else self.prefix_cache.lock

    def _become(self, state: State | None) -> None:
        """Replace the state; the old one's blocks (if it is paged) are released."""
        _close(self._state)
        self._state = state

    def _decode(self) -> list[Sequence]:
        moved = list(self.running)
        if not moved:
            return moved
        ids = torch.tensor([[s.token_logprobs[-1].id] for s in moved], device=self._device)
        logits = self._logits(Batch(ids=ids), self._state, "last")
        for sequence, score in zip(moved, choose(logits[:, -1], moved), strict=True):
            sequence.push(score)
        self._keep([s.finish_reason is None for s in moved])
        return moved

    def _logits(self, batch: Batch, state: State | None, want: Want) -> Tensor:
        logits = self._call(batch, state, want).logits
        assert logits is not None  # only want="hidden" gives none
        return logits

    def _keep(self, keep: list[bool]) -> None:
        """Drop the running rows that are not kept."""
        if all(keep):
            return
        rows = [row for row, kept in enumerate(keep) if kept]
        if self.prefix_cache is not None:
            for row, sequence in enumerate(self.running):
                if not keep[row]:
                    read = (*sequence.request.prompt, *(score.id for score in sequence.token_logprobs))
                    self.prefix_cache.keep(self._state, row, read)
        self.running = [self.running[row] for row in rows]
        if self._state is not None:
            self._become(self._state.select(torch.tensor(rows, device=self._device)) if rows else None)

    def _admit(self) -> Iterator[list[Request]]:
        """Groups of waiting requests to read in one call each."""
        free = self.rows - len(self.running)
        wave: list[Request] = []
        while self.waiting and (len(self.waiting[0].sequences) <= free or not (self.running or wave)):
            wave.append(self.waiting.popleft())
            free -= len(wave[-1].sequences)
        group: list[Request] = []
        for request in sorted(wave, key=lambda r: (r.prompt_logprobs is not None, len(r.prompt))):
            mixed = group and (group[0].prompt_logprobs is None) != (request.prompt_logprobs is None)
            if mixed or ((len(group) + 1) * len(request.prompt) > self._budget(request) and group):
                yield group
                group = []
            group.append(request)
        if group:
            yield group

    def _budget(self, request: Request) -> int:
        if request.prompt_logprobs is None:
            return PREFILL_TOKENS
        return max(1, min(PREFILL_TOKENS, SCORED_LOGITS // self.model.vocab_size))

    def _start(self, group: list[Request]) -> list[Sequence]:
        """Read a group's prompts, give each sequence its first token, and let those that go on join the batch."""
        state, logits = self._prefill(group)
        fork = [row for row, request in enumerate(group) for _ in request.sequences]
        moved = [sequence for request in group for sequence in request.sequences]
        going = [i for i, s in enumerate(moved) if s.request.max_new_tokens]
        if going:
            last = logits[torch.tensor([fork[i] for i in going], device=logits.device)]
            for i, score in zip(going, choose(last, [moved[i] for i in going]), strict=True):
                moved[i].push(score)
        for sequence in moved:
            if not sequence.request.max_new_tokens:
                sequence.finish("length")
        rows = [i for i, s in enumerate(moved) if s.finish_reason is None]
        if rows:
            chosen = [fork[i] for i in rows]
            if chosen != list(range(len(group))):
                forked = state.select(torch.tensor(chosen, device=self._device))
                _close(state)
                state = forked
            if self._state is None:
                self._state = state
            else:
                self._become(self._state.join(state))
                _close(state)
            self.running += [moved[i] for i in rows]
        else:
            _close(state)
        return moved

    def _prefill(self, group: list[Request]) -> tuple[State, Tensor]:
        """The state after the prompts of a group, and the logits (B, V) of what follows each.

        A group of several fits one call; a single prompt may take several.
        """
        scored = group[0].prompt_logprobs is not None
        state, prompts = self._begin(group)
        longest = max(map(len, prompts))
        ahead = min(ROOM, max(r.max_new_tokens for r in group))
        state.reserve(longest + ahead if self.model.max_length is None else min(longest + ahead, self.model.max_length))
        part = self._budget(group[0]) if len(group) == 1 else longest
        for request in group:
            request.prompt_token_logprobs = [TokenLogprob(request.prompt[0], None)] if scored else []
        for start in range(0, longest, part):
            batch = Batch.padded([prompt[start : start + part] for prompt in prompts], device=self._device)
            out = self._logits(batch, state, "all" if scored else "last")
            if scored:
                self._score(group, out, start)
        if self.prefix_cache is not None:
            for row, request in enumerate(group):
                self.prefix_cache.keep(state, row, request.prompt)
        if not scored:
            return state, out[:, -1]
        ends = torch.tensor([(len(prompt) - 1) % part for prompt in prompts], device=out.device)
        return state, out[torch.arange(len(group), device=out.device), ends]

    def _begin(self, group: list[Request]) -> tuple[State, list[tuple[int, ...]]]:
        """A state for a group, and what of each prompt it does not hold yet (all of it without a prefix cache)."""
        if self.prefix_cache is None:
            return self.model.start(len(group)), [r.prompt for r in group]
        state, held = self.prefix_cache.start([r.prompt if r.prompt_logprobs is None else None for r in group])
        for request, count in zip(group, held, strict=True):
            request.cached_tokens = count
        return state, [r.prompt[count:] for r, count in zip(group, held, strict=True)]

    def _score(self, group: list[Request], logits: Tensor, start: int) -> None:
        """Score the prompt tokens that follow the places `start` to `start + T` of each row; logits (B, T, V)."""
        for request, row in zip(group, logits, strict=True):
            targets = request.prompt[start + 1 : start + 1 + len(row)]
            if targets:
                alternatives = request.prompt_logprobs or 0
                request.prompt_token_logprobs += score_prompt(row[: len(targets)], targets, alternatives)


def _close(state: Any) -> None:
    """Release the blocks of a state that is no longer needed, if it is paged."""
    close = getattr(state, "close", None)
    if close is not None:
        close()


def device_of(model: Any) -> torch.device:
    """Where a model's parameters are; the CPU for a model without any."""
    if isinstance(model, torch.nn.Module):
        for parameter in model.parameters():
            return parameter.device
    return torch.device("cpu")
