"""An objective that the package does not have is compared by the lab as it is, with its own rows and metrics."""

from __future__ import annotations

import copy
import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
from _studies import ask

from llmanac.core import registry
from llmanac.core.errors import DataError, SpecError
from llmanac.lab.axis import _path_in, find_axis
from llmanac.recipes.spec import load_recipe

pytestmark = pytest.mark.usefixtures("one_thread")

SECOND_HALF = '''"""Prefix language modelling: predict the second half of a row from all of the first half."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch

from llmanac.core.types import IGNORE
from llmanac.metrics import Metric
from llmanac.objectives import ObjectiveSpec
from llmanac.objectives import NextToken
from llmanac.objectives._measured import LOSS, MeasuredObjective
from llmanac.objectives.losses import LossSpec
from llmanac.objectives.losses.cross_entropy import Spec as CrossEntropy

CARD = {"title": "Prefix language modelling"}


@dataclass(frozen=True, kw_only=True)
class Spec(ObjectiveSpec):
    sees: Literal["causal", "prefix"] = "prefix"
    loss: LossSpec = field(default_factory=CrossEntropy)

    def build(self, *, tokenizer: Any = None, models: Any = None, **dims: Any) -> Any:
        return SecondHalf(self)


class SecondHalf(NextToken):
    metrics = (Metric("hits", "", "higher", "tokens of the second half that are right"), LOSS)
    held_out, evaluate = MeasuredObjective.held_out, MeasuredObjective.evaluate

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec, self.criterion = spec, spec.loss.build()

    def collate(self, rows: Any) -> Any:
        batch = super().collate(rows)
        half = batch.shape[1] // 2
        targets = batch.targets.clone()
        targets[:, :half] = IGNORE
        if self.spec.sees == "causal":
            return replace(batch, targets=targets)
        prefix = torch.full((len(targets),), half)
        return replace(batch, targets=targets, segments=None, positions=None, mask="prefix", prefix=prefix)

    def loss(self, model: Any, batch: Any) -> Any:
        keep = batch.targets != IGNORE
        logits, targets = model(batch).logits[keep], batch.targets[keep]
        hits = float((logits.argmax(-1) == targets).sum())
        return self.criterion.of_classes(logits, targets).sum(), len(targets), {"hits": hits}
'''


class Own(registry.Method):
    """A method whose file is not in the package."""

    def module(self) -> Any:
        return importlib.import_module(self.path.stem)


@pytest.fixture
def base(recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The tiny base, trained for a few steps by an objective that is one file next to this test."""
    path = tmp_path / "second_half.py"
    path.write_text(SECOND_HALF)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "second_half", raising=False)
    known = registry.methods

    def methods(kind: str) -> dict[str, registry.Method]:
        own = Own("objective", "second-half", path, {"title": "own"}, {})
        return known(kind) | ({"second-half": own} if kind == "objective" else {})

    monkeypatch.setattr(registry, "methods", methods)
    return copy.deepcopy(recipe) | {"objective": "second-half"}


@pytest.mark.slow
def test_two_arms_of_it_get_a_verdict_on_its_own_metric(base: dict[str, Any], tmp_path: Path) -> None:
    arms = ["second-half{sees=causal}", "second-half"]
    found = ask("objective", arms, base, tmp_path / "study", tmp_path / "cache", seeds=5)
    assert [m["name"] for m in found.data["metrics"]] == ["hits", "loss"]
    assert set(found.verdicts) == {"second-half"} and found.verdicts["second-half"] != "too few"
    values = found.values()
    assert all(0 < hits < 0.5 for arm in values.values() for hits in arm)
    assert values["second-half"] != values["second-half{sees=causal}"]  # it is the arms that were measured
    compared = found.comparison("second-half")
    assert compared["n"] == 5 and compared["low"] < compared["difference"] < compared["high"]
    curve = found.data["curves"]["second-half"]["0"]
    assert len(curve) >= 4 and all(0 <= point["value"] < 0.5 for point in curve)
    assert "tokens of the second half that are right" in found.page.read_text()
    assert found.data["pairing"]["seeds"]["0"]["rows_equal"]
    with pytest.raises(SpecError, match=r"no metric in common \(autoregressive measures bits_per_byte; second-half"):
        ask("objective", "autoregressive,second-half", base, tmp_path / "other", tmp_path / "cache", seeds=1)


@pytest.mark.slow
def test_a_part_of_it_is_an_axis_by_its_kind(base: dict[str, Any], tmp_path: Path) -> None:
    spec = load_recipe(base).spec
    axis = find_axis("loss", spec)
    assert axis.path == "objective.loss" and axis.covers("objective.loss.label_smoothing") and axis.same_rows
    arms = ["cross-entropy", "cross-entropy{label_smoothing=0.3}"]
    found = ask("loss", arms, base, tmp_path / "study", tmp_path / "cache", seeds=1)
    assert found.data["path"] == "objective.loss" and len(found.values("hits")) == 2
    assert [*found.data["arms"][1]["diff"]] == ["objective.loss.label_smoothing"]
    with pytest.raises(SpecError, match="smoothing: the base recipe has none"):
        find_axis("smoothing", spec)
    assert find_axis("stage", spec).path == "data.stages.*"
    spec = load_recipe(base | {"finetune": {"pairs": "docstrings"}}).spec
    with pytest.raises(SpecError, match=r"several \(finetune.objective, objective\); name one"):
        _path_in(spec, "objective")
    assert find_axis("source", spec).path == "data.source"


def test_arms_with_text_of_their_own_are_measured_on_the_text_of_the_base(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    found = ask("tokenizer.vocab_size", "320,280", recipe, tmp_path / "study", tmp_path / "cache", seeds=1)
    texts = found.data["texts"]
    assert list(texts) == ["280"] and texts["280"]["vocabulary"] == 280 and found.data["data"]["vocabulary"] == 320
    assert texts["280"]["held_out_bytes"] == found.data["data"]["held_out_bytes"]
    counts = [found.data["costs"][arm]["parameters"] for arm in ("320", "280")]
    assert counts[0] - counts[1] == 40 * 32  # the embedding
    assert len({value for values in found.values("bits_per_byte").values() for value in values}) == 2
    with pytest.raises(SpecError, match="--hold params: the arms' vocabularies differ"):
        ask("tokenizer.vocab_size", "320,280", recipe, tmp_path / "p", tmp_path / "cache", hold="params", seeds=1)
    with pytest.raises(DataError, match=r"train on [1-9] of the documents that the base holds out"):
        ask("data.held_out", "0.3,0.1", recipe, tmp_path / "d", tmp_path / "cache", seeds=1)
