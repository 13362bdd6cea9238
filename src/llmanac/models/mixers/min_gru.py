"""minGRU: a GRU whose gate and candidate read the input only, so that the state is a linear recurrence.

    z_t = sigmoid(W_z x_t)        g_t = W_h x_t        h_t = (1 - z_t) h_{t-1} + z_t g_t        y_t = W_o h_t

x and y (B, T, D); z, g and h (B, T, H); h_0 = 0. No gate waits for h_{t-1}, so a scan of log2 T parallel steps gives
all h_t at once, where a GRU walks over T. h_t is a weighted mean of 0 and the candidates so far: it cannot grow, and
the tanh is gone too. The scan is computed in at least float32. At the first token of a packed document h starts from 0
again; at padding it stays as it is.

Feng et al. 2024, Were RNNs all we needed?, section 3.1, without biases.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from llmanac.models.forward import Context
from llmanac.models.layers import Linear, upcast
from llmanac.models.mixers import Mixer
from llmanac.models.mixers._recurrence import RecurrenceSpec
from llmanac.models.state.recurrent import RecurrentState

CARD = {
    "title": "minGRU",
    "paper": "Feng et al. 2024, arXiv:2410.01201",
    "reference": "the formula written out in float64 numpy",
    "test": "tests/references/test_min_gru.py::test_logits_equal_the_formula",
}


@dataclass(frozen=True, kw_only=True)
class Spec(RecurrenceSpec):
    """hidden: H, by default D."""

    def build(self, *, dim: int, **dims: Any) -> MinGRU:
        return MinGRU(dim, self.hidden or dim)


class MinGRU(Mixer):
    """See the module.

    Attributes:
        gate_proj, candidate_proj: W_z and W_h (H, D); o_proj: W_o (D, H).
    """

    supports: ClassVar[frozenset[str]] = frozenset({"causal", "packed"})

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.gate_proj = Linear(dim, hidden)
        self.candidate_proj = Linear(dim, hidden)
        self.o_proj = Linear(hidden, dim, std=0.0)

    def start(self, batch: int, *, dtype: torch.dtype, device: torch.device) -> RecurrentState:
        return RecurrentState([torch.zeros(batch, self.hidden, dtype=dtype, device=device)])

    def forward(self, x: Tensor, context: Context, state: Any = None) -> Tensor:
        held = None if state is None or context.slots is None else state
        z = torch.sigmoid(upcast(self.gate_proj(x)))
        real, begins = context.real(), context.document_starts()
        if real is not None:
            z = z * real[..., None]  # z = 0 leaves the state as it is
        kept = 1 - z if begins is None else (1 - z).masked_fill(begins[..., None], 0)
        kept, h = scan(kept, z * upcast(self.candidate_proj(x)))
        if held is not None:
            h = h + kept * held.tensors[0][:, None]
            held.update(h[:, -1])
        y: Tensor = self.o_proj(h.to(x.dtype))
        return y

    def flops(self, keys: float) -> float:
        """The three products; the scan is elementwise."""
        return 2.0 * sum(p.weight.numel() for p in (self.gate_proj, self.candidate_proj, self.o_proj))


def scan(kept: Tensor, added: Tensor) -> tuple[Tensor, Tensor]:
    """h_t = a_t h_{t-1} + b_t for all t, in log2 T steps that double the reach (Hillis & Steele 1986).

    Args:
        kept, added: a and b (B, T, H).

    Returns:
        The products a_1 .. a_t, and h_t from h_0 = 0; from another h_0 it is h_t + (a_1 .. a_t) h_0.
    """
    reach = 1
    while reach < kept.shape[1]:
        later = kept[:, reach:]
        added = torch.cat([added[:, :reach], added[:, reach:] + later * added[:, :-reach]], dim=1)
        kept = torch.cat([kept[:, :reach], later * kept[:, :-reach]], dim=1)
        reach *= 2
    return kept, added
