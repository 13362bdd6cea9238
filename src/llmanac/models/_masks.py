"""Attention masks. One object per forward pass; every layer of the model reads the same masks, built at most once."""

from __future__ import annotations

import torch
from torch import Tensor

from llmanac.core.errors import RequestError
from llmanac.core.types import Batch


class AttentionMask:
    """Which keys each query may attend to.

    Attributes:
        causal: query t sees keys 0..t and queries and keys are the same tokens; a score may skip the rest.
        allowed: (B or 1, 1, T, S) bool on top of that, or None where `causal` (or "everything") says it all. It
            includes the causal rule.
        window: only the last `window` keys, the query's own included; None for all.
    """

    def __init__(
        self, *, causal: bool, allowed: Tensor | None, rows: Tensor, keys: int, window: int | None = None
    ) -> None:
        self.causal = causal
        self.allowed = allowed
        self.window = window
        self.keys = keys
        self.rows = rows  # (B or 1, T): the position of each query among the keys
        self._additive: dict[torch.dtype, Tensor | None] = {}
        self._narrowed: dict[tuple[int | None, bool], AttentionMask] = {}

    @property
    def queries(self) -> int:
        return self.rows.shape[-1]

    def within(self, window: int | None) -> AttentionMask:
        """The same, narrowed to keys nearer than `window` (on both sides, where later keys are seen at all)."""
        if window is None or window >= self.keys:
            return self
        key = (window, False)
        if key not in self._narrowed:
            distance = self.rows[:, None, :, None] - torch.arange(self.keys, device=self.rows.device)
            near = distance.abs() < window
            allowed = near & self.boolean()
            self._narrowed[key] = AttentionMask(
                causal=self.causal, allowed=allowed, rows=self.rows, keys=self.keys, window=window
            )
        return self._narrowed[key]

    def strictly_before(self) -> AttentionMask:
        """The same without each query's own position (what a pointer may copy from); a row may then see nothing."""
        key = (None, True)
        if key not in self._narrowed:
            before = self.rows[:, None, :, None] > torch.arange(self.keys, device=self.rows.device)
            self._narrowed[key] = AttentionMask(
                causal=self.causal, allowed=before & self.boolean(), rows=self.rows, keys=self.keys
            )
        return self._narrowed[key]

    def boolean(self) -> Tensor:
        """(B or 1, 1, T, S) bool, always."""
        if self.allowed is not None:
            return self.allowed
        columns = torch.arange(self.keys, device=self.rows.device)
        if self.causal:
            return self.rows[:, None, :, None] >= columns
        return columns.new_ones((1, 1, self.queries, self.keys), dtype=torch.bool)

    def additive(self, dtype: torch.dtype) -> Tensor | None:
        """(B or 1, 1, T, S): 0 where a key is seen and -inf where not; None where every key is seen."""
        if dtype not in self._additive:
            if self.allowed is None and not self.causal:
                self._additive[dtype] = None
            else:
                mask = self.boolean()
                zeros = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
                self._additive[dtype] = zeros.masked_fill_(~mask, float("-inf"))
        return self._additive[dtype]


def of_batch(batch: Batch) -> AttentionMask:
    """The mask of a batch without a decoding state."""
    length = batch.ids.shape[1]
    device = batch.ids.device
    rows = torch.arange(length, device=device)[None]
    if batch.mask == "causal" and batch.segments is None:
        # padding is on the right, where no real token looks
        return AttentionMask(causal=True, allowed=None, rows=rows, keys=length)
    columns = torch.arange(length, device=device)
    past = columns <= columns[:, None]
    if batch.mask == "causal":
        allowed = past[None]
    elif batch.mask == "prefix":
        allowed = past[None] | (columns < _prefix(batch)[:, None, None])
    elif batch.lengths is None and batch.segments is None:
        return AttentionMask(causal=False, allowed=None, rows=rows, keys=length)
    else:
        allowed = torch.ones(1, length, length, dtype=torch.bool, device=device)
    if batch.segments is not None:
        allowed = allowed & (batch.segments[:, :, None] == batch.segments[:, None, :])
    if batch.lengths is not None and batch.mask != "causal":
        real = columns < batch.lengths[:, None]
        # a padded query still sees itself, so that its softmax has something to sum to one over
        allowed = (allowed & real[:, None, :]) | (columns == columns[:, None])
    return AttentionMask(causal=batch.mask == "causal", allowed=allowed[:, None], rows=rows, keys=length)


def of_continuation(batch: Batch, offsets: Tensor, start: int | None, keys: int) -> AttentionMask:
    """The mask of tokens that follow what a state holds.

    Args:
        offsets: (B,) tokens that each row holds already.
        start: the same as one number where every row holds as many, else None.
        keys: S, keys in the longest row once these tokens are in.

    Raises:
        RequestError: a mask that cannot be extended token by token.
    """
    length, device = batch.ids.shape[1], batch.ids.device
    if batch.mask == "bidirectional" and not (start == 0):
        raise RequestError("mask: bidirectional tokens cannot follow what a state holds; use causal or prefix")
    if batch.segments is not None:
        raise RequestError("segments: a packed row cannot be decoded with a state; give each document its own row")
    if start == 0 and batch.mask != "prefix":
        return of_batch(batch)
    steps = torch.arange(length, device=device)
    rows = (start + steps)[None] if start is not None else offsets[:, None] + steps
    if start is not None and length == 1 and batch.mask == "causal":
        return AttentionMask(causal=False, allowed=None, rows=rows, keys=keys)  # the newest token sees all
    columns = torch.arange(keys, device=device)
    allowed = rows[:, None, :, None] >= columns
    if batch.mask == "prefix":
        prefix = _prefix(batch)
        new = batch.lengths if batch.lengths is not None else torch.full_like(offsets, length)
        if bool(((offsets < prefix) & ((offsets > 0) | (offsets + new < prefix))).any()):
            raise RequestError("prefix: its tokens see one another, so all of a row's prefix must come in one piece")
        allowed = allowed | (columns < prefix[:, None, None, None])
        written = rows[:, -1] + 1 if batch.lengths is None else rows[:, 0] + batch.lengths
        # a padded query still sees itself, so that its softmax has something to sum to one over
        allowed = (allowed & (columns < written[:, None, None, None])) | (rows[:, None, :, None] == columns)
    return AttentionMask(causal=False, allowed=allowed, rows=rows, keys=keys)


def _prefix(batch: Batch) -> Tensor:
    if batch.prefix is None:
        raise RequestError('prefix: mask="prefix" needs the prefix length of each row')
    return batch.prefix
