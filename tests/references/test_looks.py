"""`--seeds auto`: false verdicts and power of repeated looks, counted in simulated studies."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

from llmanac.core.errors import SpecError
from llmanac.lab.axis import Arm, Axis
from llmanac.lab.budget import BudgetError, Speed
from llmanac.lab.cache import StudyCache
from llmanac.lab.compare import compare
from llmanac.lab.runner import RunnerRequest
from llmanac.lab.stats import Metric
from llmanac.lab.study import LOOKS, Measurement, Study, compare_in_looks, guarded, hall, levels, looks_within, power
from llmanac.metrics.statistics.student import student_quantile

STUDIES, MOST = 2000, LOOKS[-1]
FALSE = 0.06


def kept(root: Path) -> np.ndarray:
    """Paired differences of kept arms, documents of one study and seeds of others, each centred and of one size."""
    found: list[np.ndarray] = []
    for name in ("decoding", "positions", "feed_forward", "nanogpt_style"):
        for path in sorted((root / "docs/evidence" / name / "cells").glob("*.json")):
            cell = json.loads(path.read_text())["values"]
            for arms in cell.get(name, cell)["values"].values():
                pairs = [np.subtract(a, b) for a, b in itertools.combinations(arms.values(), 2)]
                pairs = [pair - pair.mean() for pair in pairs if np.ptp(pair) > 1e-9]
                found += [pair * math.sqrt(len(pair) / (len(pair) - 1)) / pair.std(ddof=1) for pair in pairs]
    return np.concatenate([pair for pair in found if len(pair) > 3]), np.concatenate([p for p in found if len(p) == 3])


def draws(root: Path) -> dict[str, np.ndarray]:
    """(studies, replicates) of null differences by law."""
    rng = np.random.default_rng(7)
    size = (STUDIES, MOST)
    documents, seeds = kept(root)
    assert len(documents) > 500 and len(seeds) > 40
    return {
        "kept documents": rng.choice(documents, size), "kept seeds": rng.choice(seeds, size),
        "t(4)": rng.standard_t(4, size), "exponential": rng.exponential(size=size) - 1,
        "left": 1 - rng.exponential(size=size), "normal": rng.standard_normal(size),
    }  # fmt: skip


def statistic(values: np.ndarray) -> np.ndarray:
    """`guarded` for many studies at once."""
    n = values.shape[-1]
    t, other = values.mean(-1) / (values.std(-1, ddof=1) / math.sqrt(n)), hall(values)
    return np.where(t * other > 0, np.sign(t) * np.minimum(abs(t), abs(other)), 0.0)


def found_at(values: np.ndarray, most: int = MOST) -> np.ndarray:
    """The look at which each study has found a difference, or 0."""
    at = np.zeros(len(values), int)
    for n, level in levels(most).items():
        beyond = abs(statistic(values[:, :n])) >= student_quantile(1 - level / 2, n - 1)
        at = np.where((at == 0) & beyond, n, at)
    return at


def test_null_studies_have_a_false_verdict_in_six_percent_at_most(root: Path) -> None:
    rates = {law: (found_at(x) > 0).mean() for law, x in draws(root).items()}
    assert all(0.01 < rate <= FALSE for rate in rates.values()), rates


def test_the_count_can_fail(root: Path) -> None:
    """Without levels of their own the looks find a difference in null studies far too often, and so do skewed ones."""
    laws = draws(root)
    at_five = sum(abs(statistic(laws["normal"][:, :n])) >= student_quantile(0.975, n - 1) for n in LOOKS)  # type: ignore[call-overload]
    assert (at_five > 0).mean() > 2 * FALSE
    plain = np.zeros(STUDIES, bool)
    for n, level in levels(MOST).items():
        x = laws["exponential"][:, :n]
        plain |= abs(x.mean(1) / (x.std(1, ddof=1) / math.sqrt(n))) >= student_quantile(1 - level / 2, n - 1)
    assert plain.mean() > 1.5 * FALSE


def test_equivalence_at_the_margin_is_claimed_in_six_percent_at_most(root: Path) -> None:
    """The worst case for each law: a true difference of exactly the margin, which is 2 standard deviations."""
    rates = {}
    for law, x in draws(root).items():
        wrong = np.zeros(STUDIES, bool)
        for n, level in levels(MOST).items():
            critical = student_quantile(1 - level / 2, n - 1)
            some = x[:, :n] + 2.0
            wrong |= (statistic(some - 2.0) <= -critical) & (statistic(some + 2.0) >= critical)
        rates[law] = wrong.mean()
    assert all(rate <= FALSE for rate in rates.values()), rates


@pytest.mark.parametrize("most", [5, 7, 10, 14, 20])
def test_power_is_what_is_predicted(root: Path, most: int) -> None:
    """Of normal differences; of those of kept documents, with heavier tails, in 20 replicates."""
    laws = draws(root)
    for effect in (0.3, 0.6, 0.9, 1.3, 2.0):
        found = {law: (found_at((x + effect)[:, :most], most) > 0).mean() for law, x in laws.items()}
        assert found["normal"] == pytest.approx(power(effect, most), abs=0.05), effect
        assert found["kept documents"] == pytest.approx(power(effect, most), abs=0.05 if most == MOST else 0.1), effect


def test_levels_spend_alpha_as_lan_and_demets_say_it() -> None:
    """The crossing chances of a Brownian motion, counted; the last level is below alpha, each above the one before."""
    level = levels(MOST)
    assert list(level) == list(LOOKS) and sorted(level.values()) == list(level.values()) and level[MOST] < 0.05
    rng = np.random.default_rng(9)
    steps = rng.standard_normal((200_000, len(LOOKS))) * np.sqrt(np.diff((0, *LOOKS)))
    sums, spent, alive = steps.cumsum(1), [], np.ones(200_000, bool)
    for k, n in enumerate(LOOKS):
        crossed = alive & (abs(sums[:, k]) / math.sqrt(n) >= scipy.stats.norm.isf(level[n] / 2))
        alive &= ~crossed
        spent.append(1 - alive.mean())
    wanted = [2 * scipy.stats.norm.sf(scipy.stats.norm.isf(0.025) / math.sqrt(n / MOST)) for n in LOOKS]
    assert spent == pytest.approx(wanted, abs=0.0015)
    assert looks_within(5) == (5,) and looks_within(12) == (5, 7, 10, 12) and looks_within(20) == LOOKS


def test_a_study_s_verdicts_are_those_that_were_counted() -> None:
    rng = np.random.default_rng(10)
    x = rng.standard_normal((60, MOST)) + np.linspace(0, 2, 60)[:, None]
    for row, at in zip(x, found_at(x), strict=True):
        values = {"a": (1000.0 + row).tolist(), "b": [1000.0] * MOST}
        (c,) = compare_in_looks(values, "b", MOST, better="lower", margin=1e-9)
        assert (c.verdict != "inconclusive") == (at > 0)
        if at:
            (before,) = compare_in_looks(
                {k: v[: at - 1] for k, v in values.items()}, "b", MOST, better="lower", margin=1e-9
            )
            assert before.verdict == ("too few" if at == LOOKS[0] else "inconclusive")
    (same,) = compare_in_looks({"a": [1.0] * 5, "b": [2.0] * 5}, "b", MOST, better="lower")
    assert same.verdict == "better"
    few = np.array([0.1, 0.4, 0.3, 1.7, 0.2])
    assert float(guarded(few)) == pytest.approx(float(statistic(few))) and 0 < guarded(few) == -guarded(-few)


class Trial:
    """Two arms whose difference is known."""

    metrics, costs, replicate = (Metric("loss", "", "lower"),), (), "seed"

    def __init__(self, shift: float) -> None:
        self.shift, self.asked = shift, list[int]()

    def parts(self, arm: Arm, seed: int) -> dict[str, Any]:
        return {"arm": arm.label, "seed": seed, "shift": self.shift}

    def measure(self, arm: Arm, seed: int, work: Path) -> Measurement:
        self.asked.append(seed)
        noise = np.random.default_rng([seed, arm.label == "b"]).standard_normal()
        return Measurement({"loss": [100.0 + noise + (self.shift if arm.label == "b" else 0.0)]})


@pytest.mark.parametrize(("shift", "seeds", "verdict"), [(30.0, 5, "worse"), (3.0, 14, "worse"), (0.3, 20, None)])
def test_seeds_are_added_until_the_verdict_is_there(tmp_path: Path, shift: float, seeds: int, verdict: str) -> None:
    axis = Axis("position", "position", "model.position")
    arms = tuple(Arm(label, None, {}, {}) for label in "ab")
    trial = Trial(shift)
    study = Study("s", axis, arms, "a", tuple(range(MOST)), trial, 1e-6, looks=LOOKS)  # type: ignore[arg-type]
    found = study.run(StudyCache(tmp_path))
    (c,) = found["comparisons"]["loss"]
    assert len(found["seeds"]) <= seeds and len(trial.asked) == 2 * len(found["seeds"]) and len(found["seeds"]) in LOOKS
    assert c["verdict"] == (verdict or "inconclusive") and list(found["looks"]) == [str(n) for n in LOOKS]
    assert any(note.startswith("Seeds were added until") for note in found["notes"])


def test_the_plan_has_as_many_seeds_as_fit_and_what_is_not_trained_takes_no_auto(tmp_path: Path) -> None:
    def seeds(budget: float) -> int:
        question = RunnerRequest(None, (), None, "a", budget, MOST, looks=LOOKS)  # type: ignore[arg-type]
        return question.plan(0.0, {"a": Speed(0.01, 0.0)}, {"a": 1.0}, stated=300).seeds

    assert [seeds(budget) for budget in (16, 25, 33, 46, 100)] == [5, 7, 10, 14, 20]
    with pytest.raises(BudgetError, match="5 runs of each"):
        seeds(10)
    with pytest.raises(SpecError, match="--seeds auto: no seed is added when tokenizer is compared"):
        compare("tokenizer", "utf8,bpe", seeds="auto", folder=tmp_path)
    with pytest.raises(SpecError, match="--seeds: 'many' is neither a number nor auto"):
        compare("position", "rope,none", seeds="many", folder=tmp_path)
