"""Positions against the paper's formula (sinusoidal), CTRL, GPT-2 (learned) and Llama with its scalings (RoPE)."""

from __future__ import annotations

import math

import pytest
import torch
from _small_models import randomise, tokens, transformer
from transformers import CTRLConfig, Glm4Config, LlamaConfig
from transformers.models.ctrl.modeling_ctrl import positional_encoding
from transformers.models.glm4 import modeling_glm4 as glm4
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from llmanac.core.errors import RequestError, SpecError
from llmanac.core.registry import build
from llmanac.core.types import Batch
from llmanac.models.positions.sinusoidal import sinusoids

AT = torch.arange(30)[None]
SHAPE = {"dim": 64, "heads": 4, "head_dim": 16, "max_length": 128}


def test_sinusoidal_is_the_papers_formula():
    dim, table = 10, sinusoids(torch.arange(50), 10, 10_000.0)
    for p in (0, 1, 7, 49):
        for i in range(dim // 2):
            angle = p / 10_000 ** (2 * i / dim)
            assert table[p, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-12)
            assert table[p, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-12)
    x = torch.randn(2, 50, dim, dtype=torch.float64)
    embedded = build("position", "sinusoidal", dim=dim, heads=1, head_dim=dim, max_length=64).embed(
        x, torch.arange(50)[None]
    )
    torch.testing.assert_close(embedded, x * math.sqrt(dim) + table, rtol=1e-12, atol=1e-12)


def test_sines_do_not_drown_the_embeddings():
    """Section 3.4: embeddings start at D^-0.5 and are multiplied by D^0.5, so they are as large as the sines."""
    model = build("lm", "transformer", vocab_size=500, dim=64, layers=1, position="sinusoidal", max_length=32)
    tokens = model.model.embed_tokens.weight.detach()
    ratio = tokens.square().mean().sqrt() * 64**0.5 / sinusoids(torch.arange(32), 64, 10_000.0).square().mean().sqrt()
    assert 1.3 < float(ratio) < 1.5


def test_sinusoidal_equals_ctrl_up_to_order():
    dim = CTRLConfig(n_embd=64).n_embd
    theirs = positional_encoding(100, dim, torch.float32)  # all sines first, then all cosines
    ours = sinusoids(torch.arange(100), dim, 10_000.0)
    torch.testing.assert_close(ours[:, 0::2].float(), theirs[:, : dim // 2], rtol=0, atol=2e-5)
    torch.testing.assert_close(ours[:, 1::2].float(), theirs[:, dim // 2 :], rtol=0, atol=2e-5)


def test_learned_adds_the_row_of_each_position():
    position = randomise(build("position", "learned", rows=20, **SHAPE))
    x, positions = torch.randn(2, 5, 64), torch.tensor([[3, 4, 0, 1, 19], [0, 0, 7, 7, 2]])
    torch.testing.assert_close(position.embed(x, positions), x + position.embeddings.weight[positions])


ROPES = {
    "default": ({"rope_type": "default", "rope_theta": 1e4}, {}),
    "theta": ({"rope_type": "default", "rope_theta": 5e5}, {"theta": 5e5}),
    "linear": (
        {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0},
        {"scaling": {"type": "linear", "factor": 4.0}},
    ),
    "llama3": (
        {
            "rope_type": "llama3",
            "rope_theta": 5e5,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
        {"theta": 5e5, "scaling": {"type": "llama3", "factor": 8.0, "original_length": 32}},
    ),
}


@pytest.mark.parametrize("name", ROPES)
def test_rope_equals_llama(name):
    theirs, ours = ROPES[name]
    rotary = LlamaRotaryEmbedding(
        LlamaConfig(hidden_size=64, num_attention_heads=4, max_position_embeddings=128, rope_parameters=theirs)
    )
    position = build("position", "rope", **ours, **SHAPE)
    torch.testing.assert_close(position.frequencies, rotary.inv_freq, rtol=1e-6, atol=0)
    q = torch.randn(2, 100, 4, 16, dtype=torch.float64)
    positions = torch.stack([torch.arange(100), torch.randperm(100)])
    cos, sin = rotary(q, positions)
    expected, _ = apply_rotary_pos_emb(q, q, cos, sin, unsqueeze_dim=2)
    actual = position.rotate(q, position.prepare(positions, torch.float64))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 if name == "llama3" else 1e-12)
    assert (actual - q)[:, 1:].abs().max() > 0.1


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_pairs_equal_glm4_up_to_order(fraction):
    """Theirs leave as pairs, ours as halves; scores are the same."""
    config = Glm4Config(
        hidden_size=64, num_attention_heads=4, head_dim=16, max_position_embeddings=128, eos_token_id=2,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": fraction},
    )  # fmt: skip
    q = torch.randn(2, 30, 4, 16, dtype=torch.float64)
    expected, _ = glm4.apply_rotary_pos_emb(q, q, *glm4.Glm4RotaryEmbedding(config)(q, AT), unsqueeze_dim=2)
    turned = {}
    for layout in ("pairs", "halves"):
        position = build("position", "rope", rotary_fraction=fraction, layout=layout, **SHAPE)
        turned[layout] = position.rotate(q, position.prepare(AT, torch.float64))
    size = int(16 * fraction)
    order = torch.cat([torch.arange(0, size, 2), torch.arange(1, size, 2), torch.arange(size, 16)])
    torch.testing.assert_close(turned["pairs"], expected[..., order], rtol=0, atol=1e-12)
    scores = [torch.einsum("bthd,bshd->bhts", x, x) for x in (turned["pairs"], expected, turned["halves"])]
    torch.testing.assert_close(scores[0], scores[1], rtol=0, atol=1e-12)
    assert (scores[0] - scores[2]).abs().max() > 0.1


def test_rope_scalings_differ_from_none_and_from_one_another():
    found = [build("position", "rope", **ROPES[n][1], **SHAPE).frequencies for n in ("theta", "linear", "llama3")]
    assert not torch.allclose(found[0], found[2], rtol=0.1) and not torch.allclose(found[1], found[2], rtol=0.1)


def test_rope_scores_depend_on_distance_alone():
    position = build("position", "rope", **SHAPE)
    q, k = torch.randn(2, 1, 1, 1, 16, dtype=torch.float64)

    def score(p, s):
        turned = [
            position.rotate(x, position.prepare(torch.tensor([[at]]), torch.float64)) for x, at in ((q, p), (k, s))
        ]
        return (turned[0] * turned[1]).sum().item()

    assert score(7, 3) == pytest.approx(score(104, 100), abs=1e-5)
    assert abs(score(7, 3) - score(7, 4)) > 1e-2


def test_rope_gradient_and_share():
    position = build("position", "rope", rotary_fraction=0.5, **SHAPE)
    x = torch.randn(1, 3, 2, 16, dtype=torch.float64, requires_grad=True)
    prepared = position.prepare(torch.arange(3)[None], torch.float64)
    assert torch.equal(position.rotate(x, prepared)[..., 8:], x[..., 8:])
    whole = build("position", "rope", **SHAPE)
    assert torch.autograd.gradcheck(
        lambda y: whole.rotate(y, whole.prepare(torch.arange(3)[None], torch.float64)), (x,)
    )
    assert torch.autograd.gradcheck(lambda y: position.rotate(y, prepared), (x,))
    small = build("position", "rope", dim=16, heads=1, head_dim=8, max_length=9)
    torch.testing.assert_close(  # a share turns as a smaller head would
        position.rotate(x, prepared)[..., :8], small.rotate(x[..., :8], small.prepare(torch.arange(3)[None], x.dtype))
    )


def test_casting_a_model_leaves_the_angles_alone():
    model = transformer(position="rope", dtype=torch.float32)
    before = model.model.position.frequencies.clone()
    model.bfloat16()
    assert torch.equal(model.model.position.frequencies, before) and before.dtype == torch.float32


@pytest.mark.parametrize("name", ["rope", "sinusoidal", "learned"])
def test_differs_from_no_positions(name):
    ids = tokens(2, 24)
    with_positions, without = transformer(position=name), transformer(position="none")
    state = {k: v for k, v in with_positions.state_dict().items() if "position" not in k}
    without.load_state_dict(state)
    assert (with_positions(ids).logits - without(ids).logits)[:, 1:].abs().max() > 0.1


def test_no_positions_are_blind_to_order_in_both_directions():
    """Without positions and without a causal mask, permuting the input permutes the output."""
    model, ids = transformer(position="none"), tokens(1, 12)
    order = torch.randperm(12)
    straight = model(Batch(ids=ids, mask="bidirectional")).logits
    turned = model(Batch(ids=ids[:, order], mask="bidirectional")).logits
    torch.testing.assert_close(turned, straight[:, order], rtol=1e-10, atol=1e-10)
    rope = transformer(position="rope")
    assert (
        rope(Batch(ids=ids[:, order], mask="bidirectional")).logits
        - rope(Batch(ids=ids, mask="bidirectional")).logits[:, order]
    ).abs().max() > 0.1


def test_learned_positions_end():
    model = transformer(position={"name": "learned", "rows": 10})
    assert model(tokens(2, 10)).logits.shape == (2, 10, 61)
    with pytest.raises(RequestError, match="11 tokens, but only 10 positions were learned"):
        model(tokens(1, 11))
    with pytest.raises(RequestError, match="11 tokens, but only 10"):
        model(Batch(ids=tokens(1, 2), positions=torch.tensor([[3, 10]])))
    state = model.start(2)
    padded = Batch(ids=tokens(2, 10), lengths=torch.tensor([10, 4]))
    model(padded, state)
    model(Batch(ids=tokens(2, 6), lengths=torch.tensor([0, 6])), state)  # padding may stand past the last row
    assert state.lengths.tolist() == [10, 10]
    with pytest.raises(RequestError, match="11 tokens, but only 10"):
        model(tokens(2, 1), state)


def test_errors_name_the_field():
    with pytest.raises(SpecError, match=r"position/rope\.rotary_fraction: 0\.0 must be above 0"):
        build("position", "rope", rotary_fraction=0.0, **SHAPE)
    with pytest.raises(SpecError, match=r"scaling.type: 'yarns' is not one of 'linear', .*did you mean 'yarn'"):
        build("position", "rope", scaling={"type": "yarns", "factor": 2.0}, **SHAPE)
    with pytest.raises(SpecError, match=r"scaling\.factor: 0\.5 must be at least 1"):
        build("position", "rope", scaling={"type": "linear", "factor": 0.5}, **SHAPE)
    with pytest.raises(SpecError, match="did you mean 'theta'"):
        build("lm", "transformer", position={"name": "rope", "thta": 1.0}, vocab_size=8)
