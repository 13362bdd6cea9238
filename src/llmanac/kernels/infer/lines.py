"""What a pass does to lines: norms, 8-bit inputs, products with a matrix, gates, turns, and a mixture of experts."""

# mypy: disable-error-code="no-untyped-def, call-arg"
# (numba types these functions itself)

import math
from typing import Any

import numpy as np

from llmanac.kernels.infer._numbers import code_group
from llmanac.kernels.infer.machine import call, meet
from llmanac.kernels.nn._exponential import RELAXED, sigmoid, tanh
from llmanac.kernels.text import inner

ONE, HALF32, ZERO = np.float32(1), np.float32(0.5), np.float32(0)
GROUP = 32
ROOT_HALF, ROOT_2_PI, CUBE = np.float32(math.sqrt(0.5)), np.float32(math.sqrt(2 / math.pi)), np.float32(0.044715)
ACTIVATIONS = {"silu": 0, "gelu": 1, "gelu-tanh": 2, "relu": 3, "relu-squared": 4}
Q, K, V, OUT, GATE, UP, DOWN = range(7)
# of a matrix: its kernel, its memory, rows, columns, whether its input is in 8 bits, its first column of the output
KERNEL, PLACE, ROWS, COLUMNS, CODED, OFFSET = range(6)
FAST: Any = {"fastmath": RELAXED, "error_model": "numpy"}


@inner
def at(array):
    return np.int64(array.ctypes.data)


@inner(**FAST)
def norm(x, weight, eps, out):
    total = ZERO
    for i in range(len(x)):
        total += x[i] * x[i]
    scale = ONE / np.sqrt(total / np.float32(len(x)) + eps)
    for i in range(len(x)):
        out[i] = x[i] * scale * weight[i]


@inner(**FAST)
def layer_norm(x, weight, bias, eps, out):
    total = ZERO
    for i in range(len(x)):
        total += x[i]
    mean, total = total / np.float32(len(x)), ZERO
    for i in range(len(x)):
        total += (x[i] - mean) * (x[i] - mean)
    scale = ONE / np.sqrt(total / np.float32(len(x)) + eps)
    for i in range(len(x)):
        out[i] = (x[i] - mean) * scale * weight[i] + bias[i]


@inner(**FAST)
def code(x, line, room):
    """A line in 8-bit integers: codes, scales, minus 128 times the sums, scaled sums."""
    groups = len(x) // GROUP
    first = line * groups
    x_at, codes, s = at(x), at(room.codes) + line * len(x), at(room.s) + first * 4
    t, f = at(room.t) + first * 12, at(room.f) + first * 12
    for g in range(groups):
        code_group(x_at + g * GROUP * 4, codes + g * GROUP, s + g * 4, t + g * 12, f + g * 12)


@inner(**FAST)
def bent(kind, x, out):
    if kind == 0:
        for i in range(len(out)):
            out[i] = x[i] * sigmoid(x[i])
    elif kind == 1:
        for i in range(len(out)):
            out[i] = x[i] * HALF32 * np.float32(ONE + math.erf(x[i] * ROOT_HALF))
    elif kind == 2:
        for i in range(len(out)):
            inner = ROOT_2_PI * (x[i] + CUBE * x[i] * x[i] * x[i])
            out[i] = x[i] * HALF32 * (ONE + tanh(inner))
    else:
        for i in range(len(out)):
            out[i] = max(x[i], ZERO) * (ONE if kind == 3 else x[i])


@inner(**FAST)
def gated(kind, gate, up, out):
    bent(kind, gate, out)
    for i in range(len(out)):
        out[i] *= up[i]


@inner(**FAST)
def turn(x, cos, sin):
    half = len(cos)
    for i in range(half):
        a, b = x[i], x[half + i]
        x[i] = a * cos[i] - b * sin[i]
        x[half + i] = b * cos[i] + a * sin[i]


@inner(**FAST)
def turn_pairs(x, cos, sin):
    for i in range(len(cos)):
        a, b = x[2 * i], x[2 * i + 1]
        x[2 * i] = a * cos[i] - b * sin[i]
        x[2 * i + 1] = b * cos[i] + a * sin[i]


@inner
def multiply(matrix, x, room, n, out, thread, threads):
    """This thread's rows of a product with n lines."""
    pieces = (matrix[ROWS] + 15) // 16
    first, last = pieces * thread // threads * 16, min(pieces * (thread + 1) // threads * 16, matrix[ROWS])
    if first < last:
        call(
            matrix[KERNEL],
            (
                matrix[PLACE], matrix[ROWS], first, last, matrix[COLUMNS], at(x), at(room.codes), at(room.s),
                at(room.t), at(room.f), np.int64(n), at(out) + matrix[OFFSET] * 4, np.int64(out.shape[1]),
            ),
        )  # fmt: skip


@inner(**FAST)
def add(x, y, factor=ONE):
    for i in range(len(x)):
        x[i] += y[i] * factor


@inner(**FAST)
def _route(row, k, share, scale):
    """Scores of experts to gates: of the k largest, in the order of experts."""
    most = row.max()
    for e in range(len(row)):
        row[e] = np.exp(row[e] - most)
    total, kept = row.sum(), ZERO
    for _ in range(k):
        best = row.argmax()
        kept += row[best]
        row[best] = -row[best]  # is chosen, and no more the largest
    factor = scale / (kept if share else total)
    for e in range(len(row)):
        row[e] = -row[e] * factor if row[e] < ZERO else ZERO


@inner(**FAST)
def mix(plan, room, layer, n, thread, threads):
    """The experts of all lines, one expert after the other with the lines that have it."""
    counter, width, size = at(room.counter), room.inner.shape[1], room.h.shape[1]
    experts = plan.experts[layer]
    first, last = n * thread // threads, n * (thread + 1) // threads
    multiply(plan.routers[layer], room.h, room, n, room.routes, thread, threads)
    meet(counter, threads)
    for b in range(first, last):
        _route(room.routes[b, : len(experts)], plan.shape[7], plan.shape[8], plan.eps[2])
        room.mixed[b] = ZERO
    meet(counter, threads)
    for e in range(len(experts)):
        gate, up, down = experts[e, 0], experts[e, 1], experts[e, 2]
        m = 0
        for b in range(n):
            if room.routes[b, e] > ZERO:
                if m % threads == thread:
                    room.picked[m] = room.h[b]
                    if gate[CODED] + up[CODED]:
                        code(room.picked[m], m, room)
                m += 1
        if m == 0:
            continue
        meet(counter, threads)
        multiply(gate, room.picked, room, m, room.gates, thread, threads)
        multiply(up, room.picked, room, m, room.gates, thread, threads)
        meet(counter, threads)
        for i in range(thread, m, threads):
            gates = room.gates[i]
            gated(plan.shape[4], gates[:width], gates[up[OFFSET] : up[OFFSET] + width], room.inner[i])
            if down[CODED]:
                code(room.inner[i], i, room)
        meet(counter, threads)
        multiply(down, room.inner, room, m, room.y, thread, threads)
        meet(counter, threads)
        m = 0
        for b in range(n):
            if room.routes[b, e] > ZERO:
                if m % threads == thread:
                    for i in range(size):
                        room.mixed[b, i] += room.routes[b, e] * room.y[m, i]
                m += 1
        meet(counter, threads)
    for b in range(first, last):
        for i in range(size):
            room.y[b, i] = room.mixed[b, i]
