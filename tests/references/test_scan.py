"""The selective scan: the compiled loops and the chunked torch form against the recurrence step by step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numba import njit

from llmanac.kernels.nn._exponential import exp2, sigmoid, tanh
from llmanac.kernels.nn.scan import chunked_scan, plain_scan, selective_scan


def inputs(length, channels=70, states=5, dtype=torch.float64, rows=2):
    generator = torch.Generator().manual_seed(length)

    def drawn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    u, dt = drawn(rows, length, channels), torch.nn.functional.softplus(drawn(rows, length, channels) - 1)
    a = -drawn(channels, states).exp()
    begins = torch.rand(rows, length, generator=generator) < 0.03
    return [u, dt, a, drawn(rows, length, states), drawn(rows, length, states), drawn(rows, channels, states)], begins


def plain(u, dt, a, b, c, h, begins=None):
    decay = torch.exp(dt[..., None] * a)
    if begins is not None:
        decay = decay.masked_fill(begins[:, :, None, None], 0)
    return plain_scan(decay, (dt * u)[..., None] * b[:, :, None], c, h)


def everything(form, given, begins):
    """Outputs, last state and the gradients of all inputs."""
    leaves = [x.clone().requires_grad_() for x in given]
    y, last = form(*leaves, begins)
    generator = torch.Generator().manual_seed(7)
    weights = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.dtype) for x in (y, last)]
    ((y * weights[0]).sum() + (last * weights[1]).sum()).backward()
    return [y.detach(), last.detach(), *(x.grad for x in leaves)]


@pytest.mark.parametrize("form", [selective_scan, chunked_scan])
@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 200])
@pytest.mark.parametrize("packed", [False, True])
def test_values_and_gradients_equal_the_plain_recurrence(form, length, packed):
    given, begins = inputs(length)
    begins = begins if packed else None
    expected = everything(plain, given, begins)
    for found, right in zip(everything(form, given, begins), expected, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-11, atol=1e-10)
    with torch.no_grad():
        torch.testing.assert_close(form(*given, begins)[0], expected[0], rtol=0, atol=1e-10)
    assert expected[0].std() > 0.1


def test_float32_is_within_1e_5_of_float64():
    exact, begins = inputs(500, channels=64, states=16)
    low = [x.float() for x in exact]
    exact = [x.double() for x in low]
    for found, right in zip(everything(selective_scan, low, begins), everything(plain, exact, begins), strict=True):
        assert (found.double() - right).norm() / right.norm() < 1e-5


def test_slices_and_transposed_inputs_are_read_as_they_are():
    given, begins = inputs(33)
    strided = [x.transpose(0, -1).contiguous().transpose(0, -1) for x in given]
    for found, right in zip(everything(selective_scan, strided, begins), everything(plain, given, begins), strict=True):
        torch.testing.assert_close(found, right, rtol=0, atol=1e-10)


def test_what_is_not_finite_is_seen():
    given, _ = inputs(40)
    given[0][0, 9, 3] = torch.nan
    y, last = selective_scan(*given)
    assert y[0, 9:, 3].isnan().all() and last[0, 3].isnan().all()
    assert y[0, :9].isfinite().all() and y[1].isfinite().all()


def test_memory_is_linear_and_far_below_all_states():
    """Bytes allocated forward and backward; every state would be T E N numbers."""
    from torch.profiler import profile

    def peak(form, length):
        leaves = [x.requires_grad_() for x in inputs(length, 64, 16, torch.float32, rows=1)[0]]
        weight = torch.ones(1, length, 64)
        with profile(profile_memory=True) as seen:
            form(*leaves)[0].backward(weight)
        current = most = 0
        for event in seen.profiler.kineto_results.events():
            if event.name() == "[memory]":
                current += event.nbytes()
                most = max(most, current)
        return most

    for form, most in ((selective_scan, 0.25), (chunked_scan, 2.0)):
        form(*inputs(64, 64, 16, torch.float32, rows=1)[0])
        short, long = peak(form, 1024), peak(form, 4096)
        assert long < 4.4 * short
        assert long < most * 4096 * 64 * 16 * 4


def test_exponentials_in_loops():
    """Every number of a grid, against numpy: the polynomial, its range and what it does with a NaN."""

    @njit
    def run(x, out):
        for i in range(x.shape[0]):
            out[0, i], out[1, i], out[2, i] = exp2(x[i]), sigmoid(x[i]), tanh(x[i])

    for dtype, error in ((np.float32, 3e-7), (np.float64, 2e-15)):
        x = np.linspace(-40, 40, 20001).astype(dtype)
        out = np.empty((3, len(x)), dtype)
        run(x, out)
        exact = x.astype(np.longdouble)
        np.testing.assert_allclose(out[0], np.exp2(exact).astype(np.float64), rtol=error)
        np.testing.assert_allclose(out[1], (1 / (1 + np.exp(-exact))).astype(np.float64), rtol=10 * error, atol=error)
        np.testing.assert_allclose(out[2], np.tanh(exact).astype(np.float64), rtol=0, atol=error)
        ends = np.array([0, -2000, 2000, np.nan], dtype)
        out = np.empty((3, 4), dtype)
        run(ends, out)
        assert out[0, 0] == 1 and 0 <= out[0, 1] < 1e-37 and out[0, 2] > 1e38 and np.isnan(out[:, 3]).all()
        assert out[2, 1:3].tolist() == [-1, 1]
