"""Distillation at the level of tokens and of features, against torch, TRL and the formulas written out."""

from __future__ import annotations

import copy
import itertools
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from _small_models import VOCABULARY, gradients, randomise, tokens, transformer

from llmanac.core import registry
from llmanac.core.errors import SpecError
from llmanac.core.types import IGNORE, Batch, OutputRequest
from llmanac.kernels.nn.divergence import chunked_divergence, divergence

CASES = [
    {},
    {"divergence": "reverse", "temperature": 2.0},
    {"divergence": "jensen-shannon", "beta": 0.3, "temperature": 0.7},
    {"share": 0.4, "temperature": 4.0},
]


def ragged(lengths=(9, 4, 7), seed=3):
    """A padded batch of rows whose first two tokens carry no loss."""
    ids = tokens(len(lengths), max(lengths) + 1, seed)
    targets = ids[:, 1:].clone()
    targets[:, :2] = IGNORE
    for row, length in enumerate(lengths):
        targets[row, length:] = IGNORE
    return Batch(ids=ids[:, :-1], targets=targets, lengths=torch.tensor(lengths))


def built(name, teacher, **fields):
    return registry.build("objective", name, models={"teacher": teacher}, **fields)


def written_out(student, teacher, batch, *, divergence="forward", beta=0.5, temperature=1.0, share=1.0):
    keep = batch.targets != IGNORE
    s, t = (model(batch).logits[keep] for model in (student, teacher))
    q, p = ((x / temperature).log_softmax(-1) for x in (s, t.detach()))
    kl = lambda a, b: F.kl_div(b, a, reduction="sum", log_target=True)  # noqa: E731 - KL(a || b)
    if divergence == "forward":
        apart = kl(p, q)
    elif divergence == "reverse":
        apart = kl(q, p)
    else:
        mixture = (beta * p.exp() + (1 - beta) * q.exp()).log()
        apart = beta * kl(p, mixture) + (1 - beta) * kl(q, mixture)
    plain = F.cross_entropy(s, batch.targets[keep], reduction="sum")
    return share * temperature**2 * apart + (1 - share) * plain


@pytest.mark.parametrize("fields", CASES)
def test_divergences_equal_torch(fields):
    """Loss and gradients, on ragged rows, with a teacher of another shape; nothing reaches the teacher."""
    student, teacher = transformer(), transformer(dim=48, layers=3)
    randomise(teacher, seed=9)
    batch = ragged()
    loss, units, _ = built("token-distillation", teacher, **fields).loss(student, batch)
    assert int(units) == int((batch.targets != IGNORE).sum())
    loss.backward()
    ours = gradients(student)
    assert not gradients(teacher)
    student.zero_grad()
    expected = written_out(student, teacher, batch, **fields)
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    for name, grad in gradients(student).items():
        torch.testing.assert_close(ours[name], grad, rtol=1e-9, atol=1e-11)
    assert max(float(g.abs().max()) for g in ours.values()) > 1e-3


