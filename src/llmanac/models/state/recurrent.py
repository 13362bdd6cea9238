"""The state of a recurrent layer: a few tensors a row, of a size that does not depend on the length."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from llmanac.core.errors import RequestError
from llmanac.models.state.kv import StoredState


class RecurrentState(StoredState):
    """Tensors (B, ...), all zero at a row's start.

    It holds the state after the last token only. So it returns to a mark, but to no place between the mark and now: a
    caller that accepted some of its tokens rewinds to the mark and reads those again.
    """

    kind: ClassVar[str] = "recurrent"

    def _held(self) -> list[Tensor]:
        """The rows of each tensor in the store's own memory."""
        return [t[self.start : self.stop] for t in self.store.tensors]

    @property
    def tensors(self) -> list[Tensor]:
        """The rows of each tensor; copies where gradients are computed, since `update` overwrites the memory.

        No gradient passes from one call to the next: what is stored is detached.
        """
        return [t.clone() if torch.is_grad_enabled() else t for t in self._held()]

    def update(self, *new: Tensor) -> None:
        """Replace the tensors (B, ...) by those after the last real token of each row."""
        for tensor, value in zip(self._held(), new, strict=True):
            tensor.copy_(value.detach())

    def mark(self, counts: Sequence[int]) -> tuple[list[int], list[Tensor]]:
        return list(counts), [t.clone() for t in self.tensors]

    def check_rewind(self, mark: Any, lengths: Sequence[int], counts: Sequence[int]) -> None:
        """Raises RequestError where a row would return to a place that is neither its start nor the mark."""
        marked = [-1] * len(counts) if mark is None else mark[0]
        if any(n != m and n not in (0, k) for n, m, k in zip(lengths, counts, marked, strict=True)):
            raise RequestError(
                f"state: a recurrent state holds its last token only; it cannot return to {list(lengths)}. Rewind it "
                "to a mark and read the tokens after it again"
            )

    def rewind(self, mark: Any, lengths: Sequence[int], counts: Sequence[int]) -> None:
        """Rows whose length changes return to the mark, or to nothing."""
        going = [i for i, (n, m) in enumerate(zip(lengths, counts, strict=True)) if n != m]
        for at, rows in enumerate(self._held()):
            for i in going:
                if lengths[i]:
                    rows[i].copy_(mark[1][at][i])
                else:
                    rows[i].zero_()
