"""Which keys each query sees. One object a forward pass: all layers read the same masks, each built at most once.

Masks are built from the positions of queries and keys in their row, not from where keys are stored, so that a ring of
the last keys needs no rule of its own.

The states of one call (`CallState`), with gradients, remember nothing, and say which keys its queries see besides
their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from llmanac.core.errors import RequestError
from llmanac.core.types import Batch, MaskKind
from llmanac.models.state import DecodingState, LayerState, SlotMapping

ALL = slice(None)


@dataclass(frozen=True, kw_only=True)
class MaskRule:
    """What decides whether a query sees a key.

    Attributes:
        kind: causal, prefix or bidirectional.
        prefix: (B,) length of each row's prefix, for `prefix`.
        end: (B,) keys from this position on are padding; None where no padding is in the way.
        window: only keys nearer than this, the query's own included; None for all.
        strict: whether a query does not see its own place.
        segments: (B, T), where queries and keys are the same packed tokens.
        asking: (B, T) segments of the queries, where these are other tokens than the keys.
        soft_tokens: keys before those of `segments`, which the tokens of every document see.
        pattern: positions (B or 1, T, 1) and (B or 1, 1, S) -> (B or 1, T, S) bool: a further condition, or None.
    """

    kind: MaskKind
    prefix: Tensor | None = None
    end: Tensor | None = None
    window: int | None = None
    strict: bool = False
    segments: Tensor | None = None
    asking: Tensor | None = None
    soft_tokens: int = 0
    pattern: Callable[[Tensor, Tensor], Tensor] | None = None

    @property
    def positional(self) -> bool:
        """Whether kind, window and positions say it all."""
        extra = (self.prefix, self.end, self.segments, self.pattern)
        return not self.strict and all(x is None for x in extra)

    def allowed(self, queries: Tensor, keys: Tensor, rows: slice = ALL, columns: slice = ALL) -> Tensor:
        """Positions (B or 1, T) and (B or 1, S) -> (B or 1, T, S) bool; keys at negative positions are not there.

        `rows` and `columns` say which part of all queries and keys these are.
        """
        q, k = queries[:, :, None], keys[:, None, :]
        seen = (k <= q) & (k >= 0) if self.kind != "bidirectional" else k.expand(-1, q.shape[1], -1) >= 0
        if self.kind == "prefix":
            assert self.prefix is not None
            seen = seen | ((k >= 0) & (k < self.prefix[:, None, None]))
        if self.segments is not None:
            of_keys = F.pad(self.segments, (self.soft_tokens, 0)) if self.soft_tokens else self.segments
            own = self.segments if self.asking is None else self.asking
            same = own[:, rows, None] == of_keys[:, None, columns]
            if self.soft_tokens:
                same = same | (torch.arange(of_keys.shape[1], device=same.device)[columns] < self.soft_tokens)
            seen = seen & same
        if self.pattern is not None:
            seen = seen & self.pattern(q, k)
        if self.end is not None:
            # a padded query still sees itself, so that its softmax has something to sum to one over
            seen = (seen & (k < self.end[:, None, None])) | (k == q)
        if self.window is not None:
            seen = seen & ((q - k).abs() < self.window)
        return seen & (k < q) if self.strict else seen


class AttentionMask:
    """Which keys each query may attend to.

    Attributes:
        causal: query t sees keys 0..t and queries and keys are the same tokens; a score may skip the rest.
        window: only the last `window` keys, the query's own included; None for all.
        queries: (B or 1, T) and keys (B or 1, S): positions in their row.
    """

    def __init__(
        self, rule: MaskRule | None, queries: Tensor, keys: Tensor | SlotMapping, *, causal: bool, mask: bool
    ) -> None:
        self.rule, self.queries, self._keys = rule, queries, keys
        self.causal, self._masks = causal, mask
        self._allowed: Tensor | None = None
        self._additive: dict[torch.dtype, Tensor | None] = {}
        self._derived: dict[object, AttentionMask] = {}
        self.plans: dict[object, Any] = {}  # tiles of it, by how they were made

    @property
    def keys(self) -> Tensor:
        return self._keys.key_positions if isinstance(self._keys, SlotMapping) else self._keys

    @property
    def _made(self) -> Tensor | None:
        """The keys, unless nobody has asked for them yet."""
        return self._keys.known.get("keys") if isinstance(self._keys, SlotMapping) else self._keys

    @property
    def count(self) -> int:
        """S."""
        return self._keys.keys if isinstance(self._keys, SlotMapping) else self._keys.shape[-1]

    @property
    def window(self) -> int | None:
        return None if self.rule is None else self.rule.window

    @property
    def allowed(self) -> Tensor | None:
        """(B or 1, 1, T, S) bool, or None where `causal`, or that every key is seen, says it all."""
        return self.boolean() if self._masks else None

    def boolean(self) -> Tensor:
        """(B or 1, 1, T, S) bool, always."""
        if self._allowed is None:
            assert self.rule is not None
            self._allowed = self.rule.allowed(self.queries, self.keys)[:, None]
        return self._allowed

    def ranges(self) -> tuple[Tensor, Tensor] | None:
        """The first key that each query sees and the one after its last, (B or 1, T); None where others are between.

        None too where a query sees no key.
        """
        if "ranges" not in self.plans and self.causal and self.allowed is None:
            self.plans["ranges"] = (torch.zeros_like(self.queries), self.queries + 1)
        if "ranges" not in self.plans:
            seen = self.boolean()[:, 0]
            first, beyond = seen.byte().argmax(-1), seen.shape[-1] - seen.flip(-1).byte().argmax(-1)
            found = seen.any(-1) & (seen.sum(-1) == beyond - first)
            self.plans["ranges"] = (first, beyond) if bool(found.all()) else None
        made: tuple[Tensor, Tensor] | None = self.plans["ranges"]
        return made

    def tile(self, rows: slice, columns: slice) -> Tensor:
        """(B or 1, 1, t, s) bool: a part of the mask, without the rest being built."""
        if self._allowed is not None:
            return self._allowed[:, :, rows, columns]
        assert self.rule is not None
        return self.rule.allowed(self.queries[:, rows], self.keys[:, columns], rows, columns)[:, None]

    def additive(self, dtype: torch.dtype) -> Tensor | None:
        """(B or 1, 1, T, S): 0 where a key is seen and -inf where not; None where every key is seen."""
        if dtype not in self._additive:
            self._additive[dtype] = None
            if self._masks or self.causal:
                mask = self.boolean()
                zeros = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
                self._additive[dtype] = zeros.masked_fill_(~mask, float("-inf"))
        return self._additive[dtype]

    def within(self, window: int | None) -> AttentionMask:
        """The same, narrowed to keys nearer than `window` (on both sides, where later keys are seen at all)."""
        if window is None or window >= self.count:
            return self
        assert self.rule is not None
        if self.rule.soft_tokens and self.rule.segments is not None:
            raise RequestError(
                "segments: a window that a prefix comes before cannot be packed; give every document its own row"
            )
        return self._derive(("window", window), replace(self.rule, window=window))

    def strictly_before(self) -> AttentionMask:
        """The same without each query's own place (what a pointer may copy from); a row may then see nothing."""
        assert self.rule is not None
        return self._derive("strict", replace(self.rule, strict=True))

    def patterned(self, pattern: Callable[[Tensor, Tensor], Tensor]) -> AttentionMask:
        """The same, narrowed by a pattern of positions (`MaskRule.pattern`)."""
        assert self.rule is not None
        return self._derive(("pattern", pattern), replace(self.rule, pattern=pattern))

    def _derive(self, key: object, rule: MaskRule) -> AttentionMask:
        if key not in self._derived:
            self._derived[key] = AttentionMask(rule, self.queries, self._keys, causal=self.causal, mask=True)
        return self._derived[key]

    def over(self, keys: Tensor) -> AttentionMask:
        """The same queries over keys at other positions (B or 1, S), as a layer's state gives them."""
        if keys is self._made:
            return self
        assert self.rule is not None
        if id(keys) not in self._derived:
            made = AttentionMask(self.rule, self.queries, keys, causal=False, mask=True)
            self._derived[id(keys)] = made  # it holds the keys, so that their id stays theirs
        return self._derived[id(keys)]

    @classmethod
    def of_source(cls, real: Tensor, queries: int) -> AttentionMask:
        """Every query sees every real place (B, S) of a source, or those that (B, T, S) says of each query."""
        rows = torch.zeros(1, queries, dtype=torch.long, device=real.device)
        made = cls(None, rows, torch.arange(real.shape[-1], device=real.device)[None], causal=False, mask=True)
        # a row without a source sees its padding, which is zero
        if real.ndim == 3:
            made._allowed = (real | ~real.any(2, keepdim=True))[:, None]
            return made
        made._allowed = (real | ~real.any(1, keepdim=True))[:, None, None].expand(-1, 1, queries, -1)
        return made


