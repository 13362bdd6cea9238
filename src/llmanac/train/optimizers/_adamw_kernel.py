"""One pass over memory for an AdamW step: the foreach form reads and writes each array several times.

Both forms compute the same expression in the same order; `tests/references/test_optimizers.py` holds them together.
"""

import concurrent.futures
import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from llmanac.kernels.text import cached
from llmanac.train.optimizers._base import Coefficients

PIECE = 1 << 16  # elements a thread takes at a time


@functools.partial(cached, nogil=True, error_model="numpy")
def _adamw(p, g, m, v, keep, beta1, rest1, beta2, rest2, size, root, eps, scale):
    for i in range(p.size):
        gradient = g[i] * scale
        m[i] = m[i] * beta1 + gradient * rest1
        v[i] = v[i] * beta2 + gradient * gradient * rest2
        p[i] = p[i] * keep - size * (m[i] / (np.sqrt(v[i]) / root + eps))


@functools.cache
def _pool(threads: int) -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="adamw")


def takes(tensor: Tensor) -> bool:
    """Whether the one-pass form can update this tensor."""
    return tensor.device.type == "cpu" and tensor.dtype in (torch.float32, torch.float64) and tensor.is_contiguous()


def one_pass(tensors: Sequence[list[Tensor]], c: Coefficients) -> None:
    """Update contiguous CPU parameters, means and squares in place; `tensors` as in `adamw.foreach`."""
    constants = (c.keep, c.beta1, 1 - c.beta1, c.beta2, 1 - c.beta2, c.size, c.root, c.eps, c.scale)
    pieces = []
    for row in zip(*tensors, strict=True):
        flat = [t.detach().contiguous().view(-1).numpy() for t in row]
        kind = flat[0].dtype.type
        numbers = [kind(x) for x in constants]
        for start in range(0, flat[0].size, PIECE):
            pieces.append(([array[start : start + PIECE] for array in flat], numbers))
    threads = torch.get_num_threads()
    if threads == 1 or len(pieces) < 2 * threads:
        for arrays, numbers in pieces:
            _adamw(*arrays, *numbers)
        return

    def update(first: int) -> None:
        for arrays, numbers in pieces[first::threads]:
            _adamw(*arrays, *numbers)

    list(_pool(threads).map(update, range(threads)))
