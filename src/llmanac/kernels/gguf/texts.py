"""Many short texts of a header at once: those of a vocabulary of 150,000 tokens are an eighth of a model's loading."""

# mypy: disable-error-code="no-untyped-def"
# (numba types these functions itself)

import numpy as np

from llmanac.kernels.gguf.codes import word
from llmanac.kernels.text import cached


def _gather(data, start, end, count, out):
    used = np.int64(0)
    for i in range(count):
        length = np.int64(word(data, start)) if start + 8 <= end else np.int64(-1)
        if not 0 <= length <= end - start - 8:
            return i, start, used
        for j in range(length):  # of slices the message for other lengths alone takes two seconds to compile
            out[used + j] = data[start + 8 + j]
        out[used + length] = 0
        used += length + 1
        start = start + 8 + length
    return count, start, used


# data and out (n,) uint8, the place of the first length, the end, how many -> texts read, the place behind, bytes of
# out: the texts, a zero byte behind each
gather = cached(_gather, nogil=True)
