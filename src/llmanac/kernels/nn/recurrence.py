"""A recurrent layer over a sequence: products in torch, everything else of a step in one compiled pass.

    p_t = W h_{t-1} + c        h_t, m_t = cell(x_t, p_t, h_{t-1}, m_{t-1})

x_t (B, G H) is the input's part of the gates, p_t (B, G H) the state's, h and m (B, H); m is an LSTM's memory cell. A
step of autograd's tape is ten small operations forward and twenty backward; here it is one product and one pass each
way, and the gradient of W is one product over all steps. CPU, float32 and float64.

The gates and their gradients are written out from the formulas in `models/mixers/{rnn,gru,lstm}.py`, which compute the
same on other devices.
"""

# mypy: disable-error-code="no-untyped-def"
# (numba types these functions itself)

from typing import Any, Literal

import torch
from torch import Tensor

from llmanac.kernels.nn._exponential import RELAXED, sigmoid, tanh
from llmanac.kernels.nn.scan import did
from llmanac.kernels.nn.uncompiled import uncompiled
from llmanac.kernels.text import cached

Cell = Literal["rnn", "rnn-relu", "gru", "lstm"]
# numpy's division: Python's looks for a zero at every number, and a loop is not vectorised
LOOP = {"nogil": True, "error_model": "numpy", "fastmath": RELAXED}


