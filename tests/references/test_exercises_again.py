"""The solutions of exercises a second time, by another route: a peer, another formula, or every case tried."""

from __future__ import annotations

import collections
import itertools
import math
import statistics

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from _exercises import close

from llmanac.guide.exercise import find

D = torch.float64


def T(x):
    return torch.tensor(x, dtype=D)


def classify(words, table, bias):
    counts = collections.Counter(w for w in words if w in table)
    names = sorted(table)
    return (T([float(counts[n]) for n in names]) @ T([table[n] for n in names]) + T(bias)).softmax(0)


def negation(words, lexicon, negations, reach):
    """From the distance of each word to the last negation before it, words between them counted."""
    total = 0.0
    for i, word in enumerate(words):
        before = [j for j in range(i) if words[j] in negations]
        flipped = bool(before) and i - before[-1] <= reach
        total += (0 if word in negations else lexicon.get(word, 0)) * (-1 if flipped else 1)
    return [total, float(np.sign(total))]


def macro_f1(predicted, true, classes):
    table = np.zeros((classes, classes))
    np.add.at(table, (true, predicted), 1)
    with np.errstate(all="ignore"):
        p, r = table.diagonal() / table.sum(0), table.diagonal() / table.sum(1)
        f = np.nan_to_num(2 * p * r / (p + r))
    return [f.mean(), table.trace() / table.sum()]


def logistic(X, y, w, b, lr):
    w, b = T(w).requires_grad_(), T(b).requires_grad_()
    loss = F.binary_cross_entropy_with_logits(T(X) @ w + b, T(y))
    torch.optim.SGD([w, b], lr=lr).zero_grad()
    loss.backward()
    return [loss, w - lr * w.grad, b - lr * b.grad]


def mean_embedding(ids, E, g):
    E = T(E).requires_grad_()
    used = torch.tensor([[i for i in ids if i]])
    if not used.numel():
        return [np.zeros(len(g)), np.zeros(E.shape)]
    mean = F.embedding_bag(used, E, mode="mean")[0]
    mean.backward(T(g))
    return [mean, E.grad]


def mlp(W1, b1, W2, b2, x, g):
    W1, b1, W2, x = (T(v).requires_grad_() for v in (W1, b1, W2, x))
    (F.linear(F.relu(F.linear(x, W1, b1)), W2, T(b2)) * T(g)).sum().backward()
    return [W1.grad, b1.grad, W2.grad, x.grad]


def vocabulary(words, text, size, least):
    kept = [w for w, n in sorted(collections.Counter(sorted(words)).items(), key=lambda i: -i[1]) if n >= least]
    kept = kept[: size - 1]
    return [[ord(c) for w in kept for c in w], [kept.index(w) + 1 if w in kept else 0 for w in text]]


def mixture(sizes, alpha, total):
    p = T(sizes).log().mul(alpha).softmax(0)
    return [p, p * total / T(sizes)]


def bigram(train, sentence, k):
    words = sorted({"</s>", *(w for line in train for w in line)})
    table = np.zeros((len(words) + 1, len(words)))
    for line in train:
        for v, w in itertools.pairwise(["<s>", *line, "</s>"]):
            table[words.index(v) if v != "<s>" else -1, words.index(w)] += 1
    table = np.vstack([table, np.zeros(len(words))])  # of words that are not known
    table = np.hstack([table, np.zeros((len(table), 1))])
    total, row = 0.0, len(words)
    for w in [*sentence, "</s>"]:
        column = words.index(w) if w in words else len(words)
        total += math.log((table[row, column] + k) / (table[row].sum() + k * len(words)))
        row = words.index(w) if w in words else len(words) + 1
    return total


def momentum(w, gradients, lr, mu, decay, nesterov):
    p = torch.nn.Parameter(T(w))
    optimizer = torch.optim.SGD([p], lr=lr, momentum=mu, weight_decay=decay, nesterov=nesterov)
    for gradient in gradients:
        p.grad = T(gradient)
        optimizer.step()
    return p


def clip(gradients, limit):
    parts = [torch.nn.Parameter(torch.zeros(len(g), dtype=D)) for g in gradients]
    for part, g in zip(parts, gradients, strict=True):
        part.grad = T(g)
    norm = torch.nn.utils.clip_grad_norm_(parts, limit or math.inf)
    return [norm, [part.grad.tolist() for part in parts]]


