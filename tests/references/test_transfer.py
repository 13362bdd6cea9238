"""Transfer: one loop, data and seeds; only the weights that a training starts from differ."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _labelled import denied, easy
from _small_models import randomise
from typer.testing import CliRunner

from llmanac.core.errors import SpecError
from llmanac.core.spec import make_method
from llmanac.data.labelled import Labelled
from llmanac.lab.classification import transfer as transfers
from llmanac.lab.classification.transfer import STARTS, begun, gains, rows_of, transfer
from llmanac.models.classifiers.fine_tuning import FineTuning
from llmanac.tokenizers.load import train_tokenizer

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
    made = {start: dict(begun(model, start, 3).named_parameters()) for start in STARTS}
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
    other = dict(begun(model, "shuffled", 4).named_parameters())
    assert not torch.equal(other["model.embed_tokens.weight"], made["shuffled"]["model.embed_tokens.weight"])
    with pytest.raises(SpecError, match="start: 'warm'"):
        begun(model, "warm", 0)


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
    found = transfer(model, tokenizer, labelled(denied()), labelled(easy()), sizes=(8, 500), seeds=[0], patches=PATCHES)
    assert found["sizes"] == [8, 96] and found["rows"] == [96, 48]
    by_size = [seen[at : at + len(STARTS)] for at in range(0, len(seen), len(STARTS))]
    assert len(by_size) == 2 and all(len(set(arms)) == 1 for arms in by_size)
    assert set(by_size[0][0][0]) <= set(by_size[1][0][0])  # the smaller sample is a part of the larger one
    assert found["values"]["pretrained"] == found["values"]["scratch"]
    assert found["majority"] == {"macro_f1": pytest.approx(1 / 3), "accuracy": 0.5}
    learned = model_of(tokenizer)
    other = transfer(
        learned, tokenizer, labelled(denied()), labelled(easy()), sizes=(96,), seeds=[0], patches=PATCHES,
        starts=STARTS[:2],
    )  # fmt: skip
    assert other["values"]["scratch"]["96"] == found["values"]["scratch"]["96"]  # whatever the checkpoint is
    with pytest.raises(SpecError, match="at least 2"):
        transfer(model, tokenizer, labelled(easy()), labelled(easy()), sizes=())


def test_gains_are_paired_by_seed() -> None:
    values = {
        "pretrained": {"10": {"macro_f1": [0.6, 0.7, 0.8]}}, "scratch": {"10": {"macro_f1": [0.5, 0.55, 0.75]}},
    }  # fmt: skip
    gain, low, _ = gains({"values": values}, 10)["scratch"]
    assert gain == pytest.approx(0.1) and low == pytest.approx(0.1 - 4.302653 * 0.05 / 3**0.5)
    heads, ((count, *cells),) = rows_of({"values": values, "sizes": [10]})
    assert count == "10" and cells[:2] == ["0.700", "0.600"] and cells[2].startswith("+0.100 (")
    assert heads == ["labels", "pretrained", "scratch", "pretrained - scratch (95%)"]


def test_the_command_prints_a_row_for_each_number_of_labels(
    tokenizer: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmanac.cli.classify import app

    monkeypatch.setattr(transfers, "open_checkpoint", lambda path: (model_of(tokenizer), tokenizer))
    for name, (texts, labels) in {"train": easy(), "test": denied()}.items():
        lines = [f"{label} {text}" for text, label in zip(texts, labels, strict=True)]
        (tmp_path / name).write_text("\n".join(lines))
    asked = ["transfer", str(tmp_path / "train"), "--test", str(tmp_path / "test"), "--model", "m", "--seeds", "1"]
    done = CliRunner().invoke(app, [*asked, "--sizes", "4,9999", "-s", "epochs=1"])
    assert done.exit_code == 0, done.output
    assert "macro F1" in done.output and "48" in done.output and "--method fine-tuning --model m" in done.output