def of_batch(batch: Batch) -> AttentionMask:
    """The mask of a batch that no state precedes."""
    steps = torch.arange(batch.shape[1], device=batch.device)[None]
    causal = batch.mask == "causal"
    # padding is on the right, where no real token looks
    end = None if causal else batch.lengths
    rule = MaskRule(kind=batch.mask, prefix=_prefix(batch), end=end, segments=batch.segments)
    plain = batch.segments is None and end is None and batch.mask != "prefix"
    return AttentionMask(rule, steps, steps, causal=causal, mask=not plain)


def of_soft_prompt(batch: Batch, slots: SlotMapping) -> AttentionMask:
    """The mask of a batch whose rows have an adapter's keys before them, all the same number."""
    assert slots.start is not None
    queries = slots.start + torch.arange(slots.tokens, device=batch.device)[None]
    end = None if batch.mask == "causal" or batch.lengths is None else slots.start + batch.lengths
    rule = MaskRule(kind=batch.mask, prefix=_prefix(batch), end=end, segments=batch.segments, soft_tokens=slots.start)
    return AttentionMask(rule, queries, slots, causal=False, mask=True)


def of_continuation(batch: Batch, slots: SlotMapping) -> AttentionMask:
    """The mask of tokens that follow what a state holds.

    Raises:
        RequestError: attention that cannot be extended token by token.
    """
    if batch.mask == "bidirectional" and slots.start != 0:
        raise RequestError("mask: bidirectional tokens cannot follow what a state holds; use causal or prefix")
    if batch.segments is not None:
        raise RequestError("segments: a packed row cannot be decoded with a state; give each document its own row")
    start, length = slots.start, slots.tokens
    steps = torch.arange(length, device=batch.device)
    queries = (start + steps)[None] if start is not None else slots.offsets[:, None] + steps
    keys = slots  # their positions are made where a layer has keys
    if start == 0 and batch.mask != "prefix":
        causal = batch.mask == "causal"
        end = None if causal else batch.lengths
        rule = MaskRule(kind=batch.mask, end=end)
        return AttentionMask(rule, queries, keys, causal=causal, mask=end is not None)
    prefix = _prefix(batch)
    if prefix is None:
        # the newest token of rows of one length sees all
        everything = start is not None and length == 1
        return AttentionMask(MaskRule(kind="causal"), queries, keys, causal=False, mask=not everything)
    new = batch.lengths if batch.lengths is not None else torch.full_like(slots.offsets, length)
    if bool(((slots.offsets < prefix) & ((slots.offsets > 0) | (slots.offsets + new < prefix))).any()):
        raise RequestError("prefix: its tokens see one another, so all of a row's prefix must come in one piece")
    rule = MaskRule(kind="prefix", prefix=prefix, end=slots.offsets + new)
    return AttentionMask(rule, queries, keys, causal=False, mask=True)