def gru(x, h, W, U, b, cn):
    cell = torch.nn.GRUCell(len(x), len(h), dtype=D)
    state = {"weight_ih": T(W).flatten(0, 1), "weight_hh": T(U).flatten(0, 1), "bias_ih": T(b).flatten()}
    cell.load_state_dict({**state, "bias_hh": torch.cat([torch.zeros(2 * len(h), dtype=D), T(cn)])})
    return cell(T(x)[None], T(h)[None])[0]


def lstm(x, h, c, W, U, b):
    cell = torch.nn.LSTMCell(len(x), len(h), dtype=D)
    cell.load_state_dict(
        {"weight_ih": T(W), "weight_hh": T(U), "bias_ih": T(b), "bias_hh": torch.zeros(len(b), dtype=D)}
    )
    return [part[0] for part in cell(T(x)[None], (T(h)[None], T(c)[None]))]


def scan(a, b, h):
    """Each state from all offsets before it, without the states between."""
    states = [
        h * np.prod(a[: t + 1]) + sum(b[s] * np.prod(a[s + 1 : t + 1]) for s in range(t + 1)) for t in range(len(a))
    ]
    return [states, [np.prod(a), states[-1] - h * np.prod(a)]]


def swiglu(x, G, U, W):
    return F.linear(F.silu(F.linear(T(x), T(G))) * F.linear(T(x), T(U)), T(W))


def sinusoidal(position, d, base):
    turned = np.exp(1j * position * base ** (-np.arange(0, d, 2) / d))
    return np.stack([turned.imag, turned.real], 1).reshape(-1)


def parameters(d, layers, heads, kv, size, f, V, tied, tokens):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(hidden_size=d, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv,
                         head_dim=size, intermediate_size=f, vocab_size=V, tie_word_embeddings=tied)  # fmt: skip
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    every = sum(p.numel() for p in model.parameters())
    return [every, 6 * tokens * (every - (0 if tied else V * d))]


def heads(x, H):
    y = T(x).unflatten(1, (H, -1))
    return [y.transpose(0, 1), y.flip(1).flatten(1)]


def masked(ids, u, random, share, special, mask):
    ids, (first, second) = np.array(ids), np.array(u).T
    chosen = (first < share) & (ids >= special)
    given = np.select([~chosen, second < 0.8, second < 0.9], [ids, mask, random], ids)
    return [given, np.where(chosen, ids, -100)]


def prefix(size, first, length):
    mask = np.tril(np.ones((size, size)))
    mask[:first, :first] = 1
    mask[length:], mask[:, length:] = 0, 0
    return mask


def corrupted(ids, spans, first):
    number = {i: n for n, (a, b) in enumerate(spans) for i in range(a, b)}
    given = [
        first - number[i] if i in number else v
        for i, v in enumerate(ids)
        if number.get(i) != number.get(i - 1, -1) or i not in number
    ]
    target = [[first - n, *ids[a:b]] for n, (a, b) in enumerate(spans)]
    return [given, [*itertools.chain(*target), first - len(spans)]]


def repetition(lines):
    lines = [line for line in lines if line]
    extra = collections.Counter(lines) - collections.Counter(set(lines))
    words = " ".join(lines).split()
    pairs = collections.Counter(itertools.pairwise(words))
    most = max(pairs.values(), default=0)
    top = most * max((len(a + b) for (a, b), n in pairs.items() if n == most), default=0)
    again = sum(len(line) * n for line, n in extra.items())
    return [extra.total() / len(lines), again / len("".join(lines)), top / len("".join(words))]


def compute_optimal(E, A, B, alpha, beta, C):
    from scipy.optimize import minimize_scalar

    loss = lambda n: E + A * math.exp(-alpha * n) + B * (C / 6 / math.exp(n)) ** -beta  # noqa: E731
    found = minimize_scalar(loss, bounds=(0, math.log(C)), method="bounded", options={"xatol": 1e-12})
    return [math.exp(found.x), C / 6 / math.exp(found.x), found.fun]


def power_law(xs, ys, x):
    b, a = np.polyfit(np.log(xs), np.log(ys), 1)
    return [np.exp(a), b, np.exp(a) * x**b]


def top_k(logits, k, temperature):
    x = T(logits) / temperature
    return x.masked_fill(x < x.topk(min(k, len(x))).values[-1], -math.inf).softmax(0)


