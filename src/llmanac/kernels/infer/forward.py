"""The forward pass of a Llama-shaped model over tokens of several rows, from embeddings to logits.

    x = x + post_1(W_o attend(rope(W_q h), rope(W_k h), W_v h))    h = norm_1(x)
    x = x + post_2(W_d (f(W_g h) * W_u h))                         h = norm_2(x), or that of k experts, by their gates
    logits = W_v norm(x)

Tokens are lines (n, D); those of one row that follow each other are a run, whose keys are written before its queries
are compared with them. All threads walk through the same steps, each with its part of the lines, matrix rows or heads,
and meet between them.
"""

# mypy: disable-error-code="no-untyped-def, call-arg"
# (numba types these functions itself)

from typing import Any, NamedTuple

import numpy as np
from numba import carray

from llmanac.kernels.infer import lines as lines
from llmanac.kernels.infer._numbers import put, put_code, put_half
from llmanac.kernels.infer.attend import PAGE, QUERIES, floats_at
from llmanac.kernels.infer.lines import FAST, GROUP, OFFSET, ZERO
from llmanac.kernels.infer.machine import call, meet
from llmanac.kernels.nn._exponential import RELAXED
from llmanac.kernels.text import cached, inner

WINDOW, TABLE = range(2)  # of a layer: 0 for none; which table of positions, -1 for none


class Plan(NamedTuple):
    """What a model is, for the compiled code.

    Attributes:
        shape: heads, key-value heads, numbers a head, the same filled up to a multiple of 16, the activation, the
            address of the attention kernel, bytes of a number in the pages (1 for q8_0), experts of a token, whether
            their gates are shares, bytes of a token's keys of one head.
        eps: of the norms, and of those of queries and keys; what gates, and what parts add, are multiplied with.
        layers: (L, 2); factors: (L, 2) float32, scale and cap of the scores.
        matrices: (L, 7, 6) as `KERNEL` to `OFFSET` say; head: (1, 6).
        routers: (L, 6) and experts: (L, experts, 3, 6), gate, up and down of each; or (0, 6) and (0, 0, 3, 6).
        norms: (L, 4, 2, D) weights and biases, before and after each part; norm: (2, D), the last one.
        before, post: whether the norms before and after the parts are used; parallel: whether both parts read one.
        centred: whether norms take the mean away; plain: whether there is no gate; pairs: of neighbours that turn.
        qk_norms: (L, 2, d), of all heads as one (L, 2, heads d), or (0, 2, d).
        biases: of q, k and v, of o, of gate and up, of down: (L, outputs) each, or (0, outputs).
        cos, sin: (tables, positions, turned / 2).
    """

    shape: Any
    eps: Any
    layers: Any
    factors: Any
    matrices: Any
    head: Any
    routers: Any
    experts: Any
    norms: Any
    norm: Any
    before: Any
    post: Any
    parallel: Any
    centred: Any
    plain: Any
    pairs: Any
    qk_norms: Any
    biases: Any
    cos: Any
    sin: Any


class Room(NamedTuple):
    """Memory of a pass of at most m lines: inputs and outputs of products, 8-bit inputs, and each thread's own."""

    h: Any  # (m, D)
    read: Any  # (m, heads d)
    qkv: Any  # (m, ...) columns as the matrices' OFFSET says, and so is gates
    gates: Any
    inner: Any  # (m, F)
    y: Any  # (m, D filled up)
    routes: Any  # (m, experts filled up): the gates of a line, 0 for experts that it does not have
    picked: Any  # (m, D) the lines of an expert
    mixed: Any  # (m, D)
    codes: Any  # (m widest,) int8
    s: Any  # (m widest / 32,); t and f have three for each
    t: Any
    f: Any
    asked: Any  # (threads, 2, queries, d filled up): queries, and what they read
    where: Any  # (threads, queries) int64
    scores: Any  # (threads, queries, tokens of the longest row, filled up)
    counter: Any  # (1,) int64, which threads meet at


class Step(NamedTuple):
    """The lines of one pass.

    Attributes:
        x: (n, D) embeddings, which become the last hidden states.
        places: (n,) position of each; rows: (n,) which row of `blocks`; ends: (n,) the line after its run's last one.
        blocks: (rows, most blocks) int64.
        wanted: (w,) lines whose logits are asked for; logits: (w, V filled up).
        keys, values: addresses of the stores; block_bytes: of a block in each; shift: it has 2^shift pages.
        terms: (adapters, L, 7, 3) int64 rank, address of A (r, inputs) and of s B^T (r, outputs); chosen: (n,) which
            adapter a line has, -1 for none.
    """

    x: Any
    places: Any
    rows: Any
    ends: Any
    blocks: Any
    wanted: Any
    logits: Any
    keys: Any
    values: Any
    block_bytes: Any
    shift: Any
    terms: Any
    chosen: Any


