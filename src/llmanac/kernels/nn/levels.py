"""Numbers of 4-bit codes, each block of them with a scale, in one pass over memory and in the dtype that is wanted."""

# mypy: disable-error-code="no-untyped-def"
# (numba types its functions itself)

import numpy as np
import torch
from torch import Tensor

from llmanac.kernels.nn._short import array, in_pieces, narrow
from llmanac.kernels.text import cached


def spread(codes: Tensor, levels: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """(n,) float32 or bfloat16: the level of each code times its block's scale, rounded once.

    codes: (n / 2,) bytes of two codes, the first in the high half; levels: (16,) float32; scales: (blocks,) float32.
    """
    made = torch.empty(2 * len(codes), dtype=dtype)
    half = len(codes) // len(scales)
    arrays = [array(x) for x in (codes, levels, scales.contiguous(), made)]
    in_pieces(_spread, len(scales), 2 * half, *arrays, half)
    return made


def _spread_loop(start, stop, codes, levels, scales, made, half):
    own = np.empty(16, made.dtype)
    for i in range(start, stop):
        for k in range(16):
            own[k] = narrow(levels[k] * scales[i], own[k])
        given, out = codes[i * half : (i + 1) * half], made[2 * i * half : 2 * (i + 1) * half]
        for j in range(len(given)):
            out[2 * j], out[2 * j + 1] = own[given[j] >> 4], own[given[j] & 15]


_spread = cached(_spread_loop, nogil=True)
