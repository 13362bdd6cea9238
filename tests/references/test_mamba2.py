"""Mamba-2 against transformers and against its recurrence, with weights at std 0.2."""

from __future__ import annotations

import pytest
import torch
from test_recurrent import DIM, context_of, mixer_of

from llmanac.core.errors import SpecError
from llmanac.core.spec import make_method
from llmanac.models.mixers.mamba2 import dual


@pytest.mark.parametrize("length", [1, 31, 150])
def test_outputs_and_gradients_equal_transformers(length):
    """transformers' Mamba2Mixer (its torch path), which computes the scan and the norm in float32."""
    transformers = pytest.importorskip("transformers")
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    ours = mixer_of("mamba2", states=5, head_dim=6, groups=2)
    config = transformers.Mamba2Config(
        hidden_size=DIM, state_size=5, expand=2, head_dim=6, num_heads=8, n_groups=2, conv_kernel=4, chunk_size=16,
        use_bias=False, use_conv_bias=True, num_hidden_layers=1, vocab_size=11, layer_norm_epsilon=1e-5,
    )  # fmt: skip
    peer = Mamba2Mixer(config, layer_idx=0).double()
    state = ours.state_dict()
    assert set(state) == set(peer.state_dict())
    peer.load_state_dict(state)
    x = torch.randn(2, length, DIM, dtype=torch.float64)
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    actual, expected = ours(mine, context_of(mine)), peer(theirs)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    weight = torch.randn_like(actual)
    (actual * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-4)
    for key, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, peer.get_parameter(key).grad, rtol=1e-4, atol=1e-4)


def recurrence(v, dt, a, b, c, h, begins=None):
    """Step by step, from the formula."""
    found, share = [], v.shape[2] // b.shape[2]
    for t in range(v.shape[1]):
        if begins is not None:
            h = h * (~begins[:, t]).to(h.dtype)[:, None, None, None]
        inputs, outputs = (x[:, t].repeat_interleave(share, dim=1) for x in (b, c))
        driven = (dt[:, t, :, None] * v[:, t])[..., None] * inputs[:, :, None]
        h = torch.exp(dt[:, t] * a)[..., None, None] * h + driven
        found.append((h * outputs[:, :, None]).sum(-1))
    return torch.stack(found, 1), h


@pytest.mark.parametrize("length", [1, 63, 64, 65, 200])
@pytest.mark.parametrize("packed", [False, True])
def test_chunks_equal_the_recurrence(length, packed):
    """Values, last state and every gradient, float64."""
    generator = torch.Generator().manual_seed(length)

    def drawn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    given = [
        drawn(2, length, 4, 3), torch.nn.functional.softplus(drawn(2, length, 4) - 1), -drawn(4).exp(),
        drawn(2, length, 2, 5), drawn(2, length, 2, 5), drawn(2, 4, 3, 5),
    ]  # fmt: skip
    begins = torch.rand(2, length, generator=generator) < 0.05 if packed else None
    weights = drawn(2, length, 4, 3), drawn(2, 4, 3, 5)
    found = []
    for form in (dual, recurrence):
        inputs = [x.clone().requires_grad_() for x in given]
        y, h = form(*inputs, begins)
        ((y * weights[0]).sum() + (h * weights[1]).sum()).backward()
        found.append([y, h, *(x.grad for x in inputs)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
    assert found[0][0].abs().max() > 0.1


def test_sizes_that_do_not_divide_are_named():
    with pytest.raises(SpecError, match="head_dim: 5"):
        make_method("mixer", {"name": "mamba2", "head_dim": 5}).build(dim=16)
    with pytest.raises(SpecError, match="groups: 3"):
        make_method("mixer", {"name": "mamba2", "head_dim": 8, "groups": 3}).build(dim=16)
    assert make_method("mixer", "mamba2").build(dim=24).head_dim == 16
