"""The solutions of further exercises by the package or by enumeration; none is left without a second route."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from _exercises import close
from test_exercises import OUTSIDE
from test_exercises_again import ROUTES

from llmanac.core.spec import make_method
from llmanac.guide.exercise import exercises, find
from llmanac.objectives.policy_gradient import Spec as PolicyGradient
from llmanac.objectives.policy_gradient import by_group, kl_estimate
from llmanac.objectives.policy_gradient import gae as package_gae


def T(x):
    return torch.tensor(x, dtype=torch.float64)


def letters(pieces):
    """Texts, each with a mark after it."""
    return [f"{piece}|" for piece in pieces]


def beam_step(scores, logprobs, width):
    table = T(scores)[:, None] + T(logprobs)
    order = np.argsort(-table.flatten().numpy(), kind="stable")[:width]
    return [[table.flatten()[i], i // table.shape[1], i % table.shape[1]] for i in order.tolist()]


def bpe_train(words, merges):
    """With every word as a text of marked letters, counted anew after each merge by replacing in one string."""
    text = {f" {' '.join(word)} ": count for word, count in words}
    found = []
    for _ in range(merges):
        pairs = {}
        for line, count in text.items():
            for pair in itertools.pairwise(line.split()):
                pairs[pair] = pairs.get(pair, 0) + count
        if not pairs:
            break
        best = min(pairs, key=lambda p: (-pairs[p], p))
        found.append(letters(best))
        made = {}
        for line, count in text.items():
            while f" {best[0]} {best[1]} " in line:
                line = line.replace(f" {best[0]} {best[1]} ", f" {best[0]}\0{best[1]} ", 1)
            made[line.replace("\0", "")] = made.get(line.replace("\0", ""), 0) + count
        text = made
    return found


def bpe_encode(word, merges):
    """Merge by merge, over the whole word, and from the first again after one that applied."""
    line = f" {' '.join(word)} "
    while True:
        for left, right in merges:
            pair = f" {left} {right} "
            if pair in line:
                while pair in line:
                    line = line.replace(pair, f" {left}\0{right} ", 1)
                line = line.replace("\0", "")
                break
        else:
            return letters(line.split())


def columns(x, w1, w2, n):
    parts = [torch.relu(T(x) @ a) @ b for a, b in zip(T(w1).chunk(n, 1), T(w2).chunk(n, 0), strict=True)]
    assert torch.allclose(sum(parts), torch.relu(T(x) @ T(w1)) @ T(w2))
    return parts


def elo(battles, players, start, k):
    from llmanac.metrics.elo import play

    left, right, won = (np.array(side) for side in zip(*battles, strict=True))
    return play(left, right, won.astype(float), players, float(k), 400.0, float(start))


def gae(rewards, values, done, last, gamma, lam):
    """An episode at a time; the one that was cut off has the last value behind it."""
    out, begin = [], 0
    for end in [i + 1 for i, over in enumerate(done) if over or i == len(done) - 1]:
        r, v = np.array(rewards[begin:end]), np.array(values[begin:end])
        if not done[end - 1]:
            r[-1] += gamma * last
        out += list(package_gae(r, v, gamma, lam)[0])
        begin = end
    return out


def advantages(kind):
    return lambda groups: [by_group(kind, np.array(g), [0] * len(g)) for g in groups]


def int8(x, w):
    """As one product of integer matrices."""
    scales = [np.abs(m).max(1, keepdims=True) / 127 for m in (x, w)]
    left, right = (
        np.rint(np.array(m) / np.where(s > 0, s, 1)).astype(int) for m, s in zip((x, w), scales, strict=True)
    )
    return (left @ right.T) * scales[0] * scales[1].T


def k3(policy, reference):
    p, r = T(policy), T(reference)
    return kl_estimate("k3", p, r, torch.ones_like(p)).mean()


def kneser_ney(tokens, v, w, d):
    spec = make_method("lm", {"name": "ngram", "order": 2, "smoothing": {"name": "kneser-ney", "discount": d}})
    names = sorted(set(tokens) | {v, w})
    model = spec.build(vocab_size=len(names)).estimate([np.array([names.index(t) for t in tokens], np.int32)])
    ours = model(torch.tensor([[names.index(v)]])).logits[0, -1, names.index(w)].exp()
    pairs = set(itertools.pairwise(tokens))  # the package discounts the lower order too: that part is put in its place
    kinds = sum(b == w for _, b in pairs)
    after, total = sum(a == v for a, _ in pairs), sum(a == v for a in tokens[:-1])
    lower = max(kinds - d, 0) / len(pairs) + d * len({b for _, b in pairs}) / len(pairs) / len(names)
    gamma = d * after / total if total else 1.0
    return float(ours) + gamma * (kinds / len(pairs) - lower)


def lora_merge(weight, a, b, alpha):
    x = torch.eye(len(weight[0]), dtype=torch.float64)
    return (x @ T(weight).T + alpha / len(a) * (x @ T(a).T) @ T(b).T).T


def cut(logits, *steps):
    x = np.array([logits], np.float32)
    for step in steps:
        x = np.asarray(make_method("decoding", step).build()(x, ()))
    return torch.softmax(torch.tensor(x[0], dtype=torch.float64), 0)


def min_p(logits, temperature, bound):
    top = max(logits)
    near = [v - top for v in logits]  # float32 keeps what is near zero
    return cut(near, {"name": "temperature", "temperature": temperature}, {"name": "min-p", "m": bound})


def nf4(block, codes):
    scale = np.abs(block).max()
    middles = (np.array(codes[1:]) + codes[:-1]) / 2
    found = np.searchsorted(middles, np.array(block) / (scale or 1.0))
    return [found, scale, np.array(codes)[found] * scale]


def one_f_one_b(rank, ranks, count):
    from llmanac.parallel import pipeline

    if count < ranks:  # the package's schedules have at least one micro-batch a rank: by its rule instead
        ahead = min(ranks - rank, count)
        rest = [x for i in range(count) for x in (f"B{i}", *([f"F{ahead + i}"] if ahead + i < count else []))]
        return [letters([*(f"F{i}" for i in range(ahead)), *rest]), pipeline.formula("1f1b", ranks, count)]
    actions = sorted((a for a in pipeline.trace("1f1b", ranks, count) if a.rank == rank), key=lambda a: a.begin)
    return [letters([f"{a.kind}{a.micro_batch}" for a in actions]), pipeline.bubble("1f1b", ranks, count)]


def packed_mask(segments):
    s = np.array(segments)
    return np.tril(np.equal.outer(s, s)).astype(int)


def ppo(new, old, advantages, e):
    objective = PolicyGradient(clip_low=e, clip_high=e).build()
    return objective.surrogate((T(new) - T(old)).exp(), T(new), T(advantages))[0].mean()


def fuse(rankings, weights, k, top):
    documents = sorted({d for r in rankings for d in r})
    scores = [
        math.fsum(w / (k + 1 + r.index(d)) for r, w in zip(rankings, weights, strict=True) if d in r) for d in documents
    ]
    order = np.lexsort((documents, -np.round(scores, 12)))[:top]
    return [[documents[i], scores[i]] for i in order]


def all_reduce(vectors):
    return [T(vectors).sum(0), 2 * (len(vectors) - 1) * len(vectors[0]) // len(vectors)]


def route(logits, k):
    p = T(logits).softmax(0)
    order = np.argsort(-p.numpy(), kind="stable")[:k]
    return [[i, p[i] / p[order.copy()].sum()] for i in order.tolist()]


def verify(p, q, token, u):
    """The distribution that makes proposal and repair together the target's."""
    p, q = np.array(p), np.array(q)
    kept = np.minimum(p, q)
    left = (p - kept) / (1 - kept.sum()) if kept.sum() < 1 - 1e-12 else p
    return [u < min(1.0, p[token] / q[token]), left]


