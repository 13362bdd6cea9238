"""The ladder, from text to a predicted run, and the plan for a budget."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmanac.cli import main
from llmanac.core.errors import SpecError
from llmanac.core.files import read_table
from llmanac.lab.compare import BASE
from llmanac.lab.scaling import ladder, law, planning
from llmanac.lab.scaling.law import Fit, Law, fit_law
from llmanac.recipes.spec import load_recipe

pytestmark = pytest.mark.usefixtures("one_thread")
TRUE = Law(1.8, 400.0, 2000.0, 0.35, 0.37)


@pytest.mark.slow
def test_a_ladder_is_predicted_continued_and_not_mixed(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RUNGS": 2, "LENGTHS": 3, "LEAST_STEPS": 1}.items():
        monkeypatch.setattr(ladder, name, value)
    monkeypatch.setattr(law, "FEWEST", 6)
    sizes = (
        1,
        2,
        {"train.dtype": "float32", "train.attention": "sdpa", "train.micro_batch": 4, "train.compile": "never"},
    )
    monkeypatch.setattr(ladder._Ladder, "_sizes", lambda self, budget: sizes)
    spec = load_recipe(recipe).spec
    whole, folder, said = ladder._Ladder.train, tmp_path / "ladder", []

    def stopped(self: Any, rung: Any) -> Any:
        if rung.held_out:
            raise KeyboardInterrupt
        return whole(self, rung)

    monkeypatch.setattr(ladder._Ladder, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        ladder.run_ladder(spec, folder, 60, said.append, samples=200)
    predicted = read_table(folder / ladder.FIT)["prediction"]  # written before the larger run started
    runs = [json.loads(line) for line in (folder / ladder.RUNS).read_text().splitlines()]
    assert len(runs) == 6 and len({run["parameters"] for run in runs}) == 2
    assert all(run["tokens"] == run["steps"] * spec.train.batch_tokens for run in runs)
    monkeypatch.setattr(ladder._Ladder, "train", lambda self, rung: whole(self, rung) if rung.held_out else 1 / 0)
    result = ladder.run_ladder(spec, folder, 60, said.append, samples=200)
    assert result["predicted"] == predicted and len(result["runs"]) == 7
    assert result["runs"][-1]["parameters"] == predicted["parameters"] > runs[-1]["parameters"]
    assert result["inside"] == (predicted["low"] <= result["measured"] <= predicted["high"])
    assert "nats a token" in said[-2] and said[-1].startswith("measured: ")
    assert Fit.from_json(read_table(folder / ladder.FIT), "x").points == 6
    with pytest.raises(SpecError, match="another recipe or text"):
        ladder.run_ladder(load_recipe(recipe, {"train.batch_tokens": 64}).spec, folder, 60, said.append)


def test_a_plan_spends_the_budget_and_follows_the_law(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "training_rate", lambda *given: 5e9)
    spec = load_recipe(BASE).spec
    found = planning.propose(spec, 1024, flops=1e15)
    assert found.best_tokens == pytest.approx(20 * found.best_parameters)
    assert 6 * found.parameters * found.tokens == pytest.approx(1e15, rel=0.01)
    assert found.seconds == pytest.approx(1e15 / 5e9)
    assert found.patches["train.steps"] * found.patches["train.batch_tokens"] == found.tokens
    assert found.patches["train.batch_tokens"] == pytest.approx(0.292 * 1e15**0.3271, rel=0.02)
    assert found.patches["train.optimizer.base_dim"] == found.patches["model.head.base_dim"] == 128
    timed = planning.propose(spec, 1024, seconds=2e5)
    assert timed.flops == pytest.approx(1e15) and timed.parameters == found.parameters
    sized = load_recipe(BASE, found.patches).spec  # the patches are a recipe's
    assert sized.model.dim == found.patches["model.dim"] and sized.train.optimizer.base_dim == 128

    sizes, tokens = ([n for n in (1e5, 1e6, 1e7) for _ in range(3)], [1e6, 1e7, 1e8] * 3)
    fit = fit_law(sizes, tokens, [TRUE.loss(n, d) for n, d in zip(sizes, tokens, strict=True)], samples=200)
    law = planning.propose(spec, 1024, flops=1e15, fit=fit, largest=1e14)
    assert law.best_parameters == pytest.approx(TRUE.best(1e15)[0], rel=0.02) and law.beyond == pytest.approx(10)
    assert law.loss[0] == pytest.approx(TRUE.loss(law.parameters, law.tokens), rel=0.01)
    assert law.excess == pytest.approx(TRUE.loss(law.parameters, law.tokens) - TRUE.loss(*TRUE.best(1e15)), abs=1e-3)
    near = planning.propose(spec, 1024, flops=1e13)  # between two rungs, 160,064 and 430,752
    assert near.off == near.parameters / near.best_parameters and abs(near.off - 1) < 0.15 and near.excess is None
    small, large = (planning.propose(spec, 1024, flops=c, fit=fit) for c in (1e13, 1e16))
    assert small.parameters < law.parameters < large.parameters
    flat = Fit(Law(1.0, 2.0, 3.0, -0.1, 0.3), 0.0, 9, "total", fit.samples, fit.residuals)
    with pytest.raises(SpecError, match="does not fall"):
        planning.propose(spec, 1024, flops=1e15, fit=flat)
    with pytest.raises(SpecError, match="only a transformer"):
        planning.propose(load_recipe(BASE, {"model": "feedforward"}).spec, 1024, flops=1e15)


def test_a_run_is_told_what_its_compute_would_train() -> None:
    spec = load_recipe(BASE).spec
    words = planning.for_a_run(spec, 512, 400_000, 1_000_000)
    found = [int(word.replace(",", "")) for word in words.replace(";", "").split() if word[0].isdigit() and "," in word]
    size, tokens, *own = found
    assert own == [400_000, 1_000_000] and size * tokens == pytest.approx(4e11, rel=1e-3)
    assert 10 < tokens / size < 40  # 20, of the shapes that there are
    other = load_recipe(BASE, {"model": {"name": "feedforward"}}).spec
    assert planning.for_a_run(other, 512, 400_000, 1_000_000) == ""


def test_the_commands_words(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(planning, "training_rate", lambda *given: 5e9)
    with pytest.raises(SystemExit, match="0"):
        main(["scaling", "plan", "--budget", "1e14"])
    said = capsys.readouterr().out
    assert "20 tokens a parameter are assumed" in said and "Next: llmanac run" in said and "base_dim" in said
    for budget, words in {"5": "neither a time", "soon": "is not a time"}.items():
        with pytest.raises(SystemExit, match="2"):
            main(["scaling", "plan", "--budget", budget])
        assert words in capsys.readouterr().err
