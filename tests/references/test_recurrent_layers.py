"""RNN, GRU and LSTM against torch.nn: outputs, final states and gradients, weights at std 0.2, float64."""

from __future__ import annotations

import pytest
import torch
from test_recurrent import DIM, context_of, mixer_of

from llmanac.core.types import Batch
from llmanac.models.forward import Context
from llmanac.models.masks import of_continuation
from llmanac.models.positions import Position
from llmanac.models.state import DecodingState

HIDDEN = 17
PEERS = {"rnn": torch.nn.RNN, "rnn-relu": torch.nn.RNN, "gru": torch.nn.GRU, "lstm": torch.nn.LSTM}
NAMES = {
    "input_proj.weight": "weight_ih_l0", "input_proj.bias": "bias_ih_l0",
    "hidden_proj.weight": "weight_hh_l0", "hidden_proj.bias": "bias_hh_l0",
}  # fmt: skip
every = pytest.mark.parametrize("name", PEERS)


def pair(name):
    ours = mixer_of(name, hidden=HIDDEN)
    choices = {"nonlinearity": "relu"} if name == "rnn-relu" else {}
    peer = PEERS[name](DIM, HIDDEN, batch_first=True, **choices).double()
    with torch.no_grad():
        for own, theirs in NAMES.items():
            getattr(peer, theirs).copy_(ours.get_parameter(own))
    return ours, peer


def with_state(ours, x, state, lengths=None):
    """The layer on tokens that follow what `state` holds."""
    held = DecodingState([state], len(x))
    held.rows = state.rows
    batch = Batch(embeddings=x, lengths=lengths)
    slots = held.slots(x.shape[1], lengths)
    mask = of_continuation(batch, slots)
    context = Context(
        ids=None, positions=mask.queries, mask=mask, position=Position(), slots=slots, lengths=lengths
    )  # fmt: skip
    y = ours(x, context, state)
    held.advance(x.shape[1], lengths)
    return y


def started(ours, rows):
    state = ours.start(rows, dtype=torch.float64, device=torch.device("cpu"))
    state.rows = DecodingState([state], rows).rows
    return state


@every
@pytest.mark.parametrize("form", ["kernel", "steps"])
def test_outputs_states_and_gradients_equal_torch(name, form, monkeypatch):
    ours, peer = pair(name)
    if form == "steps":
        monkeypatch.setattr("llmanac.models.mixers._recurrence.takes", lambda x: False)
    x = torch.randn(3, 29, DIM, dtype=torch.float64)
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected, last = peer(theirs)
    expected = ours.o_proj(expected)
    state = started(ours, 3)
    actual = with_state(ours, mine, state)
    torch.testing.assert_close(actual, ours(mine, context_of(mine)), rtol=0, atol=0)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    for held, part in zip(state.tensors, last if name == "lstm" else (last,), strict=True):
        torch.testing.assert_close(held, part[0], rtol=0, atol=1e-12)
    weight = torch.randn_like(actual)
    (actual * weight).sum().backward()
    own = {key: ours.get_parameter(key).grad.clone() for key in NAMES}
    ours.zero_grad()
    (expected * weight).sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=0, atol=1e-12)
    for key, value in own.items():
        torch.testing.assert_close(value, getattr(peer, NAMES[key]).grad, rtol=0, atol=1e-11)
    assert (actual - ours.o_proj(x[..., :HIDDEN])).abs().max() > 1e-2  # it does something


@every
def test_ragged_rows_equal_torch_on_each_row(name):
    """A state holds what torch.nn has after each row's last real token; padding changes no output and no gradient."""
    ours, peer = pair(name)
    x, lengths = torch.randn(3, 11, DIM, dtype=torch.float64), torch.tensor([11, 4, 0])
    state = started(ours, 3)
    first = with_state(ours, x[:, :5], state)
    mine = x[:, 5:].clone().requires_grad_()
    actual = with_state(ours, mine, state, (lengths - 5).clamp(0))
    for row, count in enumerate([11, 5, 5]):
        expected, last = peer(x[row : row + 1, :count])
        found = torch.cat([first[row], actual[row]])[:count]
        torch.testing.assert_close(found, ours.o_proj(expected[0]), rtol=0, atol=1e-12)
        for held, part in zip(state.tensors, last if name == "lstm" else (last,), strict=True):
            torch.testing.assert_close(held[row], part[0, 0], rtol=0, atol=1e-12)
    actual[0].sum().backward()
    assert mine.grad[0].abs().min() > 0 and mine.grad[1:].abs().max() == 0


@every
def test_a_packed_row_has_the_gradients_of_its_documents(name, monkeypatch):
    """The compiled kernel and one cell after the other, with documents that begin inside a row and with padding."""
    ours, _ = pair(name)
    x = torch.randn(2, 12, DIM, dtype=torch.float64)
    segments = torch.tensor([[0] * 5 + [1] * 7, [0] * 2 + [1] * 1 + [2] * 9])
    found = []
    for kernel in (True, False):
        if not kernel:
            monkeypatch.setattr("llmanac.models.mixers._recurrence.takes", lambda x: False)
        ours.zero_grad()
        mine = x.clone().requires_grad_()
        y = ours(mine, context_of(mine, segments))
        (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
        found.append([y.detach(), mine.grad, *(p.grad.clone() for p in ours.parameters())])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    torch.testing.assert_close(found[0][0][:1, 5:], ours(x[:1, 5:], context_of(x[:1, 5:])), rtol=0, atol=1e-12)


@every
def test_float32_is_near_float64(name):
    ours, _ = pair(name)
    x = torch.randn(2, 200, DIM, dtype=torch.float64)
    exact = ours(x, context_of(x))
    low = ours.float()(x.float(), context_of(x.float()))
    torch.testing.assert_close(low.double(), exact, rtol=0, atol=1e-4 if name == "rnn-relu" else 1e-5)


def test_a_new_lstm_remembers():
    from llmanac.core.spec import make_method

    spec = {"name": "transformer", "dim": 16, "layers": 1, "position": "none"}
    spec["blocks"] = [{"name": "pre-norm", "mixer": "lstm"}]
    bias = make_method("lm", spec).build(vocab_size=9).model.layers[0].self_attn.input_proj.bias
    assert bias.view(4, 16).sum(1).tolist() == [0, 16, 0, 0]
