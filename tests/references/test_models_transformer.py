"""The Transformer as a whole: attributes, errors a user meets, and that a compiled model computes the same."""

from __future__ import annotations

import shutil

import pytest
import torch
from _small_models import block, gradients, shifted, tokens, transformer

import llmanac
from llmanac.core.errors import LlmanacError, RequestError, SpecError
from llmanac.core.registry import build
from llmanac.core.spec import make_method, patch
from llmanac.core.types import Batch
from llmanac.models.load import load_model

COMPILED = {
    "llama": {"blocks": block("grouped-query")},
    "gpt2": {
        "blocks": block({"name": "multi-head", "biases": "all"}, {"name": "gelu-tanh", "biases": "all"}),
        "position": "learned",
        "norm": "layernorm",
    },
    "pointer, window": {"blocks": block({"name": "sliding-window", "window": 5}), "head": "pointer"},
    "sinusoidal, relu": {"blocks": block("multi-query", "relu"), "position": "sinusoidal"},
}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler")
@pytest.mark.parametrize(
    "name, form",
    [
        ("llama", "sdpa"),
        ("llama", "plain"),
        ("llama", "blocks"),
        ("gpt2", "plain"),
        ("pointer, window", "blocks"),
        ("sinusoidal, relu", "plain"),
    ],
)
def test_compiled_equals_eager(name, form):
    torch._dynamo.reset()
    model, batch = transformer(**COMPILED[name]), shifted(tokens(2, 17))
    model.attention_form = form
    eager = model.nll(batch)
    eager.backward()
    expected = {k: v.clone() for k, v in gradients(model).items()}
    model.zero_grad()
    compiled = torch.compile(model.nll)(batch)
    compiled.backward()
    # RoPE's angles are float32 by design, and the compiler's cosine differs from torch's in its last bit
    torch.testing.assert_close(compiled, eager, rtol=1e-7, atol=0)
    for key, value in gradients(model).items():
        assert (value - expected[key]).abs().max() < 1e-5 * expected[key].abs().max() + 1e-12, key


def test_the_public_surface():
    model = build("lm", "transformer", vocab_size=11, dim=16, layers=1)
    assert llmanac.load_model.__module__ == "llmanac.models.load"
    assert model(tokens(1, 4, below=11)).logits.shape == (1, 4, 11)
    assert model.parameter_count() == sum(p.numel() for p in model.parameters())
    untied = build("lm", "transformer", vocab_size=11, dim=16, layers=1, tied=False)
    assert untied.parameter_count() == model.parameter_count() + 11 * 16


def test_parameter_names_are_llamas():
    names = set(transformer(layers=1, tied=False).state_dict())
    assert names == {
        "model.embed_tokens.weight",
        "model.layers.0.input_layernorm.weight",
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.0.self_attn.k_proj.weight",
        "model.layers.0.self_attn.v_proj.weight",
        "model.layers.0.self_attn.o_proj.weight",
        "model.layers.0.post_attention_layernorm.weight",
        "model.layers.0.mlp.gate_proj.weight",
        "model.layers.0.mlp.up_proj.weight",
        "model.layers.0.mlp.down_proj.weight",
        "model.norm.weight",
        "lm_head.weight",
    }


def test_a_pattern_of_blocks_repeats():
    pattern = block("sliding-window") + block("multi-query", "relu")
    model = transformer(layers=4, blocks=pattern)
    assert [layer.self_attn.window for layer in model.model.layers] == [128, None, 128, None]
    assert [layer.self_attn.kv_heads for layer in model.model.layers] == [4, 1, 4, 1]
    assert [layer.self_attn.window for layer in transformer(layers=3, blocks=pattern).model.layers] == [128, None, 128]
    with pytest.raises(SpecError, match="layers: 1 is fewer than the 2 blocks of the pattern"):
        transformer(layers=1, blocks=pattern)
    with pytest.raises(SpecError, match=r"position: rope needs one head_dim in all blocks, not \[8, 16\]"):
        transformer(blocks=block() + block({"name": "multi-head", "head_dim": 16}))


def test_a_pattern_as_text(tmp_path):
    """It is the same model as the list of blocks; layers may cut the last repetition."""
    text = "mamba*2 window+relu full mamba+swiglu"
    blocks = [*block("mamba", "none") * 2, *block("sliding-window", "relu"), *block(), *block("mamba")]
    model, other = (transformer(layers=7, blocks=b) for b in (text, blocks))
    assert model.spec == other.spec
    assert patch(make_method("lm", {"name": "transformer", "layers": 7}), {"blocks": text}).blocks == model.spec.blocks
    assert torch.equal(model(tokens(1, 9)).logits, other(tokens(1, 9)).logits)
    for own in (model, other):
        again = load_model(own.save_pretrained(tmp_path / "model"))
        assert again.spec == model.spec
        assert torch.equal(again(tokens(1, 9)).logits, model.float()(tokens(1, 9)).logits)


