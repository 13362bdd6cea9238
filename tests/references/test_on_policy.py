"""On-policy distillation: the student's own answers, the plain objective on them, and a student that learns so."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from _small_models import transformer

from llmanac.core.errors import SpecError
from llmanac.core.spec import make, make_method
from llmanac.generate.engine import Engine
from llmanac.objectives import collate_ragged
from llmanac.recipes.tune import TuneSpec, tune
from llmanac.tokenizers.load import train_tokenizer
from llmanac.train.on_policy import OnPolicy

TOKENIZER = make_method("tokenizer", "utf8").train([""])


def small(seed=0, scale=0.2):
    model = transformer(vocab_size=TOKENIZER.vocab_size, dim=16, layers=1, max_length=48, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return model


def pairs():
    texts = [("1+1=", "2"), ("10+10=", "20"), ("2*3=", "6"), ("100-1=", "99")]
    ids = [(TOKENIZER.encode(a), TOKENIZER.encode(b)) for a, b in texts]
    return [(np.array([*a, *b]), np.arange(len(a) + len(b)) >= len(a)) for a, b in ids]


def source(model, **fields):
    return OnPolicy(
        pairs(), Engine(model, TOKENIZER, rows=8), **{"count": 4, "share": 1.0, "tokens": 5, "seed": 0, **fields}
    )


def prompts(rows):
    return {tuple(ids[: int(np.argmax(mask))].tolist()) for ids, mask in rows}


@pytest.mark.parametrize("divergence", ["reverse", "jensen-shannon"])
def test_rows_are_the_students_own_and_the_loss_is_the_plain_one(divergence):
    """GKD's step: the data's prompts, the student's answers, and loss and gradient those of TRL's formula."""
    gkd = pytest.importorskip("trl.experimental.gkd.gkd_trainer")
    student, teacher = small(0), small(1)
    rows = next(source(student))
    assert prompts(rows) == prompts(pairs()) and all(mask.sum() >= 1 for _, mask in rows)
    assert {tuple(ids.tolist()) for ids, _ in rows} != {tuple(ids.tolist()) for ids, _ in pairs()}
    fields = {"name": "token-distillation", "divergence": divergence, "on_policy": 1.0}
    made = make_method("objective", fields).build(tokenizer=TOKENIZER, models={"teacher": teacher})
    batch = made.collate(rows)
    loss, units, _ = made.loss(student, batch)
    own = torch.autograd.grad(loss / units, list(student.parameters()), allow_unused=True)
    plain = collate_ragged(rows)
    expected = gkd.GKDTrainer.generalized_jsd_loss(
        student(plain).logits, teacher(plain).logits.detach(), labels=plain.targets,
        beta={"reverse": 1.0, "jensen-shannon": 0.5}[divergence], reduction="batchmean",
    )  # fmt: skip
    torch.testing.assert_close(loss / units, expected, rtol=1e-6, atol=1e-9)
    theirs = torch.autograd.grad(expected, list(student.parameters()), allow_unused=True)
    for a, b in zip(own, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)
    assert max(float(g.abs().max()) for g in own if g is not None) > 1e-4


def test_answers_follow_the_students_weights_and_a_state_repeats_them():
    student = small(0)
    found = source(student)
    next(found)
    state = found.state()
    second = next(found)
    again = source(student)
    again.restore(*state)
    repeated = next(again)
    assert all(np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1]) for a, b in zip(second, repeated, strict=True))
    with torch.no_grad():
        student.embedding.weight.zero_()
    moved = source(student)
    moved.restore(*state)
    assert any(not np.array_equal(a[0], b[0]) for a, b in zip(second, next(moved), strict=True))


def test_a_share_of_the_rows_is_answered_anew():
    known = {tuple(ids.tolist()) for ids, _ in pairs()}
    found = source(small(0), share=0.5)
    new = [tuple(ids.tolist()) not in known for _ in range(25) for ids, _ in next(found)]
    assert 0.3 < np.mean(new) < 0.7
    for share in (0.0, 1.5):
        with pytest.raises(SpecError, match="on_policy"):
            source(small(0), share=share)
    for fields in ({"share": 0.5}, {"on": "all"}, {"on_policy": 2.0}):
        with pytest.raises(SpecError, match="on_policy"):
            make_method("objective", {"name": "token-distillation", "on_policy": 0.5, **fields})


def test_a_student_learns_from_its_teachers_view_of_its_own_answers(tmp_path):
    """The whole command: the divergence on held-out rows falls, without a step on the data's own answers."""
    tokenizer = train_tokenizer("bpe", ["say a b"], vocab_size=260, special_tokens=["<|endoftext|>"])
    shape = {"name": "transformer", "dim": 16, "layers": 1, "max_length": 64}
    for name, seed in (("teacher", 3), ("student", 0)):
        model = make_method("lm", shape).build(vocab_size=tokenizer.vocab_size)
        with torch.no_grad():
            model.embedding.weight.add_(
                0.3 * torch.randn(model.embedding.weight.shape, generator=torch.Generator().manual_seed(seed))
            )
        model.save_pretrained(tmp_path / name)
        tokenizer.save(tmp_path / name)
    rows = [{"prompt": f"say {n}", "completion": " a b"} for n in range(24)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train = {"steps": 12, "dtype": "float32", "attention": "sdpa", "compile": "never", "batch_tokens": 256,
             "optimizer": {"name": "adamw", "lr": 0.01}}  # fmt: skip
    asked = make(TuneSpec, {
        "model": str(tmp_path / "student"), "teacher": str(tmp_path / "teacher"), "train": train,
        "rows": {"file": str(tmp_path / "rows.jsonl"), "held_out": 0.3},
        "objective": {"name": "reverse-distillation", "on_policy": 1.0, "tokens": 8},
    })  # fmt: skip
    done = tune(asked, tmp_path / "out", report=lambda line: None)
    assert done.after.mean < 0.96 * done.before.mean
