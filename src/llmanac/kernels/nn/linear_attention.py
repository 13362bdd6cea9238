"""Causal linear attention in chunks: a matrix as the memory in place of the keys.

    S_t = S_{t-1} + k_t v_t^T            y_t = q_t S_t            q and k (B, H, T, f), v (B, H, T, d), S (B, H, f, d)

which is the quadratic form y_t = sum over s <= t of (q_t . k_s) v_s in another order. In chunks of L tokens both are
used: the quadratic form inside a chunk, S between chunks, so that T f d work is done by products of matrices and only
the short recurrence over chunks is a loop. Katharopoulos et al. 2020, section 3.2; Hua et al. 2022 for the chunks.

With decay rates a head's S_t is e^(-rate) S_{t-1} + k_t v_t^T, so a key of n tokens ago counts e^(-n rate).
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def linear_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    chunk: int,
    state: Tensor | None = None,
    segments: Tensor | None = None,
    strict: bool = False,
    rates: Tensor | None = None,
    times: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Queries and keys (B, H, T, f), values (B, H, T, d) -> (B, H, T, d), and S (B, H, f, d) after the last token.

    Args:
        chunk: L, tokens of a chunk.
        state: S before the first token, zero by default.
        segments: (B, T), documents of packed rows: nothing passes from one to the next. Not together with a state.
        strict: whether a token leaves itself out.
        rates: (H,) by which a key loses weight a step.
        times: (B or 1, T) steps before and with each token, by default 1 .. T; padding takes none.
    """
    length = queries.shape[2]
    chunk = min(chunk, length)
    count = -(-length // chunk)
    padding = count * chunk - length
    q, k, v = (F.pad(x, (0, 0, 0, padding)).unflatten(2, (count, chunk)) for x in (queries, keys, values))
    near = torch.ones(chunk, chunk, dtype=torch.bool, device=q.device).tril_(-1 if strict else 0)
    kept = from_before = None
    if segments is not None:
        places = F.pad(segments, (0, padding), value=-1).unflatten(1, (count, chunk))
        near = (near & (places[..., :, None] == places[..., None, :]))[:, None]
        last = places[..., -1:]
        before = F.pad(last[:, :-1, 0], (1, 0), value=-1)[..., None]
        from_before = (places == before)[:, None, :, :, None].to(q.dtype)  # queries of the document that S is about
        kept = (last == before)[:, None, :, None].to(q.dtype)
        k_last = k * (places == last)[:, None, :, :, None].to(k.dtype)
    else:
        k_last = k
    pairs, asked, fades = (q @ k.transpose(-1, -2)).masked_fill(~near, 0), q, None
    if rates is not None:
        times = torch.arange(1, length + 1, device=q.device)[None] if times is None else times
        pairs, asked, k_last, fades = _decayed(pairs, q, k_last, rates, times)
    inside = pairs @ v
    new = k_last.transpose(-1, -2) @ v
    held = torch.zeros_like(new[:, :, 0]) if state is None else state.to(new.dtype)
    states = []
    if fades is not None:
        kept = fades if kept is None else kept * fades
    stays = [None] * count if kept is None else kept.unbind(2)
    for more, stay in zip(new.unbind(2), stays, strict=True):
        states.append(held)
        held = more + (held if stay is None else held * stay)
    between = asked @ torch.stack(states, dim=2)
    if from_before is not None:
        between = between * from_before
    return (inside + between).flatten(2, 3)[:, :, :length], held


def _decayed(
    pairs: Tensor, queries: Tensor, keys: Tensor, rates: Tensor, times: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Products inside chunks (B, H, n, L, L), queries and keys (B, H, n, L, f), decayed; and S's decay (.., n, 1, 1).

    Only differences of times within a chunk occur, so nothing grows.
    """
    count, chunk = pairs.shape[2:4]
    missing = count * chunk - times.shape[1]
    times = torch.cat([times, times[:, -1:].expand(-1, missing)], dim=1) if missing else times
    at = times.to(pairs.dtype).unflatten(1, (count, chunk))[:, None]
    last = at[..., -1:]
    first = F.pad(last[..., :-1, :], (0, 0, 1, 0))
    rate = rates.to(pairs.dtype).view(1, -1, 1, 1)
    apart = (at[..., :, None] - at[..., None, :]).clamp(min=0)
    return (
        pairs * torch.exp(-rate[..., None] * apart),
        queries * torch.exp(-rate * (at - first))[..., None],
        keys * torch.exp(-rate * (last - at))[..., None],
        torch.exp(-rate * (last - first))[..., None],
    )
