"""Files that are written here of a model that was trained here, in llama.cpp: greedy tokens of 20 prompts x 200.

Both round activations to 8 bits, each in its own order, so that they may differ where two tokens are nearly as likely.
A near-tie is a token of llama.cpp's whose logit, after the same text, is behind our best one by at most `CLOSE`
standard deviations of all logits of that place. Such tokens are counted; any other difference fails. Our runner reads
llama.cpp's text, so that every place is compared and not only those before the first difference.
"""

from __future__ import annotations

import httpx
import numpy as np
import pytest
import torch

from llmanac.core.spec import make_method
from llmanac.core.types import Batch
from llmanac.generate.load import load_engine
from llmanac.kernels.gguf import GGUF
from llmanac.models.gguf.write import export_gguf
from llmanac.tokenizers.load import train_tokenizer

PROMPTS, TOKENS = 20, 200
CLOSE = 0.05
STEPS, ROWS, LENGTH = 120, 8, 128

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def trained(shared_data):
    """A Llama of width 256, which K-quants need, and its tokenizer and prompts."""
    text = (shared_data / "text" / "wikitext2_test.txt").read_text("utf-8")[:600_000]
    tokenizer = train_tokenizer("bpe", [text], vocab_size=1000, special_tokens=("<|end|>",))
    block = {
        "name": "pre-norm",
        "mixer": {"name": "softmax", "heads": 4, "kv_heads": 2},
        "ffn": {"name": "swiglu", "width": 512},
    }
    spec = {"name": "transformer", "dim": 256, "layers": 3, "blocks": [block], "max_length": 512, "tied": False}
    model = make_method("lm", spec).build(vocab_size=1000).train()
    ids = torch.tensor(tokenizer.encode(text))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    draws = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(STEPS):
        starts = torch.randint(len(ids) - LENGTH - 1, (ROWS, 1), generator=draws)
        rows = ids[starts + torch.arange(LENGTH + 1)]
        loss = model.nll(Batch(ids=rows[:, :-1], targets=rows[:, 1:])) / (ROWS * LENGTH)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    prompts = [ids[place : place + 12].tolist() for place in range(0, 20_000, 1000)]
    return model.eval(), tokenizer, prompts[:PROMPTS]


def of_llama_cpp(path, prompts):
    """What llama.cpp's server continues each prompt with."""
    peer = pytest.importorskip("xllamacpp", reason="needs xllamacpp, llama.cpp as a package")
    chosen = peer.CommonParams()
    chosen.model.path, chosen.n_ctx, chosen.n_parallel, chosen.warmup, chosen.port = str(path), 512, 1, False, 0
    chosen.cpuparams.n_threads = chosen.cpuparams_batch.n_threads = 1
    server = peer.Server(chosen)  # which ends with its object
    place = server.listening_address + "/completion"
    asked = {"n_predict": TOKENS, "temperature": 0, "return_tokens": True, "ignore_eos": True}
    return [httpx.post(place, json={"prompt": p, **asked}, timeout=300).json()["tokens"] for p in prompts]


@pytest.mark.parametrize("kind", ["q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0"])
def test_greedy_tokens_are_llama_cpps_but_for_counted_near_ties(kind, trained, tmp_path):
    model, tokenizer, prompts = trained
    path = export_gguf(model, tokenizer, tmp_path / "m.gguf", kind)
    assert kind.split("_")[0].upper() in {name.split("_")[0] for name in GGUF(path).kinds()}
    theirs = of_llama_cpp(path, prompts)
    engine = load_engine(path, device="cpu", runner="native")
    ties, gaps = 0, []
    for before, wanted in zip(prompts, theirs, strict=True):
        assert len(wanted) == TOKENS
        runner = engine.scheduler().runner
        runner.extend([before + wanted], 512)
        logits = runner.read(0, [before + wanted], every=True)[0][len(before) - 1 : -1]
        behind = (logits.max(-1) - logits[np.arange(TOKENS), wanted]) / logits.std(-1)
        gaps.append(behind.max())
        ties += int((behind > 0).sum())
    print(
        f"{kind}: {ties} of {PROMPTS * TOKENS} tokens are near-ties decided otherwise, at most {max(gaps):.3f} behind"
    )
    assert max(gaps) <= CLOSE and ties <= PROMPTS * TOKENS // 50
    assert len({token for row in theirs for token in row}) > 15  # texts, not one token again and again
