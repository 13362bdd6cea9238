"""Objectives whose losses cannot be compared: one tokenizer for all, probes with their floors, and no verdict below."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _studies import ask

from llmanac.core.errors import DataError, SpecError
from llmanac.core.spec import make_method
from llmanac.lab import probe as probes
from llmanac.tokenizers.load import train_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")
WORDS = ["good film", "a fine story", "so bad", "dull and long"]


@pytest.mark.slow
def test_four_objectives_on_one_text(recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "PASSAGES", 200)
    labelled = tmp_path / "mood.jsonl"
    rows = [f'{{"text": "{WORDS[i % 4]} {i}", "label": "{"good" if i % 4 < 2 else "bad"}"}}' for i in range(80)]
    labelled.write_text("\n".join(rows) + "\n")
    base = copy.deepcopy(recipe) | {"evaluate": {"held_out_bytes": 20_000}}
    arms = "autoregressive,masked,prefix,glm"
    found = ask("objective", arms, base, tmp_path / "s", tmp_path / "c", seeds=1, probe=str(labelled))
    measured = [m["name"] for m in found.data["metrics"]]
    assert measured == ["probe_mood", "probe_order", "probe_agreement", "judged", "distinct_2"]
    judged, written = found.values("judged"), found.data["generation"]
    assert all(2 < values[0] < 20 for values in judged.values()) and written["text"]["judged"] < min(judged.values())[0]
    assert "judged by a 5-gram of" in found.page.read_text()
    assert set(found.values("probe_order")) == set(arms.split(","))
    costs = found.data["costs"]
    assert len({cost["parameters"] for cost in costs.values()}) == 1  # one vocabulary, with every arm's special tokens
    assert costs["glm"]["train_flops"] > costs["autoregressive"]["train_flops"]  # it reads its blanks twice
    floors = found.data["probes"]
    assert floors["probe_mood"]["bag of words"] == 1.0 and abs(floors["probe_order"]["bag of words"] - 0.5) < 0.12
    refused = found.data["comparisons"]["probe_mood"]
    assert {c["verdict"] for c in refused} == {"none"} and "no arm is above" in refused[0]["refused"]
    assert "No arm is above the bag of words" in found.page.read_text()
    longer = copy.deepcopy(base)
    longer["train"]["steps"] = 40
    equal = ask("objective", "autoregressive,glm", longer, tmp_path / "f", tmp_path / "c", seeds=1, hold="flops")
    spent = [equal.data["costs"][arm]["train_flops"] for arm in ("autoregressive", "glm")]
    assert equal.data["plan"]["steps"]["glm"] < 36 and abs(spent[1] / spent[0] - 1) < 0.03
    with pytest.raises(SpecError, match="nothing that they write is judged"):
        ask("ffn", "swiglu,relu", base, tmp_path / "j", tmp_path / "c", seeds=1, judge="runs/x")


def test_a_file_without_a_probe_is_refused() -> None:
    objective = make_method("objective", "instruction")
    assert probes.make_probes(None, [objective], 32, []) == ()
    with pytest.raises(SpecError, match="train nothing that a probe reads"):
        probes.make_probes(None, [objective], 32, ["x.tsv"])
    named = [make_method("objective", name) for name in ("masked", "whole-word", "autoregressive", "glm", "prefix")]
    assert probes.needed(named[:2]) and probes.needed(named) and not probes.needed(named[2:3] * 2)


def test_a_probe_sees_what_a_bag_of_words_does_not() -> None:
    """A model that knows which token follows which: its states show exchanges."""
    tokenizer = train_tokenizer("utf8", [])
    texts = ["abcdefghijklmnopqrstuvwxyz" * 12 for _ in range(30)]
    probe = probes.order_probe(texts, tokenizer, 32)
    assert probe.labels.mean() == pytest.approx(0.5, abs=0.01) and len(probe.ids[0]) == 32
    owners_apart = {tuple(sorted(ids)) for ids in probe.ids}
    assert len(owners_apart) < len(probe.ids)  # exchanged passages have the same tokens
    model = make_method("lm", {"name": "transformer", "dim": 32, "layers": 2, "max_length": 32}).build(
        vocab_size=tokenizer.vocab_size
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    floors = probe.floors(model, "causal")
    assert floors["bag of words"] < 0.6 and floors["before training"] > 0.8
    assert probe.score(model, "bidirectional") != floors["before training"]
    with pytest.raises(DataError, match="too few for a probe"):
        probes.order_probe(["short"], tokenizer, 32)


def test_accuracy_is_that_of_ridge_regression() -> None:
    """Against least squares over rows that are extended by the penalty, for one of the penalties."""
    generator = np.random.default_rng(0)
    labels = np.arange(200) % 2
    x = generator.normal(size=(200, 5)) + labels[:, None] * 0.4
    train = np.arange(200) < 100
    found = probes.accuracy(torch.from_numpy(x), labels, train)
    z = (x - x[train].mean(0)) / x[train].std(0, ddof=1)
    scores = set()
    for penalty in probes.PENALTIES:
        rows = np.concatenate([z[train], (100 * penalty) ** 0.5 * np.eye(5)])
        signs = np.concatenate([2.0 * labels[train] - 1, np.zeros(5)])
        weights = np.linalg.lstsq(rows, signs, rcond=None)[0]
        scores.add(float(((z[~train] @ weights > 0) == labels[~train]).mean()))
    assert found in scores and found > 0.6