@pytest.mark.parametrize(
    "text, message",
    [
        ("mambo*2 full", "blocks: no mixer named 'mambo'.* did you mean 'mamba'"),
        ("full+swigluu", "did you mean 'swiglu'"),
        ("full*0", r"blocks: 'full\*0' is not MIXER"),
        ("full*x", "is not MIXER"),
        ("full*", "is not MIXER"),
        ("*3", "is not MIXER"),
        ("full+", "is not MIXER"),
        ("full*" + "9" * 5000, "makes more than 1024 blocks"),
        (" ", "blocks: needs at least one block"),
        ("full*5", "layers: 4 is fewer than the 5 blocks"),
    ],
)
def test_a_wrong_pattern_is_explained(text, message):
    with pytest.raises(SpecError, match=message):
        make_method("lm", {"name": "transformer", "blocks": text})


def test_packing_without_positions_still_separates_documents():
    """Segments alone keep attention inside a document; positions then count on through the row."""
    model, ids = transformer(position="none"), tokens(1, 12)
    segments = (torch.arange(12) >= 5).long()[None]
    packed = model(Batch(ids=ids, segments=segments)).logits
    torch.testing.assert_close(packed[:, 5:], model(ids[:, 5:]).logits, rtol=0, atol=1e-12)


def test_inputs_that_cannot_be_taken_are_explained():
    model = transformer()
    with pytest.raises(RequestError, match="ids: 61 is not a token id below 61"):
        model(torch.tensor([[3, 61]]))
    with pytest.raises(RequestError, match="ids: -1 is not a token id below 61"):
        model(torch.tensor([[3, -1]]))
    with pytest.raises(RequestError, match=r"got shape \(1, 0\)"):
        model(torch.zeros(1, 0, dtype=torch.long))
    with pytest.raises(RequestError, match=r"got shape \(4,\)"):
        model(torch.zeros(4, dtype=torch.long))
    with pytest.raises(RequestError, match="nll needs a batch with targets"):
        model.nll(Batch(ids=tokens(1, 4)))
    with pytest.raises(RequestError, match="targets"):
        model.nll(Batch(ids=tokens(1, 4), targets=tokens(1, 3)))
    with pytest.raises(LlmanacError, match="99 is not a token id below 61"):
        model.nll(Batch(ids=tokens(1, 2), targets=torch.tensor([[1, 99]])))


def test_states_that_do_not_fit_are_explained():
    model = transformer()
    state = model.start(2)
    with pytest.raises(RequestError, match="state: holds 2 rows, the batch has 3"):
        model(tokens(3, 4), state)
    model(tokens(2, 4), state)
    with pytest.raises(RequestError, match=r"cannot rewind rows of \[4, 4\] tokens to \[5, 0\]"):
        state.rewind(None, torch.tensor([5, 0]))
    with pytest.raises(RequestError, match="state of 3 parts with one of 4"):
        state.join(transformer(layers=3).start(1))
    with pytest.raises(RequestError, match="bidirectional tokens cannot follow"):
        model(Batch(ids=tokens(2, 2), mask="bidirectional"), state)
    with pytest.raises(RequestError, match="segments"):
        model(Batch(ids=tokens(2, 2), segments=torch.zeros(2, 2, dtype=torch.long)), state)
    with pytest.raises(RequestError, match="all of a row's prefix must come in one piece"):
        model(Batch(ids=tokens(2, 2), mask="prefix", prefix=torch.tensor([5, 5])), state)


def test_capacity_grows_by_doubling_and_reserve_avoids_it():
    model = transformer()
    state, sizes = model.start(1), set()
    with torch.inference_mode():
        for token in tokens(1, 40).split(1, dim=1):
            model(token, state)
            sizes.add(state.layers[0].capacity)
        assert sizes == {16, 32, 64}
        state = model.start(1)
        state.reserve(40)
        held = state.nbytes
        model(tokens(1, 40), state)
    assert state.nbytes == held


def test_building_on_the_meta_device_draws_nothing():
    with torch.device("meta"):
        model = build("lm", "transformer", vocab_size=50_000, dim=4096, layers=2)
    assert model.device.type == "meta"
    with pytest.raises(LlmanacError, match="it is on the meta device"):
        model.save_pretrained("nowhere")


def test_a_block_may_have_positions_of_its_own():
    """A block's own method takes the place of the model's: rope everywhere but here equals none everywhere."""
    own = [{"name": "pre-norm", "position": "none"}]
    without = transformer(position="none")
    mixed = transformer(position="rope", blocks=own)
    mixed.load_state_dict(without.state_dict())
    ids = tokens(2, 12)
    torch.testing.assert_close(mixed(ids).logits, without(ids).logits, rtol=0, atol=1e-12)
    hybrid = transformer(
        blocks=[{"name": "pre-norm"}, {"name": "pre-norm", "position": {"name": "rope", "theta": 50.0}}]
    )
    full = hybrid(ids).logits
    assert (full - transformer()(ids).logits).abs().max() > 1e-3
    with torch.inference_mode():
        state = hybrid.start(2)
        parts = torch.cat([hybrid(part, state).logits for part in ids.split((5, 1, 6), 1)], 1)
    torch.testing.assert_close(parts, full, rtol=0, atol=1e-10)
