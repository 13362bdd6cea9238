"""A step of the native runner: attention of few queries, and the choice of greedy tokens, against torch and itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from _small_models import block, tokens, transformer

from llmanac.generate.engine import Engine
from llmanac.generate.native import NativeModel, NativeRunner


@pytest.mark.parametrize("heads", [2, 3, 8])
def test_wide_heads_have_the_same_bits_in_pieces(heads):
    """The form of attention depends on how many queries read together."""
    mixer = {"name": "multi-head", "heads": heads, "kv_heads": 1, "head_dim": 96}
    made = NativeModel(transformer(dtype=torch.float32, dim=64, blocks=block(mixer)), weights="q8_0", threads=1)
    (ids,) = tokens(1, 35).tolist()
    runner = NativeRunner(made)
    runner.extend([ids, ids], 64)
    wanted = torch.from_numpy(runner.read(1, [ids], every=True)[0])
    found = torch.cat([torch.from_numpy(runner.read(0, [[i]], every=False)[0]) for i in ids])
    assert torch.equal(found, wanted)


def test_the_best_tokens_equal_torch():
    logits = 3 * torch.randn(3, 5003, generator=torch.Generator().manual_seed(1))
    logits[1, 7] = logits[1, 4000] = 20.0  # a tie
    runner = NativeRunner(NativeModel(transformer(dtype=torch.float32), threads=1))
    ids, own, _, lead = zip(*runner.best(logits.numpy()), strict=True)
    two = logits.topk(2).values
    assert list(ids) == [logits[0].argmax(), 7, logits[2].argmax()]
    torch.testing.assert_close(torch.tensor(own), logits.double().log_softmax(-1).amax(-1).float(), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.tensor(lead), two[:, 0] - two[:, 1], atol=0, rtol=0)
    for odd in (torch.nan, torch.inf, -torch.inf):
        logits[2, 5000] = odd
        assert runner.best(logits.numpy()) is None


def test_a_greedy_token_is_the_same_with_alternatives_and_without():
    model = transformer(dtype=torch.float32)
    engine = Engine(model, runner=NativeModel(model, threads=1))
    plain, full = (engine.generate([5, 6, 7], max_new_tokens=12, **more)[0] for more in ({}, {"logprobs": 2}))
    assert plain.ids == full.ids
    np.testing.assert_allclose(plain.arrays.logprobs, full.arrays.logprobs, atol=2e-6)
    for one, other in zip(plain.token_logprobs, full.token_logprobs, strict=True):
        assert one.margin == pytest.approx(other.margin, abs=1e-6)
