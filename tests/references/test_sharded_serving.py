"""Inference divided over ranks gives the tokens of one process, and says when a rank is lost."""

from __future__ import annotations

import os
import signal
from itertools import chain

import pytest
import torch
from _ranks import on_ranks
from test_parallel import built
from torch.utils.flop_counter import FlopCounterMode

from llmanac.core.errors import SpecError, TrainingError
from llmanac.generate.engine import Engine
from llmanac.models.load import load_model
from llmanac.models.save import save_model
from llmanac.parallel import serving

pytestmark = pytest.mark.usefixtures("one_thread")
PROMPTS = [[1, 2, 3], [4, 5, 6, 7, 8], [9]]


MESHES = [{"tensor": 2}, {"pipeline": 2}]
GPT2 = {
    "position": "learned", "norm": "layernorm", "layers": 3,
    "blocks": [{"name": "pre-norm", "mixer": {"name": "softmax", "heads": 4, "biases": "all"},
                "ffn": {"name": "mlp", "activation": "gelu", "biases": "all"}}],
}  # fmt: skip
MIXED = {
    "tied": False, "layers": 3, "position": "none",
    "blocks": [{"name": "pre-norm", "mixer": "mamba", "ffn": {"name": "experts", "experts": 2}}],
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    return str(save_model(built(), tmp_path))


def engine_of(folder):
    """One process, in float64."""
    return Engine(load_model(folder, device="cpu", dtype=torch.float64), rows=2)


def equal_tokens(folder, mesh, check=lambda engine, calls: None):
    """Greedy, sampled and beams; three prompts in two rows, so that rows end, move and begin."""
    ways = [{}, {"temperature": 1.0, "seed": 3, "n": 2}, {"beams": 3}]
    options = [{"max_new_tokens": 8, "stop_ids": (), **way} for way in ways]
    expected = [engine_of(folder).generate(PROMPTS, **one) for one in options]
    assert len({tuple(done.ids) for done in expected[1]}) == 6

    def rank_0():
        engine = engine_of(folder)
        with serving.serving(engine, folder, **mesh, timeout=30) as calls:
            check(engine, calls)
            found = [engine.generate(PROMPTS, **one) for one in options]
        for a, b in zip(chain(*found), chain(*expected), strict=True):
            assert a.ids == b.ids
            wanted = [token.logprob for token in b.token_logprobs]
            assert [token.logprob for token in a.token_logprobs] == pytest.approx(wanted, abs=1e-9)

    ranks = mesh.get("tensor", 1) * mesh.get("pipeline", 1)
    on_ranks(ranks, rank_0, others=serving.follow)


def test_tensor_parallel_tokens_equal_one_process(folder):
    def check(engine, calls):
        assert engine.model.model.layers[0].self_attn.q_proj.weight.shape == (16, 16)

    equal_tokens(folder, {"tensor": 2}, check)


@pytest.mark.parametrize("mesh", MESHES)
def test_each_rank_computes_its_part(folder, mesh):
    """Counted FLOPs of the same requests: rank 0 of two computes about half of them."""

    def flops(engine):
        with FlopCounterMode(display=False) as counter:
            engine.generate(PROMPTS, max_new_tokens=4, stop_ids=())
        return counter.get_total_flops()

    whole = flops(engine_of(folder))

    def check(engine, calls):
        assert 0.4 * whole < flops(engine) < 0.6 * whole

    equal_tokens(folder, mesh, check)


def test_pipeline_tokens_equal_one_process(folder):
    def check(engine, calls):
        """Each rank has half of the layers and the (tied) matrix, and the states of its layers alone."""
        model = load_model(folder, device="cpu", dtype=torch.float64)
        layer = sum(p.nbytes for p in model.model.layers[0].parameters())
        ends, norm = model.lm_head.weight.nbytes, model.model.norm.weight.nbytes
        assert [rank["weights"] for rank in calls.held()] == [2 * layer + ends, 2 * layer + ends + norm]
        runner = engine.make_runner()
        runner.extend([[1, 2, 3]], 8)
        runner.read(0, [[1, 2, 3]], every=False)
        state = model.start(1)
        state.reserve(8)
        model(torch.tensor([[1, 2, 3]]), state)
        assert [rank["states"] for rank in calls.held()] == [state.nbytes // 2] * 2
        runner.reset()
        assert [rank["states"] for rank in calls.held()] == [0, 0]

    equal_tokens(folder, {"pipeline": 2}, check)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mesh", "choices"),
    [({"tensor": 2, "pipeline": 2}, {}), ({"tensor": 2}, GPT2), ({"pipeline": 3}, GPT2), ({"pipeline": 3}, MIXED)],
    ids=["2 x 2", "tensor gpt2", "pipeline gpt2", "pipeline mamba and experts"],
)
def test_further_tokens_equal_one_process(tmp_path, mesh, choices):
    equal_tokens(str(save_model(built(**choices), tmp_path)), mesh)


@pytest.mark.parametrize("mesh", MESHES, ids=["tensor", "pipeline"])
def test_a_rank_that_dies_ends_the_request_with_an_error(folder, mesh):
    def rank_0():
        engine = engine_of(folder)
        with serving.serving(engine, folder, **mesh, timeout=5) as calls:
            engine.generate(PROMPTS, max_new_tokens=2)
            os.kill(int(calls.mesh.store.get("process/1")), signal.SIGKILL)
            for _ in range(2):  # at once, and from then on
                with pytest.raises(
                    TrainingError, match=r"rank 1 stopped or hangs in a forward pass \((all_reduce|recv)\)"
                ):
                    engine.generate(PROMPTS, max_new_tokens=8)

    with pytest.raises(AssertionError, match=r"failed \[1\]"):
        on_ranks(2, rank_0, others=serving.follow)


def test_a_further_rank_says_that_rank_0_stopped(folder, tmp_path):
    def rank_0():
        with serving.serving(engine_of(folder), folder, pipeline=2, timeout=5) as calls:
            calls.held()  # rank 1 has done all commands, and waits
            os.kill(os.getpid(), signal.SIGKILL)

    def rank_1():
        with pytest.raises(TrainingError, match=r"rank 0 stopped while it was waited for"):
            serving.follow()
        (tmp_path / "said").touch()

    with pytest.raises(AssertionError, match=r"failed \[0\]"):
        on_ranks(2, rank_0, others=rank_1)
    assert (tmp_path / "said").exists()


def test_what_cannot_be_divided_is_refused():
    model = built(position="none", blocks=[{"name": "pre-norm", "mixer": "mamba", "ffn": "none"}])
    with pytest.raises(SpecError, match=r"--tensor: Mamba of layer 0 cannot be divided .*; use --pipeline"):
        serving.check(model, 2, 1)
    with pytest.raises(SpecError, match=r"--pipeline: 4 layers are fewer than 5 stages"):
        serving.check(model, 1, 5)
