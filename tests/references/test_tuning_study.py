"""The study of ways to tune a pretrained model: its batches, its reading of an answer, and what it makes of arms."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from evidence import tuning_smollm2 as study
from evidence._synthetic import writing
from evidence.classifiers import made_up
from llmanac.models.load import load_model
from llmanac.tokenizers.load import load_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")


def test_an_epoch_has_every_row_once_in_batches_of_like_length() -> None:
    lengths = np.random.default_rng(0).integers(5, 40, 103)
    feed = study.batches(lengths, np.random.default_rng(1), 25)
    first, second = ([next(feed) for _ in range(5)] for _ in range(2))
    assert sorted(np.concatenate(first)) == sorted(np.concatenate(second)) == list(range(103))
    assert not all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    waste = sum(len(b) * lengths[b].max() - lengths[b].sum() for b in first)
    assert waste < 0.3 * (103 * lengths.max() - lengths.sum())
    edges = sorted((lengths[b].min(), lengths[b].max()) for b in first)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(edges))


@pytest.mark.parametrize("arm", ["full", "prefix-5", "prompt-20"])
def test_an_answer_is_read_as_row_by_row(arm: str, tmp_path: Path) -> None:
    study.small_model(tmp_path)
    writing(load_model(tmp_path), 0).save_pretrained(tmp_path)
    some, tokenizer = study.some_of(made_up("the {} is {}, they say"), range(0, 48, 5)), load_tokenizer(tmp_path)
    of = study.Task(tmp_path, tokenizer, some, some, some, dtype=torch.float32)
    model = study.loaded(of, arm, 0).eval()
    found, losses, right = study.answered(model, of, some), [], []
    names = [tokenizer.encode(word)[0] for word in study.WORDS]
    for text, label in zip(some.texts, some.labels, strict=True):
        ids, _ = tokenizer.encode_chat(study.said(text), add_generation_prompt=True)
        with torch.no_grad():
            logs = model(torch.tensor([ids])).logits[0, -1, names].log_softmax(-1)
        losses.append(-float(logs[int(label)]))
        right.append(int(logs.argmax()) == int(label))
    assert found["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert found["accuracy"] == pytest.approx(np.mean(right))
    assert found["halves"] == pytest.approx([np.mean(losses[::2]), np.mean(losses[1::2])], rel=1e-5)
    assert np.std(losses) > 1e-3  # it depends on the sentence


def test_planted_arms_have_the_planted_shares() -> None:
    def arm(accuracy: float, *curve: float) -> dict:
        return {"accuracy": accuracy, "curve": [[value, value + 0.1] for value in curve]}

    untuned = {"accuracy": 0.5, "halves": [0.7, 0.8]}
    seeds = [
        {"untuned": untuned, "full": arm(0.9, 0.3, 0.2, 0.4), "lora": arm(0.88), "qlora": arm(0.86)},
        {"full": arm(0.7, 0.5, 0.4, 0.3), "lora": arm(0.72)},
        {"full": arm(0.9, 0.9, 0.8, 0.8)},
    ]
    assert study.shares(seeds, "lora") == pytest.approx([0.95, 1.1])
    assert study.kept(seeds, 0.9, "qlora") == pytest.approx([0.0])
    assert study.apart_from(seeds, "qlora", "lora") == pytest.approx([-0.05])
    assert study.overfitted(seeds, "full") == pytest.approx([0.5 / 0.3 - 1, 0.0, 0.9 / 0.8 - 1])
    assert study.cells(2)[: len(study.RATES) + 2] == ["untuned.0", *(f"sweep {a}.0" for a in study.RATES), "full.0"]
