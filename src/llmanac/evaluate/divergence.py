"""How far a changed model is from its original on text: both losses, and the Kullback-Leibler divergence."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llmanac.core.errors import DataError
from llmanac.core.progress import progress
from llmanac.core.types import Batch, evaluating

SHORTEST = 8  # tokens of a window


@dataclass(frozen=True)
class Divergence:
    """Means over tokens, in nats a token.

    Attributes:
        before, after: loss of the original and of the changed model.
        kl: KL(original || changed) of the next token.
        tokens: how many were predicted; bytes_per_token: of the text.
        blocks: `(after - before, KL)` of each window, whose tokens are as many; what an interval is made of.
    """

    before: float
    after: float
    kl: float
    tokens: int
    bytes_per_token: float
    blocks: tuple[tuple[float, float], ...] = ()

    def bits_per_byte(self, loss: float) -> float:
        """Of a loss in nats a token."""
        return loss / math.log(2) / self.bytes_per_token


@dataclass(frozen=True)
class Windows:
    """Tokens (rows, length) of a text, and its bytes a token."""

    ids: Tensor
    bytes_per_token: float

    def batches(self, rows: int = 4) -> Iterator[Batch]:
        """Rows of inputs and targets."""
        for part in self.ids.split(rows):
            yield Batch(ids=part[:, :-1], targets=part[:, 1:])


def windows(texts: Sequence[str], tokenizer: Any, length: int, rows: int, what: str = "text") -> Windows:
    """The first `rows` windows of `length` tokens of the texts, or one of all tokens of a shorter text.

    Raises:
        DataError: fewer than 8 tokens.
    """
    ids: list[int] = []
    size = 0
    for text in texts:
        if len(ids) >= rows * length:
            break
        own = tokenizer.encode(text)
        ids += own
        size += len(text.encode("utf-8", "replace"))
    if len(ids) < SHORTEST:
        raise DataError(f"{what}: {len(ids):,} tokens are too few, at least {SHORTEST} are needed; give more text")
    length = min(length, len(ids))
    count = min(rows, len(ids) // length)
    return Windows(torch.tensor(ids[: count * length]).view(count, length), size / len(ids))


@torch.inference_mode()
def divergence(original: Any, changed: Any, text: Windows) -> Divergence:
    """Compare two models of one vocabulary; log-probabilities are float32 at least."""
    rows: list[Tensor] = []  # (3,) means of a window
    with evaluating(original), evaluating(changed), progress("compare", total=len(text.ids), unit="rows") as bar:
        for row in text.ids:
            p, q = (one(Batch(ids=row[None, :-1])).logits.float().log_softmax(-1) for one in (original, changed))
            target = row[None, 1:, None]
            kl = (p.exp() * (p - q)).sum(-1)
            rows.append(torch.stack([-p.gather(-1, target).mean(), -q.gather(-1, target).mean(), kl.mean()]).double())
            bar.advance()
    found = torch.stack(rows)
    blocks = tuple((after - before, kl) for before, after, kl in found.tolist())
    before, after, kl = found.mean(0).tolist()
    return Divergence(before, after, kl, text.ids[:, 1:].numel(), text.bytes_per_token, blocks)