@uncompiled  # a compiler would trace every step
def walk(
    cell: Cell,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    h: tuple[Tensor, ...],
    begins: Tensor | None = None,
    real: Tensor | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """All outputs and the state after the last real token; differentiable in `x`, `weight` and `bias`.

    Args:
        cell: whose formulas; `lstm` has two vectors of state, the others one.
        x: (B, T, G H), the input's part of the gates. weight: W (G H, H). bias: c (G H,).
        h: the state before the first token, each (B, H).
        begins: (B, T) bool, tokens that read an empty state. real: (B, T) bool, false where a token changes nothing.

    Returns:
        (B, T, H), the output after each token, and the last state.
    """
    y, *last = _Walk.apply(cell, x, weight, bias, begins, real, *h)
    return y, tuple(last)


class _Walk(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, cell: Cell, x: Tensor, weight: Tensor, bias: Tensor, begins: Tensor | None, real: Tensor | None,
        *state: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        length = x.shape[1]
        gates = x.detach().clone(memory_format=torch.contiguous_format)  # becomes their values
        states = [x.new_empty(len(x), length + 1, part.shape[1]) for part in state]
        for own, part in zip(states, state, strict=True):
            own[:, 0] = part
        keep, use = _mask(begins, gates, invert=True), _mask(real, gates)
        product = torch.empty_like(gates[:, 0], memory_format=torch.contiguous_format)
        parts = gates.new_empty(*gates.shape[:2], weight.shape[1]) if cell == "gru" else gates[:0]
        arrays = (gates.numpy(), product.numpy(), states[0].numpy(), states[-1].numpy(), keep.numpy(), use.numpy())
        fresh = [False] * length if begins is None else begins.any(0).tolist()
        step, across = _FORWARD[cell], weight.detach().t()
        for t, (h, new) in enumerate(zip(states[0].unbind(1), fresh, strict=False)):
            torch.addmm(bias.detach(), h * keep[:, t, None] if new else h, across, out=product)
            step(t, *arrays, parts.numpy())
        did(states[0][:, 1:].numel() * _OPERATIONS[cell][0])
        ctx.cell, ctx.fresh = cell, any(fresh)
        ctx.save_for_backward(gates, weight, keep, use, parts, *states)
        return (states[0][:, 1:], *(own[:, -1].clone() for own in states))

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> Any:
        gates, weight, keep, use, parts, *states = ctx.saved_tensors
        rows, length, width = states[0][:, 1:].shape
        slopes = torch.empty_like(gates)  # with respect to the product; of the input they are the same but for a GRU's
        inputs = torch.empty_like(gates) if ctx.cell == "gru" else slopes
        outside = above[0].contiguous()
        flow = [part.clone(memory_format=torch.contiguous_format) for part in above[1:]]
        given = (gates, parts, states[0], states[-1], keep, use, outside, slopes, inputs, flow[0], flow[-1])
        arrays = [part.numpy() for part in given]
        step = _BACKWARD[ctx.cell]
        weight = weight.detach()
        for t, slope in reversed(list(enumerate(slopes.unbind(1)))):
            step(t, *arrays)
            if ctx.fresh:
                flow[0].addcmul_(slope @ weight, keep[:, t, None])
            else:
                flow[0].addmm_(slope, weight)
        did(states[0][:, 1:].numel() * _OPERATIONS[ctx.cell][1])
        before = states[0][:, :-1] * keep[..., None] if ctx.fresh else states[0][:, :-1]
        flat = slopes.view(length * rows, -1)
        into_weight = flat.t() @ before.reshape(length * rows, width)
        return None, inputs, into_weight, flat.sum(0), None, None, *flow


def _mask(marks: Tensor | None, like: Tensor, invert: bool = False) -> Tensor:
    """(B, T): 1 or 0 for each token, in the dtype of the gates."""
    if marks is None:
        return like.new_ones(like.shape[:2])
    return (~marks if invert else marks).to(like.dtype).contiguous()


# Steps. h[:, t] and m[:, t] are the state before token t; keep is 0 where a token begins a document, use 0 at padding.
# Loops run over one row at a time and touch few arrays, or the compiler could not tell that they do not overlap.
def _carry(t, i, h, m):
    for j in range(h.shape[2]):
        h[i, t + 1, j] = h[i, t, j]
        m[i, t + 1, j] = m[i, t, j]


def _carry_back(t, i, outside, slopes, inputs, flow):
    slopes[i, t, :] = 0
    inputs[i, t, :] = 0
    for j in range(flow.shape[1]):
        flow[i, j] += outside[i, t, j]


_CARRY, _CARRY_BACK = cached(_carry), cached(_carry_back)


def _rnn(t, gates, product, h, m, keep, use, parts):
    for i in range(h.shape[0]):
        if use[i, t] == 0:
            _CARRY(t, i, h, m)
            continue
        for j in range(h.shape[2]):
            h[i, t + 1, j] = tanh(gates[i, t, j] + product[i, j])


def _rnn_back(t, gates, parts, h, m, keep, use, outside, slopes, inputs, flow, flow_m):
    for i in range(h.shape[0]):
        if use[i, t] == 0:
            _CARRY_BACK(t, i, outside, slopes, inputs, flow)
            continue
        for j in range(h.shape[2]):
            y, d = h[i, t + 1, j], flow[i, j] + outside[i, t, j]
            slopes[i, t, j] = d - d * y * y
            flow[i, j] = 0


def _relu(t, gates, product, h, m, keep, use, parts):
    for i in range(h.shape[0]):
        if use[i, t] == 0:
            _CARRY(t, i, h, m)
            continue
        for j in range(h.shape[2]):
            y = gates[i, t, j] + product[i, j]
            h[i, t + 1, j] = 0 if y < 0 else y  # a NaN stays one


def _relu_back(t, gates, parts, h, m, keep, use, outside, slopes, inputs, flow, flow_m):
    for i in range(h.shape[0]):
        if use[i, t] == 0:
            _CARRY_BACK(t, i, outside, slopes, inputs, flow)
            continue
        for j in range(h.shape[2]):
            d = flow[i, j] + outside[i, t, j]
            slopes[i, t, j] = d if h[i, t + 1, j] > 0 else d - d
            flow[i, j] = 0


def _gru(t, gates, product, h, m, keep, use, parts):
    width = h.shape[2]
    for i in range(h.shape[0]):
        row, p, hidden = gates[i, t], product[i], parts[i, t]
        for j in range(2 * width):
            row[j] = sigmoid(row[j] + p[j])
        for j in range(width):
            hidden[j] = p[2 * width + j]
        r, z, n = row[:width], row[width : 2 * width], row[2 * width :]
        for j in range(width):
            n[j] = tanh(n[j] + r[j] * hidden[j])
        if use[i, t] == 0:
            _CARRY(t, i, h, m)
            continue
        stays, before, after = keep[i, t], h[i, t], h[i, t + 1]
        for j in range(width):
            after[j] = n[j] + z[j] * (stays * before[j] - n[j])


def _gru_back(t, gates, parts, h, m, keep, use, outside, slopes, inputs, flow, flow_m):
    width = h.shape[2]
    for i in range(h.shape[0]):
        if use[i, t] == 0:
            _CARRY_BACK(t, i, outside, slopes, inputs, flow)
            continue
        row, stays = gates[i, t], keep[i, t]
        for j in range(width):
            r, z, n = row[j], row[width + j], row[2 * width + j]
            d = flow[i, j] + outside[i, t, j]
            into_n = d - d * z
            into_n -= into_n * n * n
            into_r = into_n * parts[i, t, j] * (r - r * r)
            into_z = d * (stays * h[i, t, j] - n) * (z - z * z)
            inputs[i, t, j] = into_r
            inputs[i, t, width + j] = into_z
            inputs[i, t, 2 * width + j] = into_n
            slopes[i, t, j] = into_r
            slopes[i, t, width + j] = into_z
            slopes[i, t, 2 * width + j] = into_n * r
            flow[i, j] = d * z * stays


def _lstm(t, gates, product, h, m, keep, use, parts):
    width = h.shape[2]
    for i in range(h.shape[0]):
        row, p = gates[i, t], product[i]
        for j in range(2 * width):
            row[j] = sigmoid(row[j] + p[j])
        for j in range(2 * width, 3 * width):
            row[j] = tanh(row[j] + p[j])
        for j in range(3 * width, 4 * width):
            row[j] = sigmoid(row[j] + p[j])
        if use[i, t] == 0:
            _CARRY(t, i, h, m)
            continue
        stays, before, after, out = keep[i, t], m[i, t], m[i, t + 1], h[i, t + 1]
        for j in range(width):
            after[j] = row[width + j] * stays * before[j] + row[j] * row[2 * width + j]
        for j in range(width):
            out[j] = row[3 * width + j] * tanh(after[j])


def _lstm_back(t, gates, parts, h, m, keep, use, outside, slopes, inputs, flow, flow_m):
    width = h.shape[2]
    for i in range(h.shape[0]):
        if use[i, t] == 0:
            _CARRY_BACK(t, i, outside, slopes, inputs, flow)
            continue
        row, slope, stays, after = gates[i, t], slopes[i, t], keep[i, t], m[i, t + 1]
        for j in range(width):
            o, y, d = row[3 * width + j], tanh(after[j]), flow[i, j] + outside[i, t, j]
            slope[3 * width + j] = d * y * (o - o * o)
            d *= o
            flow[i, j] = d - d * y * y  # of the memory cell, for the next loop
        for j in range(width):
            a, f, g, d = row[j], row[width + j], row[2 * width + j], flow[i, j] + flow_m[i, j]
            slope[j] = d * g * (a - a * a)
            slope[width + j] = d * stays * m[i, t, j] * (f - f * f)
            slope[2 * width + j] = d * (a - a * g * g)
            flow_m[i, j] = d * f * stays
            flow[i, j] = 0


# of an element of a step, forward and backward, besides the products
_OPERATIONS = {"rnn": (2, 2), "rnn-relu": (2, 2), "gru": (8, 12), "lstm": (13, 13)}
_FORWARD: dict[str, Any] = {
    "rnn": cached(_rnn, **LOOP),
    "rnn-relu": cached(_relu, **LOOP),
    "gru": cached(_gru, **LOOP),
    "lstm": cached(_lstm, **LOOP),
}
_BACKWARD: dict[str, Any] = {
    "rnn": cached(_rnn_back, **LOOP),
    "rnn-relu": cached(_relu_back, **LOOP),
    "gru": cached(_gru_back, **LOOP),
    "lstm": cached(_lstm_back, **LOOP),
}
