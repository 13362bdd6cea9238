"""Q4_K_M of SmolLM2 as it is written here against the file that llama.cpp's own quantizer makes of the same F16 file.

Needs `llama_cpp` (llama-cpp-python); LLMANAC_PEERS names its site-packages folder where it is of another environment.
"""

import ctypes
import os
import sys

import numpy as np
import pytest
import torch
from _published import published

from llmanac.core.types import Batch
from llmanac.generate.load import load_engine
from llmanac.kernels.gguf import GGUF
from llmanac.models.gguf.write import TYPES, export_gguf
from llmanac.models.load import load_model
from llmanac.tokenizers.load import load_tokenizer

WINDOWS, LENGTH = 10, 256
PROMPTS, TOKENS = 20, 24
CLOSE = 0.2  # of two logits over the deviation of all, which 8-bit activations may order otherwise
TOPICS = ("the sea", "a small village", "prime numbers", "the history of glass", "cooking rice", "a lost key", "winter",
          "sorting a list", "the moon", "an old bridge")  # fmt: skip

pytestmark = [pytest.mark.pretrained, pytest.mark.slow]


@pytest.fixture(scope="module")
def peer():
    sys.path.append(os.environ.get("LLMANAC_PEERS", ""))
    try:
        found = pytest.importorskip("llama_cpp", reason="needs llama_cpp (llama-cpp-python); LLMANAC_PEERS may name it")
    finally:
        sys.path.pop()
    quiet = found.llama_log_callback(lambda *message: None)
    found.llama_log_set(quiet, None)
    yield found
    found.llama_log_set(found.llama_log_callback(), None)


@pytest.fixture(scope="module")
def files(peer, tmp_path_factory):
    """Ours and theirs, of one F16 file."""
    root, source = tmp_path_factory.mktemp("quantized"), published("smollm2")
    model, tokenizer = load_model(source, dtype="float32", device="cpu"), load_tokenizer(source)
    half = export_gguf(model, tokenizer, root / "half.gguf", "f16")
    ours = export_gguf(load_model(half, dtype="float32", device="cpu"), tokenizer, root / "ours.gguf", "q4_k_m")
    choices = peer.llama_model_quantize_default_params()
    choices.ftype, choices.nthread = TYPES["q4_k_m"][0], 1
    theirs = root / "theirs.gguf"
    assert peer.llama_model_quantize(str(half).encode(), str(theirs).encode(), ctypes.byref(choices)) == 0
    return {"half": half, "ours": ours, "theirs": theirs}


def test_the_mixture_is_the_same_tensor_by_tensor(files):
    ours, theirs = GGUF(files["ours"]), GGUF(files["theirs"])
    differ = [name for name in ours.names if ours.kind(name) != theirs.kind(name)]
    assert set(ours.names) == set(theirs.names) and not differ
    assert len(ours.kinds()) >= 3


def test_perplexity_is_within_one_percent(files, shared_data):
    """On WikiText-2, the same windows for both; the interval is over windows, and what rounds to F16 is between."""
    text = (shared_data / "text" / "wikitext2_test.txt").read_text("utf-8")
    ids = load_tokenizer(files["half"]).encode(text[:400_000])
    rows = torch.tensor(ids[: WINDOWS * LENGTH]).view(WINDOWS, LENGTH)
    losses = {}
    for name, path in files.items():
        model = load_model(path, dtype="float32", device="cpu")
        with torch.inference_mode():
            sums = [model.nll(Batch(ids=row[None, :-1], targets=row[None, 1:]), "sum").item() for row in rows]
        losses[name] = np.array(sums) / (LENGTH - 1)
    change = losses["ours"] - losses["theirs"]
    low, high = np.exp(change.mean() + np.array([-2, 2]) * change.std(ddof=1) / WINDOWS**0.5)
    of_half = np.exp(losses["half"].mean())
    print(f"perplexity over theirs {np.exp(change.mean()):.4f} ({low:.4f} to {high:.4f}), of F16 {of_half:.3f}")
    assert np.exp(change.mean()) < 1.01 and losses["half"].mean() < losses["ours"].mean()


def test_greedy_tokens_are_llama_cpps_but_for_counted_near_ties(peer, files):
    engine = load_engine(files["ours"], device="cpu", runner="native")
    other = peer.Llama(str(files["ours"]), n_ctx=256, n_threads=1, n_threads_batch=1, verbose=False)
    ties = count = 0
    for number in range(PROMPTS):
        start = ("Write about", "Question: what is special about")[number % 2]
        before = engine.tokenizer.encode(f"{start} {TOPICS[number // 2]}:")
        wanted = []
        for token in other.generate(before, temp=0.0, repeat_penalty=1.0, reset=True):
            wanted.append(int(token))
            if len(wanted) == TOKENS:
                break
        runner = engine.scheduler().runner
        runner.extend([before + wanted], 256)
        logits = torch.from_numpy(runner.read(0, [before + wanted], every=True)[0][len(before) - 1 : -1])
        gaps = (logits.amax(-1) - logits[torch.arange(len(wanted)), wanted]) / logits.std(-1)
        assert gaps.max() < CLOSE
        ties, count = ties + int((gaps > 0).sum()), count + len(wanted)
    print(f"{ties} of {count} tokens are near-ties that llama.cpp decides otherwise")
    assert count == PROMPTS * TOKENS and ties <= count // 20
