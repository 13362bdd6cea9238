"""The state of a recurrent layer: a few tensors a row, of a size that does not depend on the length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from llmanac.core.errors import RequestError
from llmanac.models.state._store import StoredState


class RecurrentState(StoredState):
    """Tensors (B, ...), all zero at a row's start.

    It holds the state after the last token only. So it returns to a mark, but to no place between the mark and now: a
    caller that accepted some of its tokens rewinds to the mark and reads those again.
    """

    kind: ClassVar[str] = "recurrent"

    def update(self, *new: Tensor) -> None:
        """Replace the tensors (B, ...) by those after the last real token of each row."""
        for tensor, value in zip(self.tensors, new, strict=True):
            tensor.copy_(value.detach())

    def mark(self, counts: Sequence[int]) -> tuple[list[int], list[Tensor]]:
        return list(counts), [t.clone() for t in self.tensors]

    def rewind(self, mark: Any, lengths: Sequence[int], counts: Sequence[int]) -> None:
        """Rows whose length changes return to the mark, or to nothing.

        Raises:
            RequestError: a row would return to a place that is neither its start nor the mark.
        """
        going = [i for i, (n, m) in enumerate(zip(lengths, counts, strict=True)) if n != m]
        empty = [i for i in going if lengths[i] == 0]
        back = [i for i in going if lengths[i]]
        marked, tensors = mark or ([-1] * len(counts), self.tensors)
        if any(lengths[i] != marked[i] for i in back):
            raise RequestError(
                f"state: a recurrent state holds its last token only; it cannot return to {list(lengths)}. Rewind it "
                "to a mark and read the tokens after it again"
            )
        for tensor, kept in zip(self.tensors, tensors, strict=True):
            if back:
                index = torch.tensor(back, device=tensor.device)
                tensor.index_copy_(0, index, kept.index_select(0, index))
            if empty:
                tensor.index_fill_(0, torch.tensor(empty, device=tensor.device), 0)
