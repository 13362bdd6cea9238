"""Tensor-parallel inference gives the tokens of one process, and says when a rank is lost."""

from __future__ import annotations

import os
import signal
from itertools import chain

import pytest
import torch
from _ranks import on_ranks
from test_parallel import built

from llmanac.core.errors import SpecError, TrainingError
from llmanac.generate.engine import Engine
from llmanac.models.load import load_model
from llmanac.models.save import save_model
from llmanac.parallel import serving

pytestmark = pytest.mark.usefixtures("one_thread")
PROMPTS = [[1, 2, 3], [4, 5, 6, 7, 8], [9]]


@pytest.fixture
def folder(tmp_path):
    return str(save_model(built(), tmp_path))


def engine_of(folder):
    """One process, in float64."""
    return Engine(load_model(folder, device="cpu", dtype=torch.float64), rows=2)


def test_tokens_equal_one_process(folder):
    """Greedy, sampled and beams; three prompts in two rows, so that rows end, move and begin."""
    ways = [{}, {"temperature": 1.0, "seed": 3, "n": 2}, {"beams": 3}]
    options = [{"max_new_tokens": 8, "stop_ids": (), **way} for way in ways]
    expected = [engine_of(folder).generate(PROMPTS, **one) for one in options]
    assert len({tuple(done.ids) for done in expected[1]}) == 6

    def rank_0():
        engine = engine_of(folder)
        with serving.serving(engine, folder, 2, timeout=30):
            assert engine.model.model.layers[0].self_attn.q_proj.weight.to_local().shape == (16, 16)
            found = [engine.generate(PROMPTS, **one) for one in options]
        for a, b in zip(chain(*found), chain(*expected), strict=True):
            assert a.ids == b.ids
            wanted = [token.logprob for token in b.token_logprobs]
            assert [token.logprob for token in a.token_logprobs] == pytest.approx(wanted, abs=1e-9)

    on_ranks(2, rank_0, others=serving.follow)


def test_a_rank_that_dies_ends_the_request_with_an_error(folder):
    def rank_0():
        engine = engine_of(folder)
        with serving.serving(engine, folder, 2, timeout=5):
            engine.generate(PROMPTS, max_new_tokens=2)
            os.kill(int(engine.make_runner().calls.mesh.store.get("process/1")), signal.SIGKILL)
            for _ in range(2):  # at once, and from then on
                with pytest.raises(TrainingError, match=r"rank 1 stopped or hangs in a forward pass"):
                    engine.generate(PROMPTS, max_new_tokens=8)

    with pytest.raises(AssertionError, match=r"failed \[1\]"):
        on_ranks(2, rank_0, others=serving.follow)


def test_what_cannot_be_divided_is_refused():
    model = built(position="none", blocks=[{"name": "pre-norm", "mixer": "mamba", "ffn": "none"}])
    with pytest.raises(SpecError, match=r"Mamba of layer 0 cannot be divided"):
        serving.check(model, 2)
