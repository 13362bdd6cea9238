"""Transfer: one loop, data and seeds; only the weights that a training starts from differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from _labelled import denied, easy
from _small_models import randomise
from typer.testing import CliRunner

from llmanac.core.errors import SpecError
from llmanac.core.spec import make_method, parse_patches, patch
from llmanac.data.labelled import Labelled
from llmanac.lab.axis import Arm
from llmanac.lab.trials.classifying import ClassifierStart, ClassifyingTrial, begun
from llmanac.models.classifiers.fine_tuning import FineTuning
from llmanac.tokenizers.load import train_tokenizer

STARTS = ("pretrained", "scratch", "shuffled")
pytestmark = pytest.mark.usefixtures("few_steps")
PATCHES = ["epochs=1", "lr=0.003", "length=32"]


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmanac.models.classifiers.fine_tuning.LEAST_STEPS", 8)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer("word", [*easy()[0], *denied()[0]], special_tokens=["<|endoftext|>"])


def model_of(tokenizer: Any) -> Any:
    given = {"name": "transformer", "dim": 16, "layers": 1, "max_length": 32}
    return randomise(make_method("lm", given).build(vocab_size=tokenizer.vocab_size))


def labelled(pair: tuple[list[str], list[str]]) -> Labelled:
    return Labelled(*pair, list(range(len(pair[0]))))


def test_starts_are_the_checkpoint_its_initial_weights_and_its_numbers_in_another_order(tokenizer: Any) -> None:
    model = model_of(tokenizer)
    kept = {name: p.detach().clone() for name, p in model.named_parameters()}
    made = {
        start: dict(begun(model, ClassifierStart.from_data({"name": start}), 3).named_parameters()) for start in STARTS
    }
    fresh = make_method("lm", {"name": "transformer", "dim": 16, "layers": 1, "max_length": 32})
    fresh = fresh.build(vocab_size=tokenizer.vocab_size)
    fresh.initialise(3)
    for name, parameter in fresh.named_parameters():
        assert torch.equal(made["scratch"][name], parameter)
        assert torch.equal(made["pretrained"][name], kept[name])
        mixed = made["shuffled"][name]
        assert torch.equal(mixed.flatten().sort()[0], kept[name].flatten().sort()[0])
        assert not torch.equal(mixed, kept[name])
    assert all(torch.equal(p, kept[name]) for name, p in model.named_parameters())  # the checkpoint is as it was
    other = dict(begun(model, ClassifierStart(name="shuffled"), 4).named_parameters())
    assert not torch.equal(other["model.embed_tokens.weight"], made["shuffled"]["model.embed_tokens.weight"])
    with pytest.raises(SpecError, match="warm"):
        ClassifierStart.from_data({"name": "warm"})


def test_only_the_initial_weights_differ(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every arm sees the same examples from the same head; a checkpoint that is the initial weights changes nothing."""
    seen: list[tuple[Any, ...]] = []
    prepare = FineTuning.prepare

    def recorded(self: FineTuning, texts: Any, labels: Any, seed: int) -> None:
        prepare(self, texts, labels, seed)
        seen.append((tuple(texts), tuple(labels), seed, tuple(self.network.head.weight.flatten().tolist())))

    monkeypatch.setattr(FineTuning, "prepare", recorded)
    model = model_of(tokenizer)
    model.initialise(0)
    trial = trial_of(model, tokenizer, (8, 96))
    seen.clear()
    found = {arm.label: trial.measure(arm, 0, Path()).values for arm in trial.arms}
    by_arm = {arm.label: seen[2 * n : 2 * n + 2] for n, arm in enumerate(trial.arms)}
    assert len(seen) == 6 and by_arm["pretrained"] == by_arm["scratch"] == by_arm["shuffled"]
    small, large = by_arm["pretrained"]
    assert len(small[0]) == 8 and set(small[0]) <= set(large[0])  # the smaller sample is a part of the larger one
    assert found["pretrained"] == found["scratch"] and [m.name for m in trial.metrics][:2] == [
        "macro_f1_96",
        "macro_f1_8",
    ]
    floor = trial.majority()
    assert (floor.macro_f1, floor.accuracy) == (pytest.approx(1 / 3), 0.5)
    other = trial_of(model_of(tokenizer), tokenizer, (96,))
    again = other.measure(other.arms[1], 0, Path()).values
    assert again["macro_f1_96"] == found["scratch"]["macro_f1_96"]  # whatever the checkpoint is


def trial_of(model: Any, tokenizer: Any, sizes: tuple[int, ...]) -> ClassifyingTrial:
    arms = [Arm(name, ClassifierStart.from_data({"name": name}), {}, {}) for name in STARTS]
    method = patch(make_method("classifier", "fine-tuning"), parse_patches(PATCHES))
    texts = labelled(denied()), labelled(easy())
    return ClassifyingTrial(arms, *texts, sizes, language_model=(model, tokenizer), method=method)


@pytest.mark.slow
def test_the_command_compares_the_starts_over_seeds(
    tokenizer: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmanac.cli.classify import app

    monkeypatch.chdir(tmp_path)
    model_of(tokenizer).save_pretrained(tmp_path / "m")
    tokenizer.save(tmp_path / "m")
    for name, (texts, labels) in {"train": easy(), "test": denied()}.items():
        lines = [f"{label} {text}" for text, label in zip(texts, labels, strict=True)]
        (tmp_path / name).write_text("\n".join(lines))
    asked = ["transfer", "train", "--test", "test", "--model", "m", "--seeds", "5", "-s", "epochs=1"]
    done = CliRunner().invoke(app, [*asked, "--sizes", "4,9999"])
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "studies" / "transfer" / "study.json").read_text())
    names = ["macro_f1_48", "macro_f1_4", "accuracy_48", "accuracy_4"]
    assert [metric["name"] for metric in found["metrics"]] == names and found["replicate"] == "seed"
    for metric in names:  # gains are paired by seed
        own = found["values"][metric]
        for c in found["comparisons"][metric]:
            pairs = [b - a for a, b in zip(own["pretrained"], own[c["arm"]], strict=True)]
            assert c["n"] == 5 and c["difference"] == pytest.approx(sum(pairs) / 5) and c["verdict"] != "too few"
    pairing = found["pairing"]["seeds"].values()
    assert len(pairing) == 5 and all(one["rows"] == 2 and one["rows_equal"] for one in pairing)
    assert "macro F1 after 48 rows" in done.output and "--method fine-tuning --model m" in done.output
    again = CliRunner().invoke(app, [*asked, "--sizes", "1"])
    assert isinstance(again.exception, SpecError) and "at least 2 labelled texts" in str(again.exception)
