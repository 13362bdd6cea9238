"""The native runner on random models of each family: the logits of transformers, or a reason why not."""

from __future__ import annotations

import pytest
import torch
from _small_models import tokens
from test_family_fuzz import CONFIGS, pair
from test_native import read

from llmanac.generate.native import NativeModel
from llmanac.generate.native_torch import refusal
from llmanac.models.load import load_model

REFUSED = {  # of what a family may have
    "gpt_neo": "positions", "gpt_bigcode": "positions", "qwen2_moe": "shared", "cohere": "LayerNorm", "olmo": "clip",
    "hunyuan_v1_dense": "qk_norm_at", "glm4_moe": "shared", "lfm2": "ShortConv",
}  # fmt: skip
NEVER = ("gpt_neo", "gpt_bigcode", "qwen2_moe", "hunyuan_v1_dense")


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("kind", CONFIGS)
def test_logits_of_random_models(kind, tmp_path):
    run = 0
    for seed in range(4):
        peer, _ = pair(kind, seed, tmp_path / str(seed))
        ours = load_model(tmp_path / str(seed), dtype="float32", device="cpu")
        if (reason := refusal(ours)) is not None:
            assert REFUSED[kind].lower() in reason.lower()
            continue
        ids = tokens(1, 20, seed, ours.vocab_size)
        wanted = peer(ids).logits[0].double().log_softmax(-1)
        found = read(NativeModel(ours, threads=1), ids[0])[0].double().log_softmax(-1)
        with torch.no_grad():
            rounded = (ours(ids).logits[0].double().log_softmax(-1) - wanted).abs().max()
        assert (found - wanted).abs().max() < 1e-4 + 8 * rounded
        run += 1
    assert (run == 0) == (kind in NEVER)
