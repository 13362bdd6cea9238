"""Log-likelihoods of continuations and of texts under any `LanguageModel`, by the rules of lm-eval.

    log P(continuation | context) = sum over its tokens of ln p(token | all before it)

The rules, so that figures can be compared with published ones:

- Context and continuation become token ids by `models/pairs.py`.
- What is too long for the model loses tokens on the left. (A continuation too long by itself, which lm-eval refuses, is
  read in windows.)
- Texts are read in windows: each token is predicted once, and every window after the first sees `context`
  tokens before its first prediction. lm-eval's is 1, the least that is possible; more is slower and fairer.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from llmanac.core.errors import DataError, RequestError
from llmanac.core.progress import progress
from llmanac.core.types import ALL, IGNORE, LAST, Batch, OutputRequest, State, evaluating
from llmanac.generate.runner import device_of
from llmanac.generate.windows import WINDOW, batches, windows
from llmanac.metrics.log_likelihood import log_likelihood
from llmanac.models.pairs import encode_pair

BATCH_TOKENS = 4096
SHARED = 48  # tokens with which contexts begin alike, from which on these are read once
LOGITS = 2**23  # logits held at once (64 MiB in float64)

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Likelihood:
    """The likelihood of one continuation.

    Attributes:
        ids: its tokens.
        logprobs: the natural log-probability of each.
        greedy: whether each was the most probable token, so that greedy decoding generates it.
        seen: tokens of context that were read; fewer than there are if the pair is too long for the model.
    """

    ids: Ids
    logprobs: tuple[float, ...]
    greedy: bool
    seen: int

    @property
    def total(self) -> float:
        """Log-likelihood in nats."""
        return log_likelihood(self.logprobs)

    def __iter__(self) -> Iterator[Any]:
        """`total, greedy = one`: the pair that lm-eval returns."""
        return iter((self.total, self.greedy))


def check_texts(texts: Sequence[Any]) -> None:
    """Raises DataError for anything that is not a text."""
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise DataError(f"texts: item {number} is {type(text).__name__}, not a text")


@torch.inference_mode()
def loglikelihood(
    model: Any,
    tokenizer: Any,
    pairs: Sequence[tuple[str, str]],
    *,
    batch_tokens: int = BATCH_TOKENS,
    label: str | None = "score",
) -> list[Likelihood]:
    """The likelihood of each continuation after its context; equal to lm-eval's for the same model.

    A context that several continuations share is read once; so is a continuation's beginning where only the last token
    differs (the letters of a multiple choice), and the beginning of contexts that share examples. Sums are in float64,
    of logits in the model's own dtype.

    Args:
        pairs: (context, continuation); either may be empty; an empty continuation has the log-likelihood 0.
        batch_tokens: about how many tokens go through the model at once; changes no figure but for rounding.
        label: of the progress line; None shows none.

    Raises:
        DataError: see `encode_pair`.
    """
    if isinstance(pairs, str) or any(isinstance(pair, str) or len(pair) != 2 for pair in pairs):
        raise DataError("pairs: expected a list of (context, continuation)")
    rows: dict[tuple[Ids, Ids], list[tuple[int, int]]] = {}  # (context, what is read after it) -> (item, last token)
    found: dict[int, Likelihood] = {}
    long: dict[int, tuple[list[int], list[int]]] = {}
    for item, (context, continuation) in enumerate(pairs):
        start, rest = encode_pair(tokenizer, context, continuation)
        limit = model.max_length
        if not rest:
            found[item] = Likelihood((), (), True, len(start))
        elif limit is not None and len(rest) > limit:
            long[item] = ([start[-1]], rest)
        else:
            start = start if limit is None else start[-(limit + 1 - len(rest)) :]
            rows.setdefault((tuple(start), tuple(rest[:-1])), []).append((item, rest[-1]))
    contexts: dict[Ids, list[Ids]] = {}
    for context_ids, read in rows:
        contexts.setdefault(context_ids, []).append(read)
    shown = contextlib.nullcontext() if label is None else progress(label, total=len(pairs), unit="texts")
    with evaluating(model), shown as bar:
        for base, shared, group in _groups(model, contexts, batch_tokens):
            for key, logprobs, best in _after(model, group, contexts, batch_tokens, base, shared):
                start_ids, read = key
                own = logprobs[np.arange(len(read)), list(read)]
                for item, last in rows[key]:
                    ids = (*read, last)
                    values = (*own.tolist(), float(logprobs[len(read), last]))
                    found[item] = Likelihood(ids, values, best == ids, len(start_ids))
                if bar is not None:
                    bar.advance(len(rows[key]))
        for item, (start, rest) in long.items():
            found[item] = _in_windows(model, start, rest)
    return [found[item] for item in range(len(pairs))]


def _groups(
    model: Any, contexts: dict[Ids, list[Ids]], batch_tokens: int
) -> Iterator[tuple[State | None, int, list[Ids]]]:
    """Contexts of similar length that are read together, with the state of the tokens that all of them begin with and
    the number of these; contexts of one token need no reading ahead."""
    families: dict[Ids, list[Ids]] = {}
    apart = _by_length(model)
    for ids in contexts:
        families.setdefault(() if apart or len(ids) <= SHARED + 1 else ids[:SHARED], []).append(ids)
    alone = families.pop((), [])
    for key in [key for key, family in families.items() if len(family) == 1]:
        alone += families.pop(key)
    yield from ((None, 0, group) for group in _batches(alone, 0, batch_tokens))
    for family in families.values():
        first, last, shortest = min(family), max(family), min(map(len, family))
        differ = (place for place, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
        shared = min(
            next(differ, shortest), shortest - 2
        )  # each context has a token of its own to read, and a last one
        base = model.start(1)
        for at in range(0, shared, batch_tokens):
            _read(model, [first[at : min(at + batch_tokens, shared)]], base, LAST)
        yield from ((base, shared, group) for group in _batches(family, shared, batch_tokens))


def _batches(contexts: Sequence[Ids], shared: int, batch_tokens: int) -> Iterator[list[Ids]]:
    """Contexts of similar length, together at most about so many tokens to read."""
    group: list[Ids] = []
    for ids in sorted(contexts, key=len):
        rows = len(group) + 1
        full = rows * (len(ids) - shared) > batch_tokens or rows * len(ids) > 4 * batch_tokens
        if group and (full or len(group[0]) == 1 < len(ids)):
            yield group
            group = []
        group.append(ids)
    if group:
        yield group


def _after(
    model: Any, group: list[Ids], contexts: dict[Ids, list[Ids]], batch_tokens: int, base: State | None, shared: int
) -> Iterator[tuple[tuple[Ids, Ids], np.ndarray, Ids]]:
    """`(key, logprobs (T, V) float64, most probable ids)` of all that follows the contexts of a group."""
    zeros = torch.zeros(len(group), dtype=torch.int64, device=device_of(model))
    whole = _by_length(model)
    state: Any = model.start(len(group)) if base is None else base.select(zeros)
    if len(group[0]) > 1 and not whole:
        heads = [ids[shared:-1] for ids in group]
        part = batch_tokens if len(group) == 1 else max(map(len, heads))
        for at in range(0, max(map(len, heads)), part):
            _read(model, [head[at : at + part] for head in heads], state, LAST)
    tails = sorted(((row, read) for row, ids in enumerate(group) for read in contexts[ids]), key=lambda t: len(t[1]))
    most = max(1, min(batch_tokens, LOGITS // model.vocab_size))
    at = 0
    while at < len(tails):
        stop = at + 1
        head = len(group[-1]) if whole else 1  # tokens of contexts that are read with what follows
        while stop < len(tails) and (stop + 1 - at) * (len(tails[stop][1]) + head) <= most:
            stop += 1
        chosen, at = tails[at:stop], stop
        own = state.select(torch.tensor([row for row, _ in chosen], device=device_of(model)))
        inputs = [(*group[row][-head:], *read) for row, read in chosen]
        if whole:
            own.plan(list(map(len, inputs)))
        longest = max(map(len, inputs))
        part = most if len(inputs) == 1 else longest
        logits = [_read(model, [x[i : i + part] for x in inputs], own, ALL) for i in range(0, longest, part)]
        for place, (row, read) in enumerate(chosen):
            mine = torch.cat([part[place] for part in logits])[: len(inputs[place])][-len(read) - 1 :]
            best = tuple(mine.argmax(dim=-1).tolist())
            yield (group[row], read), mine.double().log_softmax(dim=-1).cpu().numpy(), best


def _by_length(model: Any) -> bool:
    """Whether positions depend on how long a row is: then what rows begin with cannot be shared."""
    return model.start(1).by_length is not None


def _read(model: Any, rows: Sequence[Sequence[int]], state: State, want: OutputRequest) -> torch.Tensor:
    """Logits (B, T, V) or (B, 1, V) of rows that follow what the state holds."""
    call = model if isinstance(model, torch.nn.Module) else model.forward
    logits: torch.Tensor = call(Batch.padded(rows, device=device_of(model)), state, want).logits
    return logits


def _in_windows(model: Any, start: list[int], rest: list[int]) -> Likelihood:
    """A continuation that is longer than the model's context, in windows that follow one another."""
    values: list[float] = []
    best: list[int] = []
    part = max(1, LOGITS // model.vocab_size)
    for x, y in windows(np.array([*start, *rest], np.int64), model.max_length, model.max_length):
        state, targets = model.start(1), torch.from_numpy(y)
        if _by_length(model):
            state.plan([len(x)])
        for at in range(0, len(x), part):
            asked = targets[at : at + part]
            logits = _read(model, [x[at : at + part].tolist()], state, ALL)[0].cpu()[asked != IGNORE]
            asked = asked[asked != IGNORE]
            values += logits.double().log_softmax(dim=-1).gather(1, asked[:, None])[:, 0].tolist()
            best += logits.argmax(dim=-1).tolist()
    return Likelihood(tuple(rest), tuple(values), best == rest, len(start))


@torch.inference_mode()
def token_logprobs(
    model: Any, pieces: Sequence[tuple[np.ndarray, np.ndarray]], *, batch_tokens: int = BATCH_TOKENS, bar: Any = None
) -> list[np.ndarray]:
    """ln p of every target of (inputs (T,), targets (T,)), in order: float64, as many as targets that are not `IGNORE`.

    The logits are never held: it is the model's own `nll`.
    """
    out: list[np.ndarray] = [np.empty(0)] * len(pieces)
    with evaluating(model):
        for chosen, batch in batches(model, pieces, batch_tokens):
            nats = model.nll(batch, "none").double().cpu().numpy()
            for row, piece in enumerate(chosen):
                targets = pieces[piece][1]
                out[piece] = -nats[row, : len(targets)][targets != IGNORE]
            if bar is not None:
                bar.advance(sum(len(pieces[piece][0]) for piece in chosen))
    return out


def text_logprobs(
    model: Any,
    texts: Sequence[Sequence[int] | np.ndarray],
    first: int,
    *,
    window: int | None = None,
    context: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    label: str | None = "score",
) -> list[np.ndarray]:
    """ln p of every token of each text (ids without a start token), in float64; `first` is put before each text.

    Args:
        window: positions of a window; the model's limit by default.
        context: tokens that every window after a text's first repeats; 1 by default (half a window for a
            model without a limit).
        label: of the progress line; None shows none.

    Raises:
        RequestError: a window beyond the model's limit, or a context that does not fit the window.
    """
    limit = model.max_length
    window = window or limit or WINDOW
    if context is None:
        context = 1 if limit is not None else max(1, window // 2)
    if window < 1 or (limit is not None and window > limit):
        raise RequestError(f"window: {window} places, but the model reads between 1 and {limit}")
    if not 1 <= context <= window:
        raise RequestError(f"context: {context} is not between 1 and the window's {window} places")
    pieces: list[tuple[np.ndarray, np.ndarray]] = []
    owners: list[int] = []
    for owner, ids in enumerate(texts):
        own = list(windows(np.concatenate([[first], np.asarray(ids, np.int64)]), window, window - context + 1))
        pieces += own
        owners += [owner] * len(own)
    total = sum(len(x) for x, _ in pieces)
    with contextlib.nullcontext() if label is None else progress(label, total=total, unit="tokens") as bar:
        found = token_logprobs(model, pieces, batch_tokens=batch_tokens, bar=bar)
    parts: list[list[np.ndarray]] = [[] for _ in texts]
    for owner, values in zip(owners, found, strict=True):
        parts[owner].append(values)
    return [np.concatenate(part) if part else np.empty(0) for part in parts]