def top_p(probabilities, p):
    p_ = np.array(probabilities)
    order = np.argsort(-p_, kind="stable")
    count = int(np.searchsorted(np.cumsum(p_[order]), p - 1e-12)) + 1
    kept = np.zeros_like(p_)
    kept[order[:count]] = p_[order[:count]]
    return kept / kept.sum()


OWN = {
    "beam-step": beam_step, "bpe-train": bpe_train, "bpe-encode": bpe_encode, "columns-then-rows": columns, "elo": elo,
    "gae": gae, "grpo": advantages("grpo"), "rloo": advantages("rloo"), "int8-matmul": int8, "kl-k3": k3,
    "kneser-ney": kneser_ney, "lora-merge": lora_merge, "min-p": min_p, "nf4": nf4, "one-f-one-b": one_f_one_b,
    "packed-mask": packed_mask, "ppo-clip": ppo, "rank-fusion": fuse, "ring-all-reduce": all_reduce, "router": route,
    "speculative": verify, "top-p": top_p,
}  # fmt: skip
TEXTS = {"bpe-encode": letters, "bpe-train": lambda pairs: [letters(p) for p in pairs],
         "one-f-one-b": lambda said: [letters(said[0]), said[1]]}  # fmt: skip


@pytest.mark.parametrize("name", sorted(OWN))
def test_a_solution_by_the_packages_method(name):
    exercise = find(name)
    for (case, arguments), ours in zip(exercise.inputs(), exercise.outputs(exercise.solution), strict=True):
        close(TEXTS.get(name, list if isinstance(ours, list) else float)(ours), OWN[name](*arguments), case)


def test_every_solution_has_a_second_route():
    assert OUTSIDE.keys() | ROUTES.keys() | OWN.keys() == exercises().keys()
