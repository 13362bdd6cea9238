"""Attention at 16,384 tokens, forward and backward, float32, one thread: a window of 512 and torch's causal kernel.

What a window costs grows with the length, causal attention with its square.
"""

from __future__ import annotations

import time
from typing import Any

from _harness import Benchmark, Result, interleave

bench = Benchmark("attention", __doc__ or "")
LENGTH, WINDOW, HEADS, HEAD_DIM = 16_384, 512, 2, 64


@bench.measure("window-16k")
def window() -> Result:
    """Tokens a second with a window of 512 keys, and with all keys before a token."""
    import torch
    import torch.nn.functional as F

    import llmanac
    from llmanac.core.types import Batch
    from llmanac.models import masks

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(1, HEADS, LENGTH, HEAD_DIM, generator=generator).requires_grad_() for _ in range(3)]
    score = llmanac.build("score", "scaled-dot", heads=HEADS, head_dim=HEAD_DIM)
    batch = Batch(ids=torch.zeros(1, LENGTH, dtype=torch.long))

    def ours() -> Any:
        mask = masks.of_batch(batch).within(WINDOW)  # built anew each time, as a forward pass does
        return torch.autograd.grad(score.attend(*inputs, mask, form="sdpa").sum(), inputs)

    def theirs() -> Any:
        return torch.autograd.grad(F.scaled_dot_product_attention(*inputs, is_causal=True).sum(), inputs)

    seconds = interleave({"ours": ours, "theirs": theirs}, rounds=3, clock=time.process_time)
    peer = f"torch {torch.__version__} causal SDPA, all keys"
    return Result.rate("window-16k", LENGTH, seconds, unit="tokens/s", peer=peer, window=WINDOW)


if __name__ == "__main__":
    bench.main()
