"""Exercises: references equal outside implementations, hidden tests tell them from mistakes, and nothing leaks."""

from __future__ import annotations

import itertools
import json
import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from _exercises import close

from llmanac import cli
from llmanac.core import catalogue
from llmanac.core.errors import DataError, SpecError
from llmanac.guide import exercise as guide
from llmanac.guide import progress
from llmanac.guide.exercise import WALL, check, exercises, find
from llmanac.guide.progress import Review, ReviewLog
from llmanac.sandbox.pool import Sandbox

NAMES = sorted(exercises())
ENTRIES = {entry.id for entry in catalogue.entries()}
T = torch.tensor


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(1, wall=WALL, arrays=True) as opened:
        yield opened


@pytest.mark.parametrize("name", NAMES)
def test_hidden_tests_pass_on_the_reference_and_fail_on_the_mistake(name, sandbox):
    exercise = find(name)
    good = check(exercise, exercise.solution, sandbox)
    assert good.passed and good.right == good.cases >= 3, good
    bad = check(exercise, exercise.mistake, sandbox)
    assert not bad.passed and exercise.why in bad.message, bad
    empty = guide.same(exercise.outputs(exercise.solution), [None] * good.cases)
    assert not empty and exercise.function in exercise.scaffold
    assert set(exercise.rows) <= ENTRIES and exercise.hints


def scaled_dot(q, k, v):
    q, k, v = (T(x, dtype=torch.float64)[None] for x in (q, k, v))
    mask = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool).tril(k.shape[1] - q.shape[1])
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)[0]


def flash(query, tiles):
    keys, values = ([row for tile in tiles for row in tile[i]] for i in (0, 1))
    return scaled_dot([query], keys, values)[0]