@inner(**FAST)
def _changed(plan, step, layer, which, b, x, line):
    """Add the term s (x A^T) B^T of the adapter that a line has to its output of a product."""
    if step.chosen[b] < 0:
        return
    term, matrix = step.terms[step.chosen[b], layer, which], plan.matrices[layer, which]
    rank, y = term[0], line[matrix[OFFSET] : matrix[OFFSET] + matrix[lines.ROWS]]
    down, up = carray(floats_at(term[1]), (rank, len(x))), carray(floats_at(term[2]), (rank, len(y)))
    for r in range(rank):
        total = ZERO
        for i in range(len(x)):
            total += down[r, i] * x[i]
        for i in range(len(y)):
            y[i] += total * up[r, i]


@inner(**FAST)
def _norm(plan, x, weights, out):
    if plan.centred:
        lines.layer_norm(x, weights[0], weights[1], plan.eps[0], out)
    else:
        lines.norm(x, weights[0], plan.eps[0], out)


@inner(**FAST)
def _read(plan, room, step, b, weights, coded):
    """What a part reads of a line."""
    if plan.before:
        _norm(plan, step.x[b], weights, room.h[b])
    else:
        room.h[b] = step.x[b]
    if coded:
        lines.code(room.h[b], b, room)


@inner(**FAST)
def _added(plan, room, step, b, which, inputs, biases, layer, post):
    """Add a part's output to the residual stream."""
    x, y = step.x[b], room.y[b, : step.x.shape[1]]
    _changed(plan, step, layer, which, b, inputs[b], room.y[b])
    if len(biases):
        lines.add(y, biases[layer])
    if plan.post:
        _norm(plan, y, plan.norms[layer, post], y)
    lines.add(x, y, plan.eps[3])