@pytest.mark.parametrize(("kind", "beta"), [("forward", 0), ("reverse", 1), ("jensen-shannon", 0.25)])
def test_divergence_equals_trl(kind, beta):
    trl = pytest.importorskip("trl.experimental.gkd.gkd_trainer")
    s, t = (torch.randn(3, 5, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    theirs = trl.GKDTrainer.generalized_jsd_loss(s, t, beta=beta, temperature=1.7, reduction="sum")
    ours = divergence(s.flatten(0, 1), t.flatten(0, 1), kind=kind, beta=beta or 0.5, temperature=1.7)
    torch.testing.assert_close(ours.sum(), theirs)


def test_top_tokens_and_the_rest():
    """k = V is the full divergence, a smaller k a lower one, and never NaN: the rest is an outcome of its own."""
    s, t = (torch.randn(6, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) * 3 for i in (0, 1))
    full = divergence(s, t, kind="forward")
    torch.testing.assert_close(divergence(s, t, kind="forward", top=11), full)
    some = divergence(s, t, kind="forward", top=3)
    p, chosen = t.softmax(-1).topk(3, -1)
    q = s.softmax(-1).gather(-1, chosen)
    rest_p, rest_q = 1 - p.sum(-1), 1 - q.sum(-1)
    torch.testing.assert_close(some, (p * (p / q).log()).sum(-1) + rest_p * (rest_p / rest_q).log())
    assert (some <= full + 1e-12).all() and (some < full - 1e-3).any()


@pytest.mark.parametrize("kind", ["forward", "reverse", "jensen-shannon"])
@pytest.mark.parametrize("sure", [0.0, 10.0, 20.0, 30.0])
@pytest.mark.parametrize("doubtful", ["student", "teacher", "neither"])
def test_the_rest_of_sure_models_equals_the_full_divergence(kind, sure, doubtful):
    """Float32, 64 of 32,000 tokens, values and gradients; the others stand in one ratio, so nothing is lost by summing.

    `sure` nats lie between the first token and the rest: at 20 the rest has less probability than float32's eps.
    """
    places, size, top = 2, 32_000, 64
    draw = torch.Generator().manual_seed(5)
    t = torch.randn(places, size, dtype=torch.float64, generator=draw)
    t[:, :top] += 9  # the teacher's most probable ones
    t[:, 0] += sure
    s = t + 0.5
    s[:, :top] = t[:, :top] + torch.randn(places, top, dtype=torch.float64, generator=draw)
    if doubtful != "neither":
        (s if doubtful == "student" else t)[:, 0] -= sure / 2
    s, t = s.float().double(), t.float().double()
    found = []
    for dtype, some in ((torch.float64, None), (torch.float32, top)):
        own = s.to(dtype).requires_grad_(True)
        value = divergence(own, t.to(dtype), kind=kind, top=some)
        found.append((value.detach().double(), torch.autograd.grad(value.sum(), own)[0].double()))
    (full, gradient), (ours, our_gradient) = found
    torch.testing.assert_close(ours, full, rtol=5e-4, atol=2e-5)  # float32 sums of 32,000 terms
    for part in (slice(0, top), slice(top, None)):  # the tokens told apart, and the others together
        expected = gradient[:, part].abs().sum(-1)
        torch.testing.assert_close(our_gradient[:, part].abs().sum(-1), expected, rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize("kind", ["forward", "reverse", "jensen-shannon"])
@pytest.mark.parametrize("top", [None, 2, 3])
@pytest.mark.parametrize("excluded", [slice(0, 1), slice(3, None)])
@pytest.mark.parametrize("by", [("teacher",), ("student", "teacher")])
def test_excluded_tokens_add_no_nan(kind, top, excluded, by):
    """Single tokens and all of the rest: a finite divergence; its gradient lowers what the teacher excludes."""
    s, t = (torch.randn(2, 6, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    t[:, excluded] = -math.inf
    if "student" in by:
        s[:, excluded] = -math.inf
    s.requires_grad_(True)
    value = divergence(s, t, kind=kind, top=top)
    (grad,) = torch.autograd.grad(value.sum(), s)
    assert (value < 100).all() and (grad.abs() < 100).all() and (grad.abs() > 1e-4).any()  # and so no NaN
    if by == ("teacher",) and top is None:
        assert (grad[:, excluded] > 0).all()


def test_chunks_give_the_same(monkeypatch):
    from llmanac.kernels.nn import divergence as module

    s, t = (torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    w = torch.randn(11, 5, dtype=torch.float64).requires_grad_(True)
    results = []
    for elements in (1 << 20, 22):
        monkeypatch.setattr(module, "CHUNK_ELEMENTS", elements)
        value = chunked_divergence(lambda x: x @ w.T, lambda x: x @ w.T, s, t, vocab_size=11, kind="forward").sum()
        results.append((value.detach(), *torch.autograd.grad(value, w)))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def test_a_student_that_is_its_teacher_loses_nothing():
    model, batch = transformer(), ragged()
    for name in ("token-distillation", "reverse-distillation", "jsd-distillation"):
        loss, _, _ = built(name, copy.deepcopy(model)).loss(model, batch)
        assert abs(float(loss)) < 1e-10
    for name in ("feature-distillation", "cosine-distillation"):
        loss, _, _ = built(name, copy.deepcopy(model), share=1.0, layers=["even"]).loss(model, batch)
        assert abs(float(loss)) < 1e-10


@pytest.mark.parametrize("distance", ["mse", "cosine"])
def test_features_equal_the_loss_written_out(distance):
    """Pairs of layers of models of two widths, with the trained projections, on ragged rows."""
    student, teacher = transformer(), randomise(transformer(dim=48, layers=3), seed=9)
    batch = ragged()
    objective = registry.build(
        "objective", "feature-distillation", models={"teacher": teacher}, student=student, layers=["1:2", "last"],
        distance=distance, share=0.3,
    )  # fmt: skip
    maps = objective.models["projections"].double().maps
    loss, units, _ = objective.loss(student, batch)
    keep = batch.targets != IGNORE
    own, other = (
        student(batch, want=OutputRequest(layers=(1, 2), logits="all")),
        teacher(batch, want=OutputRequest(layers=(2, 3))),
    )
    total = 0.0
    for map_, a, b in zip(maps, own.layers, other.layers, strict=True):
        a, b = F.linear(a[keep], map_.weight), b[keep]
        if distance == "mse":
            total = total + ((a - b) ** 2).mean(-1).div((b**2).mean(-1)).sum() / 2
        else:
            total = total + (1 - (a * b).sum(-1) / a.norm(dim=-1) / b.norm(dim=-1)).sum() / 2
    expected = 0.3 * total + 0.7 * F.cross_entropy(own.logits[keep], batch.targets[keep], reduction="sum")
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    assert int(units) == int(keep.sum())
    loss.backward()
    assert all(float(p.grad.abs().max()) > 0 for p in objective.models["projections"].parameters())
    assert not gradients(teacher)


def test_expected_gradient_of_the_teachers_text_is_that_of_the_sequence_level_kl():
    """Training on text that the teacher wrote: E_{y ~ p} grad -log q(y) = grad KL(p || q) over all texts y."""
    vocabulary, length = 3, 3
    small = {"vocab_size": vocabulary, "dim": 16, "layers": 1, "max_length": 8}
    student, teacher = transformer(**small), randomise(transformer(**small), seed=4)
    texts = torch.tensor(list(itertools.product(range(vocabulary), repeat=length)))
    ids = F.pad(texts, (1, 0))  # after a first token 0

    def log_probabilities(model):
        return -model.nll(Batch(ids=ids[:, :-1], targets=ids[:, 1:]), "none").sum(1)

    with torch.no_grad():
        p = log_probabilities(teacher)
    assert float(p.exp().sum()) == pytest.approx(1, abs=1e-12)
    (p.exp() * (p - log_probabilities(student))).sum().backward()
    exact = gradients(student)
    student.zero_grad()
    objective = registry.build("objective", "autoregressive")
    total = {name: torch.zeros_like(g) for name, g in exact.items()}
    for row, weight in zip(ids, p.exp(), strict=True):
        student.zero_grad()
        objective.loss(student, objective.collate([row.numpy()]))[0].backward()
        for name, grad in gradients(student).items():
            total[name] += weight * grad
    for name, grad in exact.items():
        torch.testing.assert_close(total[name], grad, rtol=1e-9, atol=1e-11)


class Answers:
    """A teacher's engine whose answers to each prompt are known."""

    tokenizer = None

    def __init__(self, answers):
        self.answers = answers

    def generate(self, prompts, n, **options):
        return [Answer(text) for prompt in prompts for text in self.answers[prompt][:n]]


class Answer:
    finish_reason = "stop"

    def __init__(self, text):
        self.text = text


def test_only_verified_answers_reach_the_loss(tmp_path):
    """Of right and wrong answers only the right ones become rows; a perfect teacher's rows train as the gold ones."""
    from llmanac.recipes.distill import teacher_file
    from llmanac.tokenizers.load import train_tokenizer

    gold = [{"prompt": f"{a} plus 2 is", "completion": f" so #### {a + 2}"} for a in range(5)]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in gold))
    mixed = {row["prompt"]: [row["completion"], " so #### 99"] for row in gold}
    counts, rows = teacher_file(Answers(mixed), data, tmp_path / "mixed", samples=2, verify="gsm8k")
    kept = [json.loads(line) for line in rows.read_text().splitlines()]
    assert counts["wrong"] == counts["written"] == 5 and not any("99" in row["completion"] for row in kept)
    assert [row["prompt"] for row in kept] == [row["prompt"] for row in gold]
    tokenizer = train_tokenizer("bpe", [str(gold)], vocab_size=280, special_tokens=["<|endoftext|>"])
    objective = registry.build("objective", "instruction", tokenizer=tokenizer)
    as_gold = [{**row, "completion": row["completion"].strip()} for row in gold]  # white space is not the teacher's
    for (ids, mask), (own, theirs) in zip(objective.encode_all(kept), objective.encode_all(as_gold), strict=True):
        assert (ids == own).all() and (mask == theirs).all()


def test_refusals():
    model = transformer()
    with pytest.raises(SpecError, match="needs a teacher"):
        registry.build("objective", "token-distillation")
    with pytest.raises(SpecError, match="layers: 3:9: the student has 2 blocks"):
        built("feature-distillation", model, layers=["3:9"])
    with pytest.raises(SpecError, match="one width"):
        registry.build(
            "objective", "feature-distillation", models={"teacher": transformer(dim=48)}, student=model,
            projection="none",
        )  # fmt: skip
    for fields, words in (({"beta": 1.0}, "beta"), ({"temperature": 0.0}, "temperature"), ({"top": 0}, "top")):
        with pytest.raises(SpecError, match=words):
            built("token-distillation", model, **fields)
    larger = type("Tokenizer", (), {"vocab_size": VOCABULARY + 1})()
    with pytest.raises(SpecError, match="one tokenizer"):
        registry.build("objective", "token-distillation", models={"teacher": model}, tokenizer=larger)
    assert np.isfinite(float(built("token-distillation", model).loss(transformer(), ragged())[0]))