def penalised(logits, ids, penalty, presence, frequency):
    x, counts = np.array(logits), np.bincount(np.array(ids, int), minlength=len(logits))
    scaled = np.where(x > 0, x / penalty, x * penalty)
    return np.where(counts > 0, scaled - presence, x) - frequency * counts


def banned(ids, n):
    seen = {tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)}
    return [v for v in range(100) if len(ids) >= n and (*ids[len(ids) - n + 1 :], v) in seen]


def ranked(sums, lengths, a):
    scores = T(sums) / ((5 + T(lengths)) / 6) ** a
    return [scores, np.lexsort((lengths, -scores.numpy()))]


def allowed(table, ends, tokens, state):
    """Every text that goes on from a token, up to the number of states."""
    found = []
    letters = sorted({c for row in table.values() for c in row})
    for i, token in enumerate(tokens):
        for rest in (r for n in range(len(table) + 1) for r in itertools.product(letters, repeat=n)):
            at = state
            for c in [*token, *rest]:
                at = table.get(at, {}).get(c)
            if token and at in ends:
                found.append(i)
                break
    return found


def mbr(candidates):
    bags = [collections.Counter(c) for c in candidates]
    size = len(bags)
    u = np.array([[2 * (a & b).total() / ((a + b).total() or 1) if a or b else 1.0 for b in bags] for a in bags])
    means = (u.sum(1) - u.diagonal()) / (size - 1)
    return [means, int(np.argmax(np.round(means, 12)))]


def vote(answers, weights):
    if not any(answers):
        return [[], 0.0]
    cast = {a: math.fsum(w for b, w in zip(answers, weights, strict=True) if b == a) for a in answers if a}
    best = next(a for a in answers if a and cast[a] == max(cast.values()))
    return [[ord(c) for c in best], cast[best] / math.fsum(cast.values())]


def chat(turns, end):
    flat = [(i, role == "assistant") for role, ids in turns for i in [*ids, end]]
    return [[i for i, _ in flat], [*(i if on else -100 for i, on in flat[1:]), *[-100][: len(flat)]]]


def distilled(teacher, student, t):
    x = T(student).requires_grad_()
    loss = t * t * F.kl_div((x / t).log_softmax(1), (T(teacher) / t).softmax(1), reduction="batchmean")
    loss.backward()
    return [loss, x.grad]


def reward_loss(chosen, rejected, margin):
    a = T(chosen).requires_grad_()
    loss = -F.logsigmoid(a - T(rejected) - margin).mean()
    loss.backward()
    return [loss, ((a - T(rejected)).sign() + 1).mean() / 2, a.grad]


def policy(logits, answers, rewards, b, R):
    x = T(logits).requires_grad_()
    ((T(rewards) - b) * x.log_softmax(0)[answers]).mean().backward()
    y = T(logits).requires_grad_()
    (y.softmax(0) @ T(R)).backward()
    return [x.grad, y.grad]


def kl_rewards(logps, refs, score, beta, gamma):
    r = beta * (T(refs) - T(logps)) + score * F.one_hot(torch.tensor(len(refs) - 1), len(refs))
    steps = torch.arange(len(r))
    return [r, torch.triu(gamma ** (steps[None] - steps[:, None]).clamp(min=0).to(D)) @ r]


def squad(answer, references):
    from llmanac.metrics.answers._short import exact_match, f1

    return [exact_match(answer, references), f1(answer, references)]


def kappa(one, other):
    from sklearn.metrics import cohen_kappa_score

    names = sorted(set(one) | set(other))
    a, b = ([names.index(v) for v in line] for line in (one, other))
    shares = [np.bincount(line, minlength=len(names)) / len(line) for line in (a, b)]
    chance = shares[0] @ shares[1]
    return [np.mean(np.array(a) == b), chance, 1.0 if chance == 1 else cohen_kappa_score(a, b)]


def choices(items):
    right = np.array([[np.argmax(s) == r, np.argmax(np.divide(s, n)) == r, np.argmax(np.subtract(s, a)) == r]
                      for s, n, a, r in items])  # fmt: skip
    return right.mean(0)


def contaminated(items, texts, n, share):
    """By looking for each run, as text with marks between words."""
    found = []
    for item in items:
        size = min(n, len(item))
        runs = [f"|{'|'.join(item[i : i + size])}|" for i in range(len(item) - size + 1)]
        found.append(np.mean([any(run in f"|{'|'.join(text)}|" for text in texts) for run in runs]))
    return [found, np.flatnonzero(np.array(found) >= share)]


