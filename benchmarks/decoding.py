"""Tokens a second of the generation engine and of transformers' `generate`, on the same weights, one thread, float32.

The model is a Llama of 12 M parameters with random weights. Prompts differ; every row decodes greedily to its full
length.
"""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

from _harness import Benchmark, Result, find_peer, interleave

bench = Benchmark("decoding", __doc__ or "")
VOCABULARY, PROMPT, NEW = 8192, 128, 64


@functools.cache
def models() -> tuple[Any, Any, str]:
    """Our model, the peer's with the same weights (None where it is not installed), and the peer's name."""
    import torch

    import llmanac
    from llmanac.models.load import export_model

    torch.set_num_threads(1)
    ours = llmanac.build("lm", "transformer", dim=384, layers=6, max_length=512, vocab_size=VOCABULARY)
    ours.initialise(0)
    transformers, peer = find_peer("transformers")
    theirs = None
    if transformers:
        with tempfile.TemporaryDirectory() as scratch:
            export_model(ours, Path(scratch) / "model", family="llama")
            theirs = transformers.AutoModelForCausalLM.from_pretrained(Path(scratch) / "model", dtype=torch.float32)
        theirs.eval()
    return ours.eval(), theirs, f"{peer} generate"


def measured(name: str, rows: int, prefix_cache_bytes: int | None = None) -> Result:
    """Greedy decoding of `rows` prompts at once, prefill included."""
    import torch

    import llmanac

    ours, theirs, peer = models()
    prompts = torch.randint(VOCABULARY, (rows, PROMPT), generator=torch.Generator().manual_seed(1))

    def engine() -> Any:
        # a new engine a round: a prefix cache kept over rounds would skip the prompts
        return llmanac.Engine(ours, rows=rows, prefix_cache_bytes=prefix_cache_bytes).generate(
            prompts.tolist(), max_new_tokens=NEW
        )

    def peers() -> Any:
        with torch.inference_mode():
            return theirs.generate(
                prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=NEW, min_new_tokens=NEW,
                do_sample=False, pad_token_id=0,
            )  # fmt: skip

    runs = {"ours": engine} | ({"theirs": peers} if theirs is not None else {})
    return Result.rate(name, rows * NEW, interleave(runs, rounds=5), unit="tokens/s", peer=peer)


# One row.
bench.add("decode-1", measured, 1)


# Eight rows in one batch.
bench.add("decode-8", measured, 8)


# Eight rows over a paged cache in which nothing is shared: what pages cost.
bench.add("decode-8-paged", measured, 8, 1 << 28)


if __name__ == "__main__":
    bench.main()
