"""S4D and S4: convolution, recurrence and the kernel by powers are one filter, in complex128."""

from __future__ import annotations

import pytest
import torch
from scipy.linalg import expm
from test_recurrent import context_of

from llmanac.core.errors import SpecError
from llmanac.core.spec import make_method
from llmanac.models.mixers._state_space import StateSpace, documents_by_length
from llmanac.models.mixers.s4 import hippo_legs, legs_matrix

DIM, STATES = 6, 8
every = pytest.mark.parametrize("name", ["s4d", "s4"])


def mixer_of(name, random=True, **choices):
    mixer = make_method("mixer", {"name": name, "states": STATES, **choices}).build(dim=DIM).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for own, parameter in mixer.named_parameters():
            if "." in own or random:
                parameter.normal_(0, 0.2, generator=generator)
            else:
                mixer.init_parameter(own, parameter, generator)
    return mixer


def powers(mixer, length):
    """K_l = C A^l B with the dense matrices of one step, found by stepping through a basis: (D, length)."""
    parts = mixer.discrete()
    h = mixer.step(
        parts, torch.ones(1, DIM, dtype=torch.float64), torch.zeros(1, DIM, STATES // 2, dtype=torch.complex128)
    )
    out = []
    for _ in range(length):
        out.append(2 * (h * mixer.pair(mixer.C)).sum(-1).real)
        h = mixer.step(parts, torch.zeros(1, DIM, dtype=torch.float64), h)
    return torch.cat(out).T


@every
@pytest.mark.parametrize("random", [True, False])
@pytest.mark.parametrize("length", [1, 2, 31, 600])
def test_convolution_recurrence_and_powers_agree(name, random, length):
    mixer = mixer_of(name, random)
    kernel = mixer.kernel(length)
    torch.testing.assert_close(kernel, powers(mixer, length), rtol=0, atol=1e-10)
    u = torch.randn(2, length, DIM, dtype=torch.float64)
    convolved = mixer.convolve(u)
    state = torch.zeros(2, DIM, STATES // 2, dtype=torch.complex128)
    stepped, _ = mixer.recur(u, state, None)
    torch.testing.assert_close(convolved, stepped, rtol=0, atol=1e-10)
    assert (kernel.abs().amax(1) > 1e-4).all()


@every
def test_gradients_of_both_forms_agree(name):
    mixer = mixer_of(name)
    u = torch.randn(2, 40, DIM, dtype=torch.float64)
    weight = torch.randn_like(u)
    found = []
    for form in ("convolution", "recurrence"):
        mixer.zero_grad()
        mine = u.clone().requires_grad_()
        zero = torch.zeros(2, DIM, STATES // 2, dtype=torch.complex128)
        y = mixer.convolve(mine) if form == "convolution" else mixer.recur(mine, zero, None)[0]
        (y * weight).sum().backward()
        found.append([mine.grad, *(p.grad for p in mixer.parameters() if p.grad is not None)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    assert len(found[0]) == (5 if name == "s4d" else 7)


def test_s4d_equals_zero_order_hold_written_out():
    """exp of the augmented matrix [[A, B], [0, 0]] dt is the exact discretisation of a held input."""
    mixer = mixer_of("s4d", random=False)
    a, step = mixer.eigenvalues().detach(), mixer.log_step.detach().exp()
    decay, b = mixer.discrete()
    for channel in range(DIM):
        for n in range(STATES // 2):
            block = torch.tensor([[a[channel, n], 1.0], [0, 0]], dtype=torch.complex128)
            exact = torch.from_numpy(expm((block * step[channel]).numpy()))
            torch.testing.assert_close(torch.stack([decay[channel, n], b[channel, n]]), exact[0], rtol=0, atol=1e-12)


def test_the_cauchy_kernel_equals_powers():
    """The filter of a new S4 layer is that of the dense HiPPO-LegS matrix, discretised by the bilinear rule."""
    states, length = 16, 200
    eigenvalues, p, b = hippo_legs(states)
    mixer = mixer_of("s4", random=False, states=states)
    torch.testing.assert_close(
        mixer.eigenvalues()[0], eigenvalues, rtol=1e-6, atol=1e-5
    )  # parameters are float32 first
    with torch.no_grad():
        mixer.log_decay.copy_((-eigenvalues.real).log().expand_as(mixer.log_decay))
        mixer.frequency.copy_(eigenvalues.imag.expand_as(mixer.frequency))
        mixer.P.copy_(torch.view_as_real(p).expand_as(mixer.P))
        mixer.B.copy_(torch.view_as_real(b).expand_as(mixer.B))
    a = legs_matrix(states)
    root = torch.sqrt(2 * torch.arange(states, dtype=torch.float64) + 1)
    skew = a + root[:, None] * root / 2
    vectors = torch.linalg.eigh(-1j * (skew + 0.5 * torch.eye(states)))[1][:, states // 2 :]
    kernel = mixer.kernel(length)
    for channel in range(DIM):
        step = mixer.log_step[channel].exp()
        dense_c = 2 * (mixer.pair(mixer.C)[channel] @ vectors.mH).real  # the row C in the basis of the dense matrix
        left = torch.eye(states, dtype=torch.float64) - step / 2 * a
        matrix = torch.linalg.solve(left, torch.eye(states, dtype=torch.float64) + step / 2 * a)
        x = torch.linalg.solve(left, step * root)
        for t in range(length):
            torch.testing.assert_close(kernel[channel, t], dense_c @ x, rtol=0, atol=1e-9)
            x = matrix @ x
    assert (kernel - mixer_of("s4d", random=False, states=states).kernel(length)).abs().max() > 1e-3


@every
def test_packed_documents_are_filtered_alone(name):
    mixer = mixer_of(name)
    x = torch.randn(2, 15, DIM, dtype=torch.float64)
    segments = torch.tensor([[0] * 5 + [1] * 9 + [2], [3] * 15])
    packed = mixer(x, context_of(x, segments))
    for row, start, stop in ((0, 0, 5), (0, 5, 14), (0, 14, 15), (1, 0, 15)):
        part = x[row : row + 1, start:stop]
        torch.testing.assert_close(packed[row, start:stop], mixer(part, context_of(part))[0], rtol=0, atol=1e-12)
    assert (packed - mixer(x, context_of(x)))[0, 5:].abs().max() > 1e-3
    places = torch.cat([index.flatten() for index in documents_by_length(segments)])
    assert sorted(places[places < 30].tolist()) == list(range(30)) and len(places) <= 60


@every
@pytest.mark.parametrize("lengths", [None, [600, 0, 257]])
def test_pieces_that_follow_a_state_equal_single_steps(name, lengths):
    """What a state is read with: outputs, the state after each row's last real token, and gradients."""
    mixer, length = mixer_of(name, random=False), 600
    generator = torch.Generator().manual_seed(3)
    u = torch.randn(3, length, DIM, dtype=torch.float64, generator=generator)
    h = torch.randn(3, DIM, STATES // 2, dtype=torch.complex128, generator=generator)
    real = None if lengths is None else torch.arange(length) < torch.tensor(lengths)[:, None]
    found = []
    for form in (type(mixer).recur, StateSpace.recur):
        mixer.zero_grad()
        mine = u.clone().requires_grad_()
        y, last = form(mixer, mine, h, real)
        y = y if real is None else y * real[..., None]
        (y.square().sum() + last.abs().square().sum()).backward()
        found.append([y, last, mine.grad, *(p.grad for p in mixer.parameters() if p.grad is not None)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_states_come_in_pairs():
    with pytest.raises(SpecError, match="states: 7"):
        make_method("mixer", {"name": "s4d", "states": 7})
    kernels = [mixer_of("s4d", random=False, init=init).kernel(50) for init in ("lin", "inv")]
    assert (kernels[0] - kernels[1]).abs().max() > 1e-3
