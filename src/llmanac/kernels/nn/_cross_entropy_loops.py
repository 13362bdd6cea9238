"""Cross-entropy of bfloat16 logits in one walk over memory: a row's value, and its slopes in place of its logits.

nll = log sum_v e^(z_v) - z_y        dz_v = a (e^(z_v) / sum - [v = y])

In a mixture, -log(e^(g - nll) + e^o), a is the share e^(g - nll) of the target's probability.
"""

# mypy: disable-error-code="no-untyped-def"
# (numba types its functions itself)

from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmanac.kernels.nn._exponential import LOG2E, RELAXED
from llmanac.kernels.nn._short import array, exponentials, in_pieces, kind, largest, narrow, store, widen
from llmanac.kernels.text import cached

LOOP = {"nogil": True, "error_model": "numpy", "fastmath": RELAXED}
LOG2E_OF = {np.float32: np.float32(LOG2E), np.float64: np.float64(LOG2E)}


def values_and_slopes_(
    logits: Tensor, targets: Tensor, scale: Tensor | None, *, slopes: bool = True, mixture: Any = None
) -> tuple[Tensor, Tensor]:
    """Logits (n, V) become slopes, if those are wanted; returns the values (n,) and what they were scaled by (n,).

    Args:
        targets: (n,) below V; scale: a (n,), or None for 1; mixture: (g, o), (n,) each, which settle a, or None.
    """
    values = torch.empty(len(logits), dtype=torch.float64 if logits.dtype == torch.float64 else torch.float32)
    scale = torch.ones_like(values) if scale is None else scale.to(values.dtype).contiguous()
    gate, other = (values[:0], values[:0]) if mixture is None else (x.to(values.dtype).contiguous() for x in mixture)
    scale = scale if mixture is None else scale.clone()
    arrays = [array(x) for x in (logits, targets.contiguous(), scale, values, gate, other)]
    in_pieces(_values, len(logits), logits.shape[1], *arrays, slopes, LOG2E_OF[kind(logits)])
    return values, scale


def _values_loop(start, stop, logits, targets, scale, values, gate, other, slopes, factor):
    made = np.full(logits.shape[1], factor)
    for i in range(start, stop):
        row, target = logits[i], targets[i]
        top = largest(row)
        hit = widen(row[target]) - top
        total = exponentials(row, made, factor, top * factor)
        values[i] = np.log(total) - hit
        if len(gate):
            own, added = gate[i] - values[i], other[i]
            most = max(own, added)
            values[i] = -most - np.log(np.exp(own - most) + np.exp(added - most))
            scale[i] = np.exp(own + values[i])
        if slopes:
            share = scale[i] / total
            store(row, made, share)
            row[target] = narrow(made[target] * share - scale[i], row[target])


_values = cached(_values_loop, **LOOP)
