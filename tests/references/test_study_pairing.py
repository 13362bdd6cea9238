"""Pairing: arms start from equal tensors, or from one draw at two scales, and read equal rows; nothing else passes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from llmanac.core.errors import LlmanacError
from llmanac.lab.arms import parse_arms
from llmanac.lab.axis import find_axis, resolve
from llmanac.lab.compare import BASE, load_study, studies
from llmanac.lab.hold import hold_parameters
from llmanac.lab.pairing import (
    RecordingStream,
    hash_parameters,
    hash_tensor,
    initial_tensors,
    pairing_record,
    scale_between,
)
from llmanac.recipes.spec import load_recipe

CONTROLLED = [name for name in studies() if find_axis(load_study(name)["kind"]).trial == "training"]


class Tiny(torch.nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.shared = torch.nn.Linear(3, 2)
        self.own = torch.nn.Linear(3, width)


def paired(seed: int, width: int, rows: list[str]) -> dict[str, Any]:
    torch.manual_seed(seed)
    return {"parameters": hash_parameters(Tiny(width)), "rows": rows}


def test_equal_starts_are_recorded() -> None:
    record = pairing_record({0: {"a": paired(1, 4, ["r0", "r1"]), "b": paired(1, 5, ["r0", "r1", "r2"])}})
    found = record["seeds"]["0"]
    assert record["checked"] and found["shared_tensors"] == 2 and found["tensors_that_differ"] == 0
    assert found["rows"] == 2 and found["rows_equal"]


def test_a_tensor_or_a_row_that_differs_stops_the_study() -> None:
    with pytest.raises(LlmanacError, match=r"a and b differ in the initial tensor own\.bias \(4,\)"):
        pairing_record({0: {"a": paired(1, 4, ["r0"]), "b": paired(2, 4, ["r0"])}})
    with pytest.raises(LlmanacError, match="differ in training row 1 under seed 3"):
        pairing_record({3: {"a": paired(1, 4, ["r0", "r1"]), "b": paired(1, 4, ["r0", "x"])}})
    counted = pairing_record(
        {0: {"a": paired(1, 4, ["r0"]), "b": paired(2, 4, ["x"])}}, same_start=False, same_rows=False
    )
    assert counted["seeds"]["0"]["tensors_that_differ"] == 4 and not counted["seeds"]["0"]["rows_equal"]


class Numbers:
    """A resumable stream of rows for the recorder."""

    def __init__(self) -> None:
        self.at = 0

    def take(self, count: int) -> list[np.ndarray]:
        self.at += count
        return [np.array([i, i + 1]) for i in range(self.at - count, self.at)]

    def __next__(self) -> list[np.ndarray]:
        return self.take(4)

    def state(self) -> tuple[dict[str, int], dict[str, Any]]:
        return {"at": self.at}, {}

    def restore(self, state: dict[str, int], tensors: dict[str, Any]) -> None:
        self.at = state["at"]


def test_the_recorder_hashes_what_was_trained_on_also_after_a_resume() -> None:
    whole = RecordingStream(Numbers(), Numbers, rows=6)
    for _ in range(5):
        next(whole)
    assert len(whole.hashes) == 6 and len(set(whole.hashes)) == 6
    resumed = RecordingStream(Numbers(), Numbers, rows=6)
    resumed.restore({"at": 12}, {})
    assert [r[0] for r in next(resumed)] == [12, 13, 14, 15]
    assert resumed.hashes == whole.hashes
    planned = RecordingStream(Numbers(), Numbers, rows=6)
    next(planned)  # what planning looks at is not what is trained on
    planned.restore({"at": 0}, {})
    next(planned), next(planned)
    assert planned.hashes == whole.hashes


# one draw at two scales


def record_of(tensors: dict[str, dict[str, np.ndarray]], **options: Any) -> dict[str, Any]:
    """The record of one seed, for arms that start from these tensors."""
    hashes = {
        arm: {"parameters": {name: hash_tensor(values) for name, values in found.items()}, "rows": ["r0"]}
        for arm, found in tensors.items()
    }
    return pairing_record({0: hashes}, **({"initial": lambda arm, seed: tensors[arm]} | options))


def drawn(std: float, seed: int = 5) -> np.ndarray:
    out: np.ndarray = torch.empty(64, 32).normal_(0.0, std, generator=torch.Generator().manual_seed(seed)).numpy()
    return out


def test_one_draw_at_two_scales_is_paired_and_recorded_with_its_factor() -> None:
    equal = drawn(0.1, 9)
    tensors = {"a": {"e": drawn(0.02), "w": equal}, "b": {"e": drawn(0.02), "w": equal}}
    tensors["c"] = {"e": drawn(32**-0.5), "w": equal}
    found = record_of(tensors)["seeds"]["0"]
    assert found["scaled"] == {"c": {"e": pytest.approx(32**-0.5 / 0.02, rel=1e-6)}}
    assert found["reference"] == "a" and found["shared_tensors"] == 1 and found["tensors_that_differ"] == 0


def other_starts() -> dict[str, np.ndarray]:
    first = drawn(0.02)
    one = first.copy()
    one[3, 4] *= 1.00001
    return {
        "another draw": drawn(0.02, 6),
        "another draw at another scale": drawn(0.2, 6),
        "permuted rows": 2 * first[::-1].copy(),
        "rolled by one": np.roll(first, 1),
        "shifted": first + np.float32(0.01),
        "mirrored": -first,
        "zeros": np.zeros_like(first),
        "one number off": one,
        "rows at two scales": first * np.linspace(1, 2, 64, dtype=np.float32)[:, None],
        "not a number": np.full_like(first, np.nan),
    }


@pytest.mark.parametrize("how", other_starts())
def test_any_other_start_is_refused(how: str) -> None:
    for a, b in ((drawn(0.02), other_starts()[how]), (other_starts()[how], drawn(0.02))):
        with pytest.raises(LlmanacError, match="a and b differ in the initial tensor e under seed 0"):
            record_of({"a": {"e": a}, "b": {"e": b}})


def test_constants_prove_nothing_and_are_refused() -> None:
    assert scale_between(np.ones(8, np.float32), np.full(8, 2, np.float32)) is None
    assert scale_between(np.array([0.3], np.float32), np.array([0.5], np.float32)) is None


def test_a_model_built_again_that_is_not_the_one_trained_proves_nothing() -> None:
    tensors = {"a": {"e": drawn(0.02)}, "b": {"e": drawn(0.04)}}
    assert record_of(tensors)["seeds"]["0"]["scaled"]
    stand_ins = {"a": {"e": drawn(0.02)}, "b": {"e": drawn(0.08)}}
    for initial in (lambda arm, seed: stand_ins[arm], lambda arm, seed: {}, None):
        with pytest.raises(LlmanacError, match="initial tensor e"):
            record_of(tensors, initial=initial)


@pytest.mark.parametrize("name", CONTROLLED)
def test_the_arms_of_every_study_that_ships_start_paired(name: str) -> None:
    data = load_study(name)
    axis, base = find_axis(data["kind"]), load_recipe(data.get("base", BASE), data.get("set", {})).spec
    vocabulary = base.tokenizer.vocab_size
    arms = resolve(base, axis, parse_arms(data["arms"]))
    if data.get("hold") == "params":
        arms = hold_parameters(arms, base, axis, data["baseline"], vocabulary)
    models = {arm.label: arm.spec.model.build(vocab_size=vocabulary).initialise(1) for arm in arms}
    hashes = {label: {"parameters": hash_parameters(model), "rows": ["r0"]} for label, model in models.items()}
    record = pairing_record(
        {1: hashes}, same_start=axis.same_start, initial=lambda label, seed: initial_tensors(models[label])
    )
    found = record["seeds"]["1"]
    assert record["checked"] and (found["shared_tensors"] >= 1 or axis.name == "lm")  # other models, other tensors
    scaled = {arm: list(factors) for arm, factors in found["scaled"].items()}
    embedding = f"model.embed_tokens.weight ({vocabulary}, {base.model.dim})"
    assert scaled == ({"sinusoidal": [embedding]} if axis.name == "position" else {})
    for factors in found["scaled"].values():
        assert factors[embedding] == pytest.approx(base.model.dim**-0.5 / 0.02, rel=1e-6)
