"""Recurrent layers against outside implementations: outputs, gradients and states, with weights at std 0.2."""

from __future__ import annotations

import pytest
import torch
from _small_models import VOCABULARY, randomise, tokens

from llmanac.core.spec import make_method
from llmanac.core.types import Batch
from llmanac.models.forward import Context
from llmanac.models.masks import of_batch
from llmanac.models.positions import Position

DIM = 24


def context_of(x, segments=None):
    batch = Batch(embeddings=x, segments=segments)
    mask = of_batch(batch)
    return Context(ids=None, positions=mask.queries, mask=mask, position=Position(), segments=segments)


def mixer_of(name, **choices):
    torch.manual_seed(0)
    mixer = make_method("mixer", {"name": name, **choices}).build(dim=DIM).double()
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.normal_(0, 0.2)
    return mixer


def test_gru_equals_torch():
    """Outputs, last state, gradients of the input and of every parameter."""
    ours = mixer_of("gru", hidden=17)
    peer = torch.nn.GRU(DIM, 17, batch_first=True).double()
    with torch.no_grad():
        peer.weight_ih_l0.copy_(ours.input_proj.weight)
        peer.bias_ih_l0.copy_(ours.input_proj.bias)
        peer.weight_hh_l0.copy_(ours.hidden_proj.weight)
        peer.bias_hh_l0.copy_(ours.hidden_proj.bias)
    x = torch.randn(3, 29, DIM, dtype=torch.float64)
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected, _ = peer(theirs)
    expected = ours.o_proj(expected)
    actual = ours(mine, context_of(mine))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    weight = torch.randn_like(actual)
    (actual * weight).sum().backward()
    own = {k: p.grad.clone() for k, p in ours.named_parameters() if not k.startswith("o_proj")}
    ours.zero_grad()
    (expected * weight).sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=0, atol=1e-12)
    names = {
        "input_proj.weight": "weight_ih_l0", "input_proj.bias": "bias_ih_l0",
        "hidden_proj.weight": "weight_hh_l0", "hidden_proj.bias": "bias_hh_l0",
    }  # fmt: skip
    for key, value in own.items():
        torch.testing.assert_close(value, getattr(peer, names[key]).grad, rtol=0, atol=1e-11)
    assert (actual - ours.o_proj(x[..., :17])).abs().max() > 1e-2  # it does something


def test_a_gru_model_decodes_and_packs_as_torch_does():
    """A document that follows another in a row starts from an empty state: the same as torch.nn.GRU on it alone."""
    ours = mixer_of("gru")
    x = torch.randn(1, 12, DIM, dtype=torch.float64)
    segments = torch.tensor([[0] * 5 + [1] * 7])
    packed = ours(x, context_of(x, segments))
    for part in (slice(0, 5), slice(5, 12)):
        torch.testing.assert_close(packed[:, part], ours(x[:, part], context_of(x[:, part])), rtol=0, atol=1e-12)
    assert (packed[:, 5:] - ours(x, context_of(x))[:, 5:]).abs().max() > 1e-3


def test_mamba_equals_transformers():
    """Outputs and gradients of transformers' MambaMixer (its torch path), same weights, float64."""
    transformers = pytest.importorskip("transformers")
    from transformers.models.mamba.modeling_mamba import MambaMixer

    ours = mixer_of("mamba", states=5, rank=3)
    config = transformers.MambaConfig(
        hidden_size=DIM, state_size=5, time_step_rank=3, expand=2, conv_kernel=4, use_bias=False, use_conv_bias=True,
        num_hidden_layers=1, vocab_size=11,
    )  # fmt: skip
    peer = MambaMixer(config, layer_idx=0).double()
    state = ours.state_dict()
    assert set(state) == set(peer.state_dict())
    peer.load_state_dict(state)
    x = torch.randn(2, 31, DIM, dtype=torch.float64)
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    actual, expected = ours(mine, context_of(mine)), peer(theirs)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)  # transformers casts A to float32
    weight = torch.randn_like(actual)
    (actual * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-5, atol=1e-5)
    for key, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, peer.get_parameter(key).grad, rtol=1e-5, atol=1e-5)


def test_mamba_scan_is_the_recurrence_written_out():
    from llmanac.kernels.nn.scan import plain_scan

    torch.manual_seed(1)
    a, b = torch.rand(2, 9, 4, 3, dtype=torch.float64), torch.randn(2, 9, 4, 3, dtype=torch.float64)
    c, h = torch.randn(2, 9, 3, dtype=torch.float64), torch.randn(2, 4, 3, dtype=torch.float64)
    y, last = plain_scan(a, b, c, h)
    for t in range(9):
        powers = a[:, : t + 1].flip(1).cumprod(1).flip(1)
        inside = powers[:, 0] * h + sum(
            (a[:, s + 1 : t + 1].prod(1) if s < t else 1) * b[:, s] for s in range(t + 1)
        )  # fmt: skip
        torch.testing.assert_close(y[:, t], (inside * c[:, t, None]).sum(-1), rtol=0, atol=1e-12)
    torch.testing.assert_close(last, inside, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["rnn", "gru", "lstm", "mamba", "s4", "s4d"])
def test_recurrent_state_does_not_grow(name):
    spec = {"name": "transformer", "dim": 32, "layers": 2, "position": "none", "blocks": [{"mixer": name}]}
    spec["blocks"][0]["name"] = "pre-norm"
    model = randomise(make_method("lm", spec).build(vocab_size=VOCABULARY))
    state = model.start(2)
    model(tokens(2, 3), state)
    held = state.nbytes
    model(tokens(2, 40), state)
    assert state.nbytes == held > 0
