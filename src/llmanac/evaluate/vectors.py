"""Vectors of many texts, computed by one process or several, with finished parts kept."""

from collections.abc import Sequence

import numpy as np

from llmanac.core.cluster import Each
from llmanac.core.parts import Parts
from llmanac.core.progress import progress
from llmanac.evaluate import embed

TOGETHER = 16  # batches that are kept together


def vectors_in_parts(each: Each, rows: Sequence[Sequence[int]], parts: Parts) -> np.ndarray:
    """As `Embedder.vectors`, by processes that hold an Embedder; what is done is kept in `parts`."""
    batches = list(embed.batches([len(row) for row in rows], embed.BATCH_TOKENS))
    starts = range(0, len(batches), TOGETHER)
    blocks = [[i for batch in batches[start : start + TOGETHER] for i in batch] for start in starts]
    left = parts.left(len(blocks))
    with progress("embed", len(rows), "texts") as bar:
        bar.update(len(rows) - sum(len(blocks[number]) for number in left))
        for n, found in each(embed.Embedder.vectors, [([rows[i] for i in blocks[number]],) for number in left]):
            parts.keep(left[n], found.astype("<f4").tobytes())
            bar.advance(len(found))
    kept = [np.frombuffer(parts.read(n), "<f4").reshape(len(block), -1) for n, block in enumerate(blocks)]
    return np.concatenate(kept)[np.argsort(np.concatenate(blocks))]