@inner(**FAST)
def _put_codes(x, codes, step, scales, stride):
    """A token's keys or values in q8_0, each number `step` bytes and each scale `stride` bytes after the last."""
    for g in range(0, len(x), GROUP):
        most = ZERO
        for i in range(g, min(g + GROUP, len(x))):
            most = max(most, abs(x[i]))
        factor = np.float32(127) / most if most > ZERO else ZERO
        put_half(scales + g // GROUP * stride, most * np.float32(1 / 127))
        for i in range(g, min(g + GROUP, len(x))):
            put_code(codes + i * step, x[i] * factor)


@inner(**FAST)
def _keep(plan, room, step, layer, b):
    """Norm and turn a line's queries and keys, and write its keys and values to its page."""
    heads, kv_heads, size, padded, number = plan.shape[0], plan.shape[1], plan.shape[2], plan.shape[3], plan.shape[6]
    k_at, v_at = plan.matrices[layer, lines.K, OFFSET], plan.matrices[layer, lines.V, OFFSET]
    line, place, table = room.qkv[b], step.places[b], plan.layers[layer, TABLE]
    for which in range(lines.Q, lines.V + 1):
        _changed(plan, step, layer, which, b, room.h[b], line)
    if len(plan.biases[0]):
        lines.add(line, plan.biases[0][layer])
    normed = len(plan.qk_norms) > 0
    if normed and plan.qk_norms.shape[2] > size:
        normed = False
        q, k = line[: heads * size], line[k_at : k_at + kv_heads * size]
        lines.norm(q, plan.qk_norms[layer, 0], plan.eps[1], q)
        lines.norm(k, plan.qk_norms[layer, 1], plan.eps[1], k)
    for head in range(heads + kv_heads):
        begin = head * size if head < heads else k_at + (head - heads) * size
        x = line[begin : begin + size]
        if normed:
            lines.norm(x, plan.qk_norms[layer, 0 if head < heads else 1], plan.eps[1], x)
        if table >= 0 and plan.pairs:
            lines.turn_pairs(x, plan.cos[table, place], plan.sin[table, place])
        elif table >= 0:
            lines.turn(x, plan.cos[table, place], plan.sin[table, place])
    tokens, slot, each = PAGE << step.shift, place % PAGE, plan.shape[9]
    page = step.blocks[step.rows[b], place // tokens] * step.block_bytes
    page += place % tokens // PAGE * PAGE * each
    for g in range(kv_heads):
        begin = page + (layer * kv_heads + g) * tokens * each
        if number == 1:
            key, value = line[k_at + g * size : k_at + (g + 1) * size], line[v_at + g * size : v_at + (g + 1) * size]
            k, v, behind = step.keys + begin, step.values + begin, PAGE * padded
            _put_codes(key, k + slot, PAGE, k + behind + slot * 2, PAGE * 2)
            _put_codes(value, v + slot * padded, 1, v + behind + slot * (padded // GROUP) * 2, 2)
            continue
        for i in range(size):
            k, v = step.keys + begin + (i * PAGE + slot) * number, step.values + begin + (slot * padded + i) * number
            if number == 2:
                put_half(k, line[k_at + g * size + i])
                put_half(v, line[v_at + g * size + i])
            else:
                put(k, line[k_at + g * size + i])
                put(v, line[v_at + g * size + i])


@inner(**FAST)
def _attend(plan, room, step, layer, b, stop, g, thread):
    """What the lines b to stop of one run read with the heads of group g."""
    heads, kv_heads, size, padded = plan.shape[0], plan.shape[1], plan.shape[2], plan.shape[3]
    group = heads // kv_heads
    queries, out, where, scores = room.asked[thread, 0], room.asked[thread, 1], room.where[thread], room.scores[thread]
    m, scale = 0, plan.factors[layer, 0]
    for c in range(b, stop):
        for r in range(group):
            x = room.qkv[c, (g * group + r) * size : (g * group + r + 1) * size]
            for i in range(size):
                queries[m, i] = x[i] * scale
            where[m] = step.places[c]
            m += 1
    call(
        plan.shape[5],
        (
            lines.at(queries), lines.at(where), np.int64(m), padded, lines.at(step.blocks[step.rows[b]]),
            step.shift, (layer * kv_heads + g) * (PAGE << step.shift) * plan.shape[9], step.block_bytes,
            step.keys, step.values, plan.layers[layer, WINDOW], lines.at(plan.factors[layer, 1:]), lines.at(scores),
            np.int64(scores.shape[1]), lines.at(out),
        ),
    )  # fmt: skip
    m = 0
    for c in range(b, stop):
        for r in range(group):
            for i in range(size):
                room.read[c, (g * group + r) * size + i] = out[m, i]
            m += 1


def _forward(plan, room, step, thread, threads):
    """One thread's part of a pass."""
    heads, kv_heads = plan.shape[0], plan.shape[1]
    n, counter, width = len(step.x), lines.at(room.counter), room.inner.shape[1]
    first, last = n * thread // threads, n * (thread + 1) // threads
    together = max(1, QUERIES // (heads // kv_heads))
    for layer in range(len(plan.layers)):
        own = plan.matrices[layer]
        coded = own[lines.Q, lines.CODED] + own[lines.K, lines.CODED] + own[lines.V, lines.CODED]
        for b in range(first, last):
            _read(plan, room, step, b, plan.norms[layer, 0], coded)
        meet(counter, threads)
        for j in range(3):
            lines.multiply(own[j], room.h, room, n, room.qkv, thread, threads)
        meet(counter, threads)
        for b in range(first, last):
            _keep(plan, room, step, layer, b)
        meet(counter, threads)
        b, turn = 0, 0
        while b < n:
            stop = min(b + together, step.ends[b])
            for g in range(kv_heads):
                if turn % threads == thread:
                    _attend(plan, room, step, layer, b, stop, g, thread)
                turn += 1
            b = stop
        meet(counter, threads)
        if own[lines.OUT, lines.CODED]:
            for b in range(first, last):
                lines.code(room.read[b], b, room)
            meet(counter, threads)
        lines.multiply(own[lines.OUT], room.read, room, n, room.y, thread, threads)
        meet(counter, threads)
        mixed = len(plan.routers) > 0
        coded = plan.routers[layer, lines.CODED] if mixed else own[lines.GATE, lines.CODED] + own[lines.UP, lines.CODED]
        for b in range(first, last):
            _added(plan, room, step, b, lines.OUT, room.read, plan.biases[1], layer, 1)
            if not plan.parallel:
                _read(plan, room, step, b, plan.norms[layer, 2], coded)
            elif coded:  # the codes are those of what the heads read
                lines.code(room.h[b], b, room)
        meet(counter, threads)
        if mixed:
            lines.mix(plan, room, layer, n, thread, threads)
        else:
            lines.multiply(own[lines.GATE], room.h, room, n, room.gates, thread, threads)
            lines.multiply(own[lines.UP], room.h, room, n, room.gates, thread, threads)
            meet(counter, threads)
            up = own[lines.UP, OFFSET]
            for b in range(first, last):
                for which in range(lines.GATE, lines.UP + 1):
                    _changed(plan, step, layer, which, b, room.h[b], room.gates[b])
                if len(plan.biases[2]):
                    lines.add(room.gates[b], plan.biases[2][layer])
                if plan.plain:
                    lines.bent(plan.shape[4], room.gates[b, :width], room.inner[b])
                else:
                    lines.gated(plan.shape[4], room.gates[b, :width], room.gates[b, up : up + width], room.inner[b])
                if own[lines.DOWN, lines.CODED]:
                    lines.code(room.inner[b], b, room)
            meet(counter, threads)
            lines.multiply(own[lines.DOWN], room.inner, room, n, room.y, thread, threads)
            meet(counter, threads)
        for b in range(first, last):
            _added(plan, room, step, b, lines.DOWN, room.inner, plan.biases[3], layer, 3)
    meet(counter, threads)
    w = len(step.wanted)
    for i in range(w * thread // threads, w * (thread + 1) // threads):
        _norm(plan, step.x[step.wanted[i]], plan.norm, room.h[i])
        if plan.head[lines.CODED]:
            lines.code(room.h[i], i, room)
    meet(counter, threads)
    if w:
        lines.multiply(plan.head, room.h, room, w, step.logits, thread, threads)
    meet(counter, threads)
    return 0


forward = cached(_forward, nogil=True, error_model="numpy", fastmath=RELAXED)