def rope(x, position, base):
    """Pairs as complex numbers, turned by a product."""
    pairs = np.array(x[: len(x) // 2]) + 1j * np.array(x[len(x) // 2 :])
    turned = pairs * np.exp(1j * position * base ** (-np.arange(0, len(x), 2) / len(x)))
    return [*turned.real, *turned.imag]


def adamw(parameters, gradients, lr, beta1, beta2, eps, decay):
    p = torch.nn.Parameter(T(parameters, dtype=torch.float64))
    optimizer = torch.optim.AdamW([p], lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=decay)
    for gradient in gradients:
        p.grad = T(gradient, dtype=torch.float64)
        optimizer.step()
    return p.detach()


def cross_entropy(logits, targets):
    found = F.cross_entropy(T(logits, dtype=torch.float64), T(targets), ignore_index=-100)
    return 0.0 if all(t == -100 for t in targets) else found.item()


def dpo(c, r, rc, rr, beta):
    c, r, rc, rr = (T(x, dtype=torch.float64) for x in (c, r, rc, rr))
    return -F.logsigmoid(beta * ((c - r) - (rc - rr))).mean().item()


def bleu_penalty(lengths, references):
    from sacrebleu.metrics.bleu import BLEU

    closest = [min(refs, key=lambda n: (abs(n - own), n)) for own, refs in zip(lengths, references, strict=True)]
    return BLEU.compute_bleu([9] * 4, [9] * 4, sum(lengths), sum(closest)).bp


def perplexity(documents, sizes):
    flat = T([[lp, -9.0] for d in documents for lp in d], dtype=torch.float64)
    places = torch.zeros(len(flat), dtype=torch.long)
    nats = F.nll_loss(flat, places, reduction="sum").item()
    return [F.nll_loss(flat, places).exp().item(), nats / math.log(2) / sum(sizes)]


def rouge_l(output, reference):
    """Every subsequence of the output, tried one by one."""

    def within(words):
        left = iter(reference)
        return all(word in left for word in words)

    sizes = [n for n in range(len(output) + 1) if any(map(within, itertools.combinations(output, n)))]
    return 2 * max(sizes) / (len(output) + len(reference))


def bm25(query, documents, k1, b):
    import bm25s

    index = bm25s.BM25(method="lucene", k1=k1, b=b)
    index.index(documents, show_progress=False)
    unknown = [word for word in query if not any(word in d for d in documents)]
    return index.get_scores(query) * (k1 + 1) if not unknown else np.zeros(len(documents))


def gqa(heads, kv_heads, head_dim, size):
    return [torch.arange(kv_heads).repeat_interleave(heads // kv_heads), 2 * kv_heads * head_dim * size]


def pass_at_k(tasks, k):
    return float(np.mean([1 - np.prod(1 - k / np.arange(n - c + 1, n + 1)) if n - c >= k else 1.0 for n, c in tasks]))


def cosine(step, warmup, total, peak, floor):
    if step < warmup:
        return peak * (step + 1) / warmup
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total - warmup, eta_min=floor)
    schedule.last_epoch = min(step, total) - warmup
    return schedule._get_closed_form_lr()[0]


def viterbi(text, pieces, unknown):
    """Every split, tried one by one."""
    found = []
    for cuts in itertools.product((0, 1), repeat=max(0, len(text) - 1)):
        ends = [i + 1 for i, cut in enumerate(cuts) if cut] + [len(text)]
        parts = [text[a:b] for a, b in itertools.pairwise([0, *ends])]
        score = sum(pieces.get(p, unknown if len(p) == 1 else -math.inf) for p in parts)
        found.append((round(score, 9), [len(p) for p in reversed(parts)], parts))
    return [ord(c) for part in max(found)[2] for c in f"{part}|"] if text else []


def minhash(documents, functions, p, rows):
    a, b = (np.array(x, dtype=object) for x in zip(*functions, strict=True))
    marks = np.array([((np.array(d, dtype=object)[:, None] * a + b) % p).min(0) for d in documents])
    equal = (marks[:, None] == marks[None]).reshape(len(marks), len(marks), -1, rows)
    pairs = [tuple(x) for x in np.argwhere(np.triu(equal.all(-1).any(-1), 1))]
    return [pairs, [equal[i, j].mean() for i, j in pairs]]


def alibi(scores):
    x = T(scores, dtype=torch.float64)
    heads, t, s = x.shape
    slopes = torch.logspace(-8 / heads, -8, heads, base=2, dtype=torch.float64)
    distance = torch.arange(s)[None] - torch.arange(s - t, s)[:, None]
    biased = x + slopes[:, None, None] * distance
    return biased.masked_fill(distance > 0, -math.inf).softmax(-1)


def linear_attention(q, k, v, S, z):
    q, k, v, S, z = (T(x, dtype=torch.float64) for x in (q, k, v, S, z))
    q, k = F.elu(q) + 1, F.elu(k) + 1
    pairs = (q @ k.T).tril()
    out = (pairs @ v + q @ S) / (pairs.sum(1) + q @ z)[:, None]
    return [out, S + k.T @ v, z + k.sum(0)]


def newton_schulz(matrix, steps):
    from llmanac.train.optimizers.muon import orthogonalise

    if not steps:
        return T(matrix, dtype=torch.float64) / T(matrix, dtype=torch.float64).norm()
    return orthogonalise(T(matrix, dtype=torch.float64)[None], torch.float64, steps)[0]


def vq_step(z, codes, counts, sums, a):
    z, codes, counts, sums = (np.array(x) for x in (z, codes, counts, sums))
    away = ((z[:, None] - codes[None]) ** 2).sum(-1)
    one = np.eye(len(codes))[away.argmin(1)]
    counts, sums = a * counts + (1 - a) * one.sum(0), a * sums + (1 - a) * one.T @ z
    return [away.argmin(1), away.min(1).mean(), sums / counts[:, None], counts, sums]


def lora_gradient(x, W, A, B, alpha, g):
    x, A, B = (T(v, dtype=torch.float64, requires_grad=True) for v in (x, A, B))
    y = x @ T(W, dtype=torch.float64).T + alpha / len(A) * F.linear(F.linear(x, A), B)
    return [y.detach(), *torch.autograd.grad(y, (A, B, x), T(g, dtype=torch.float64))]


def clip_loss(images, texts, captions, s):
    a, b = (F.normalize(T(v, dtype=torch.float64)) for v in (images, texts))
    same = T([[x == y for y in captions] for x in captions], dtype=torch.float64)
    target = same / same.sum(1, keepdim=True)
    return (F.cross_entropy(s * a @ b.T, target) + F.cross_entropy(s * b @ a.T, target)).item() / 2


def patch_embedding(image, p, weight, bias, token, positions):
    x, w = T(image, dtype=torch.float64)[None], T(weight, dtype=torch.float64)
    patches = F.conv2d(x, w.view(len(w), len(image), p, p), T(bias, dtype=torch.float64), stride=p)
    return torch.cat([T([token], dtype=torch.float64), patches[0].flatten(1).T]) + T(positions, dtype=torch.float64)


def ddim_step(x, v, n, a, b, eta):
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(num_train_timesteps=2, prediction_type="v_prediction", clip_sample=True)
    scheduler.alphas_cumprod, scheduler.num_inference_steps = T([b, a], dtype=torch.float64), 2
    x, v, n = (T(y, dtype=torch.float64) for y in (x, v, n))
    return scheduler.step(v, 1, x, eta=eta, use_clipped_model_output=True, variance_noise=n).prev_sample


def corpus_bleu(outputs, references):
    from sacrebleu.metrics.bleu import BLEU

    texts = [[" ".join(words) for words in side] for side in (outputs, references)]
    return BLEU(tokenize="none", smooth_method="none").corpus_score(texts[0], [texts[1]]).score / 100


def sinks(tokens, window, sinks):
    """From distances, as a mask."""
    at = np.arange(tokens)
    away = at[:, None] - at[None]
    return [np.flatnonzero((row >= 0) & ((row < window) | (at < sinks))) for row in away]


def rope_scaling(d, theta, length, factor, low, high):
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling = {"rope_type": "llama3", "rope_theta": theta, "factor": factor, "low_freq_factor": low,
               "high_freq_factor": high, "original_max_position_embeddings": length}  # fmt: skip
    config = LlamaConfig(hidden_size=d, num_attention_heads=1, head_dim=d, rope_parameters=scaling)
    return ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")[0]


OUTSIDE = {
    "sinks": sinks,
    "rope-scaling": rope_scaling,
    "unigram-viterbi": viterbi,
    "minhash": minhash,
    "alibi": alibi,
    "linear-attention": linear_attention,
    "newton-schulz": newton_schulz,
    "vq-step": vq_step,
    "clip-loss": clip_loss,
    "patch-embedding": patch_embedding,
    "ddim-step": ddim_step,
    "lora-gradient": lora_gradient,
    "corpus-bleu": corpus_bleu,
    "softmax": lambda x: F.softmax(T(x, dtype=torch.float64), -1),
    "cross-entropy": cross_entropy,
    "layernorm": lambda x, g, b, eps: F.layer_norm(*(T(v, dtype=torch.float64) for v in [x]), [len(x)],
                                                   T(g, dtype=torch.float64), T(b, dtype=torch.float64), eps),
    "rmsnorm": lambda x, g, eps: F.rms_norm(T(x, dtype=torch.float64), [len(x)], T(g, dtype=torch.float64), eps),
    "rope": rope,
    "attention": scaled_dot,
    "flash-tiles": flash,
    "gqa": gqa,
    "dpo-loss": dpo,
    "adamw": adamw,
    "pass-at-k": pass_at_k,
    "brevity-penalty": bleu_penalty,
    "perplexity": perplexity,
    "rouge-l": rouge_l,
    "bm25": bm25,
    "cosine-schedule": cosine,
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(OUTSIDE))
def test_references_equal_implementations_from_outside(name):
    exercise = find(name)
    for (case, arguments), ours in zip(exercise.inputs(), exercise.outputs(exercise.solution), strict=True):
        if name == "unigram-viterbi":
            ours = [ord(c) for part in ours for c in f"{part}|"]
        close(ours, OUTSIDE[name](*arguments), case)


@pytest.mark.parametrize(
    "code, message",
    [
        ("def softmax(x)\n  pass", "SyntaxError"),
        ("def other(x):\n    return x", "does not define softmax"),
        ("def softmax(x):\n    while True:\n        pass", "longer than"),
        ("def softmax(x):\n    return object()", "neither a number"),
        ("def softmax(x):\n\n    return x[99]", "line 3: IndexError"),
        ("import llmanac.guide.exercise", "No module named 'llmanac'"),
        ("import torch", "No module named 'torch'"),
        ("import numpy as np\nnp.save('/etc/x', [1])", "Error"),
        ("open('/etc/passwd').read()", "Error"),
        ("raise SystemExit(0)", "ended"),
        ("import os\nos._exit(0)", "ended"),
        ("def softmax(x):\n    print('x' * 100000)\n    return x", "prints too much"),
        ("def softmax(x):\n    return [True for _ in x]", "expected"),
        ("import sys, json\nprint('\\n' + '0' * 16 + '[]')\ndef softmax(x):\n    return [0.0 for _ in x]", "expected"),
        # what is expected is not in the program: neither its frames nor its source hold it
        ("import sys\ndef softmax(x):\n    f = sys._getframe(1).f_globals\n    return f.get('expected')", "got null"),
        ("import json\njson.dumps = lambda *a, **k: '[]'\ndef softmax(x):\n    return x", "did not arrive"),
    ],
)  # fmt: skip
def test_wrong_and_hostile_answers(code, message, sandbox, monkeypatch):
    monkeypatch.setattr(guide, "SECONDS", 0.4)
    verdict = check(find("softmax"), code, sandbox)
    assert not verdict.passed and message in verdict.message, verdict


def test_an_answer_may_use_arrays(sandbox):
    body = "e = np.exp(np.array(x) - np.max(x))\n    return e / e.sum()"
    assert check(find("softmax"), f"import numpy as np\ndef softmax(x):\n    {body}", sandbox).passed
    sums = "def softmax(x):\n    import numpy.linalg\n    return numpy.array(x, dtype=numpy.float32)"
    assert "expected" in check(find("softmax"), sums, sandbox).message
    with Sandbox(1, wall=WALL) as plain:
        assert "No module named 'numpy'" in check(find("softmax"), "import numpy", plain).message


def test_names_and_files():
    assert len(NAMES) >= 90
    with pytest.raises(SpecError, match="softmax"):
        find("softmaxx")
    with pytest.raises(DataError, match=r"none\.py"):
        guide.read_answer("none.py")


def test_same():
    assert guide.same([1.0, [2, "a"]], [1.0 + 1e-9, [2.0, "a"]]) and guide.same(math.nan, math.nan)
    for a, b in ((1, True), (True, 1.0), ("1", 1), ([1], [1, 2]), (None, 0.0), (math.inf, -math.inf), (1.0, 1.001)):
        assert not guide.same(a, b) and not guide.same(b, a)


def test_reviews_are_kept_exported_and_scheduled(tmp_path):
    fsrs = pytest.importorskip("fsrs", reason="needs `pip install fsrs`")
    kept, other = ReviewLog(tmp_path / "a" / "p.sqlite"), ReviewLog(tmp_path / "q.sqlite")
    assert kept.due() == {} and not kept.path.exists()
    start = datetime(2026, 1, 1, tzinfo=UTC)
    days = [0, 1, 4, 20]
    for day, rating in zip(days, (3, 3, 1, 4), strict=True):
        kept.add("exercise/softmax", rating, start + timedelta(days=day))
    card, scheduler = fsrs.Card(), fsrs.Scheduler(enable_fuzzing=False)
    for day, rating in zip(days, (3, 3, 1, 4), strict=True):
        card, _ = scheduler.review_card(card, fsrs.Rating(rating), start + timedelta(days=day))
    assert kept.due() == {"exercise/softmax": card.due}
    assert kept.export(tmp_path / "e.json") == 4
    assert other.read(tmp_path / "e.json") == 4 and other.read(tmp_path / "e.json") == 0
    assert other.reviews() == kept.reviews() and len(other.reviews()) == 4
    for rows in ([{"item": "x"}], [{"item": "x", "at": "2026-01-01", "rating": 7}], [3], "x"):
        (tmp_path / "bad.json").write_text(json.dumps({"version": 1, "reviews": rows}))
        with pytest.raises(DataError, match=r"bad\.json"):
            other.read(tmp_path / "bad.json")
    (tmp_path / "q.sqlite").write_bytes(b"no database at all" * 99)
    with pytest.raises(DataError, match=r"q\.sqlite"):
        other.reviews()


def test_the_plain_schedule(monkeypatch):
    at = datetime(2026, 1, 1, tzinfo=UTC)
    for ratings, days in (([3], 1), ([3, 3], 2.5), ([3, 3, 4], 10), ([3, 1], 0), ([3, 1, 2], 1)):
        reviews = [Review("x", at, r) for r in ratings]
        assert progress._plain(reviews) == at + timedelta(days=days)
    monkeypatch.setitem(__import__("sys").modules, "fsrs", None)
    assert progress.due([Review("x", at, 3)]) == at + timedelta(days=1)


def test_commands(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LLMANAC_PROGRESS", str(tmp_path / "p.sqlite"))

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main(["exercise", *map(str, arguments)])
        found = capsys.readouterr()
        return ended.value.code, found.out + found.err

    answer = tmp_path / "elo.py"
    assert run("show", "elo", "-o", answer, "--hints", 1)[0] == 0 and "def elo" in answer.read_text()
    assert "is there already" in run("show", "elo", "-o", answer)[1]
    assert run("check", "elo", answer)[0] == 1
    answer.write_text(find("elo").solution)
    code, said = run("check", "elo", answer)
    assert code == 0 and "passed: 3 of 3" in said and "again on" in said
    first = json.loads(run("list", "--json")[1])
    assert len(first) == len(NAMES) and [row["due"] for row in first].count("") == len(NAMES) - 1
    assert run("list", "attention")[0] == 0 and run("list", "atention")[0] == 2
    assert "2 reviews" in run("progress", "--export", tmp_path / "e.json")[1]
    assert "0 new" in run("progress", "--import", tmp_path / "e.json")[1]
