"""States of one call with gradients: they remember nothing, and say which keys its queries see besides their own."""

from __future__ import annotations

from llmanac.core.types import Batch
from llmanac.models._masks import AttentionMask
from llmanac.models.state import DecodingState, LayerState, SlotMapping


class CallLayer(LayerState):
    """What a layer reads besides the call's own keys; it may be asked twice (`recompute`)."""


class CallState(DecodingState):
    """The state of one call."""

    def mask(self, batch: Batch, slots: SlotMapping) -> AttentionMask:
        """Which keys the batch's tokens see."""
        raise NotImplementedError
