"""What 8-bit activations cost: KL of the native runner and of llama.cpp to the same file's weights in float32.

    KL(p || q) of the next token, mean over 511 places;  p: torch in float32 with the file's dequantized weights

The text is Python's own documentation in SmolLM2's tokens; the file and the peer are those of `decode.py`. The weights
themselves cost the same on both sides, so they have no part in it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from _harness import Benchmark, Result
from decode import CONTEXT, Peer, absent, file, more, native, peer

bench = Benchmark("quantize", __doc__ or "")


def text(path: Any) -> list[int]:
    """The first 512 tokens of a page of the documentation."""
    from llmanac.core.spec import make_method
    from llmanac.tokenizers.load import load_tokenizer

    topics = make_method("source", {"name": "python-docs", "parts": ["topics"]})
    longest = max((document.text for document in topics.documents()), key=len)
    return [int(i) for i in load_tokenizer(path).encode(longest)[:CONTEXT]]


def divergence(logits: np.ndarray, wanted: Any) -> float:
    import torch

    found = torch.from_numpy(logits).double().log_softmax(-1)[:-1]
    return float((wanted.exp() * (wanted - found)).sum(-1).mean())


def measured(name: str, kind: str, size: str = "smollm2") -> Result:
    import torch

    from llmanac.core.types import Batch
    from llmanac.generate.native import NativeRunner

    made = native(size, kind)
    if made is None:
        return absent(name, "nats", size)
    path = file(size, kind)
    ids = text(path)
    with torch.no_grad():
        wanted = made.model(Batch(ids=torch.tensor([ids]))).logits[0].double().log_softmax(-1)[:-1]
    runner = NativeRunner(made)
    runner.extend([ids], CONTEXT)
    ours = divergence(runner.read(0, [ids], every=True)[0], wanted)
    module, peer_name = peer()
    theirs = None
    if module and path is not None:
        other = Peer(path, 1)
        other._run([(token, place, 0, True) for place, token in enumerate(ids)])
        get = other.api.llama_get_logits_ith
        shape = (other.vocabulary,)
        rows = [np.ctypeslib.as_array(get(other.context, i), shape).copy() for i in range(len(ids))]
        theirs = divergence(np.stack(rows), wanted)
    return Result(name, "nats", ours, peer_name, theirs, "lower", more=more(made))


# Q8_0.
bench.add("kl-q8", measured, "q8_0")


# Q4_0, with an 8-bit head.
bench.add("kl-q4", measured, "q4_0")


# Q5_0, Q8_0, Q6_K and Q4_K, as a published file mixes them.
bench.add("kl-qwen", measured, "own", "qwen")


# The same kinds, with a tied head of Q8_0.
bench.add("kl-gemma", measured, "own", "gemma")


if __name__ == "__main__":
    bench.main()