def _prefix(batch: Batch) -> Tensor | None:
    if batch.mask != "prefix":
        return None
    if batch.prefix is None:
        raise RequestError('prefix: mask="prefix" needs the prefix length of each row')
    return batch.prefix


def by_document(mask: AttentionMask) -> AttentionMask:
    """The mask of packed rows with positions that count from the start of each document."""
    rule = mask.rule
    if rule is None or rule.segments is None:
        return mask
    if rule.soft_tokens:
        raise RequestError("segments: sparse attention after a prefix cannot be packed; give documents own rows")
    if "by document" in mask.plans:
        found: AttentionMask = mask.plans["by document"]
        return found
    segments, steps = rule.segments, mask.queries
    if rule.end is not None:  # each padded place becomes a document of its own
        segments = torch.where(steps < rule.end[:, None], segments, -1 - steps)
    before = torch.cat([segments[:, :1] - 1, segments[:, :-1]], dim=1)
    start = torch.where(segments != before, steps, 0).cummax(dim=1).values
    inside = steps - start
    rule = replace(rule, segments=segments, end=None)
    made = AttentionMask(rule, inside, inside, causal=mask.causal, mask=True)
    mask.plans["by document"] = made
    return made


class CallLayer(LayerState):
    """What a layer reads besides the call's own keys; it may be asked twice (`recompute`)."""


class CallState(DecodingState):
    """The state of one call."""

    def mask(self, batch: Batch, slots: SlotMapping) -> AttentionMask:
        """Which keys the batch's tokens see."""
        raise NotImplementedError