def spearman(x, y):
    from scipy.stats import rankdata, spearmanr

    return [rankdata(x), rankdata(y), spearmanr(x, y).statistic]


def slots(pages, lengths, size, asked):
    place = [[page * size + i for page in row for i in range(size)] for row in pages]
    return [[place[r][t] for r, t in asked], sum(map(len, place)) - sum(lengths)]


def finish(steps, count):
    """Step by step."""
    one, running, waiting, step = [0] * len(steps), {}, list(range(len(steps))), 0
    while running or waiting:
        while waiting and len(running) < count:
            first = waiting.pop(0)
            running[first] = steps[first]
        step += 1
        running = {i: n - 1 for i, n in running.items()}
        for i in [i for i, n in running.items() if n == 0]:
            one[i] = step
            del running[i]
    begins = np.concatenate([[0], np.cumsum([max(steps[i : i + count]) for i in range(0, len(steps), count)])])
    return [one, [begins[i // count] + n for i, n in enumerate(steps)]]


def ternary(W, x, eps):
    W = T(W)
    scale = W.abs().mean() + eps
    codes = (W / scale).round().clamp(-1, 1)
    return [codes, scale, scale * (codes @ T(x))]


def wilson(k, n, z, width):
    """The shares at which a test of the share, with its own spread, is at the limit."""
    from scipy.optimize import brentq

    p = k / n
    gap = lambda q: (p - q) ** 2 - z * z * q * (1 - q) / n  # noqa: E731
    low = 0.0 if k == 0 else brentq(gap, 0, p - 1e-9, xtol=1e-14)
    high = 1.0 if k == n else brentq(gap, p + 1e-9, 1, xtol=1e-14)
    sizes = (m for m in itertools.count(0) if m * width**2 >= z * z * p * (1 - p) - 1e-12)
    return [low, high, next(sizes)]


ROUTES = {
    "bag-of-words": classify, "negation-rule": negation, "macro-f1": macro_f1, "logistic-step": logistic,
    "mean-embedding": mean_embedding, "utf8": lambda code: list(chr(code).encode()), "word-vocabulary": vocabulary,
    "language-temperature": mixture, "mlp-gradient": mlp, "bigram-add-k": bigram, "momentum": momentum,
    "clip-norm": clip,
    "gru-step": gru, "lstm-step": lstm, "linear-scan": scan, "swiglu": swiglu, "sinusoidal": sinusoidal,
    "count-parameters": parameters, "split-heads": heads, "masked-tokens": masked, "prefix-mask": prefix,
    "span-corruption": corrupted, "repeated-lines": repetition, "compute-optimal": compute_optimal,
    "power-law-fit": power_law, "top-k": top_k, "repetition-penalty": penalised, "banned-tokens": banned,
    "length-normalised": ranked, "automaton-mask": allowed, "minimum-bayes-risk": mbr, "weighted-vote": vote,
    "chat-targets": chat, "distillation": distilled, "reward-model-loss": reward_loss, "policy-gradient": policy,
    "kl-rewards": kl_rewards, "squad-f1": squad, "cohen-kappa": kappa, "normalised-choice": choices,
    "contamination": contaminated, "rank-correlation": spearman, "cache-pages": slots, "continuous-batching": finish,
    "ternary": ternary, "interval-of-a-share": wilson,
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(ROUTES))
def test_a_solution_by_another_route(name):
    exercise = find(name)
    for (case, arguments), ours in zip(exercise.inputs(), exercise.outputs(exercise.solution), strict=True):
        close(ours, ROUTES[name](*arguments), case)


def test_what_stands_for_more_than_its_cases():
    """Properties of solutions on inputs that no case has."""
    space: dict[str, object] = {"math": math}
    exec(find("utf8").solution, space)
    assert all(bytes(space["utf8"](c)) == chr(c).encode() for c in range(0, 0x110000, 97) if not 0xD800 <= c < 0xE000)
    exec(find("interval-of-a-share").solution, space)
    inside = [space["wilson"](k, 60, 1.96, 0.1)[0] <= 0.3 <= space["wilson"](k, 60, 1.96, 0.1)[1] for k in range(61)]
    chance = [math.comb(60, k) * 0.3**k * 0.7 ** (60 - k) for k in range(61)]
    assert 0.93 < sum(itertools.compress(chance, inside)) < 0.97
    assert statistics.fmean(space["wilson"](30, 60, 1.96, 0.1)[:2]) == pytest.approx(0.5)
