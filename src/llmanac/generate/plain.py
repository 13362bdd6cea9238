"""Generation in its shortest form: one text at a time, without batching, pages, a scheduler or drafts.

    state = nothing read;  logits = model(prompt, state)
    repeat:  token = choose(logits);  logits = model(token, state)        until an end token or the limit

The state holds the keys and values of what was read, so a step reads one token only (`cached`); without it every step
reads the complete text again (`uncached`) and finds the same logits. `beams` keeps the best few texts and copies the
state of those that go on. The engine does the same for many requests together; tests hold its tokens equal to these.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from llmanac.core.types import LanguageModel, State
from llmanac.generate.decoding import Array, DecodingSpec, compose, largest, log_softmax
from llmanac.generate.requests import Noise
from llmanac.generate.runner import on_host

ROWS = ("serve/kv-cache", "decode/greedy", "decode/beam")  # whose pages show this file
Scored = tuple[float, list[int]]  # a text's log-probability and its tokens
Choose = Callable[[Array, "PlainText"], int]  # logits (V,) and the text so far -> a token


@dataclass
class PlainText:
    """A prompt and what was generated after it: what a decoding method may look at."""

    prompt_ids: list[int]
    ids: list[int]


def best(logits: Array, text: PlainText) -> int:
    """Greedy decoding: the most probable token, the first of equals."""
    return int(logits.argmax())


def sampler(methods: Sequence[DecodingSpec], noise: Noise) -> Choose:
    """Draw from what the methods leave, by the Gumbel-max trick: argmax_v (z_v + g_v), with Gumbel noise g."""
    reshape = compose(tuple(methods))

    def draw(logits: Array, text: PlainText) -> int:
        return int((reshape(logits[None], [text])[0] + noise.take(len(logits))).argmax())

    return draw


def _next(model: LanguageModel, rows: list[list[int]], state: State | None = None) -> Array:
    """The logits (B, V) of the token after each row."""
    logits = model.forward(torch.tensor(rows), state).logits
    assert logits is not None
    return on_host(logits[:, -1])


@torch.inference_mode()
def cached(model: LanguageModel, prompt: Sequence[int], choose: Choose = best) -> Iterator[int]:
    """Tokens without end; each step reads the token before it, and the state remembers the rest."""
    text, state = PlainText(list(prompt), []), model.start(1)
    read = text.prompt_ids
    while True:
        logits = _next(model, [read], state)[0]
        read = [choose(logits, text)]
        text.ids += read
        yield read[0]


@torch.inference_mode()
def uncached(model: LanguageModel, prompt: Sequence[int], choose: Choose = best) -> Iterator[int]:
    """The same tokens; each step reads everything again."""
    text = PlainText(list(prompt), [])
    while True:
        logits = _next(model, [text.prompt_ids + text.ids])[0]
        text.ids.append(choose(logits, text))
        yield text.ids[-1]


def generate(tokens: Iterator[int], limit: int, stop: Sequence[int] = ()) -> list[int]:
    """At most `limit` tokens, up to and with the first of `stop`."""
    found: list[int] = []
    while len(found) < limit and not (found and found[-1] in stop):
        found.append(next(tokens))
    return found


@torch.inference_mode()
def beams(model: LanguageModel, prompt: Sequence[int], width: int, limit: int, stop: int) -> list[Scored]:
    """Beam search: the `width` best finished texts with their log-probabilities, best first (no length penalty)."""
    state, read = model.start(1), [list(prompt)]
    kept: list[Scored] = [(0.0, [])]
    finished: list[Scored] = []
    for _ in range(limit):
        logprobs = log_softmax(_next(model, read, state))
        total = logprobs + np.array([[score] for score, _ in kept], logprobs.dtype)
        # twice as many: at most `width` of them end
        scores, places = (found[0] for found in largest(total.reshape(1, -1), 2 * width))
        going: list[tuple[float, list[int], int]] = []
        for rank, (score, place) in enumerate(zip(scores.tolist(), places.tolist(), strict=True)):
            row, token = divmod(place, logprobs.shape[1])
            if token == stop and rank < width:
                finished.append((score, [*kept[row][1], token]))
            elif token != stop and len(going) < width:
                going.append((score, [*kept[row][1], token], row))
        kept = [(score, ids) for score, ids, _ in going]
        worst = sorted(score for score, _ in finished)[-width] if len(finished) >= width else -math.inf
        if kept[0][0] <= worst:
            break
        state = state.select(torch.tensor([row for _, _, row in going]))
        read = [[ids[-1]] for _, ids in kept]
    return sorted(finished + kept if len(finished) < width else finished, reverse=True)[:width]
