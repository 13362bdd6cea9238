"""The law against Epoch AI's digitised Chinchilla points, and against coefficients that were planted."""

from __future__ import annotations

import json
import os
import runpy
from pathlib import Path

import numpy as np
import pytest

from llmanac.cli import main
from llmanac.core.errors import DataError, SpecError
from llmanac.core.files import read_table
from llmanac.lab.scaling.law import NAMES, Fit, Law, fit_law, fit_power
from llmanac.lab.scaling.optimum import Points, approaches, compute_laws, read_points

SHARED = Path(os.environ.get("LLMANAC_SHARED_DATA", "")) / "scaling" / "chinchilla_figure4_points.csv"
REFIT = {"E": (1.8172, 0.026), "alpha": (0.347, 0.015), "beta": (0.367, 0.021), "A": (478, 124), "B": (2143, 1293)}
TRUE = Law(1.8, 400.0, 2000.0, 0.35, 0.37)
SIZES, TOKENS = (values.ravel() for values in np.meshgrid(np.geomspace(3e6, 3e9, 6), np.geomspace(1e8, 1e11, 6)))


def planted(seed: int, noise: float = 0.01) -> np.ndarray:
    return TRUE.loss(SIZES, TOKENS) * np.exp(np.random.default_rng(seed).normal(0, noise, SIZES.size))


@pytest.mark.skipif(not SHARED.is_file(), reason="LLMANAC_SHARED_DATA is not set to a folder with scaling/")
def test_epochs_refit_of_chinchilla():
    points = read_points(SHARED).without_highest(5)
    fit = fit_law(points.parameters, points.tokens, points.loss, samples=200)
    assert fit.points == 240 and fit.objective <= 1.0183e-3
    for name, (value, error) in REFIT.items():
        assert abs(getattr(fit.law, name) - value) <= error, name
    assert all(one.exponent == pytest.approx(0.52, abs=0.03) for one in approaches(points, fit))
    with_floor, without = compute_laws(points)
    assert without.alpha == pytest.approx(0.05, abs=0.005)  # Kaplan et al. 2020, who fitted no floor
    assert with_floor.alpha > 3 * without.alpha and with_floor.objective < without.objective / 2


def test_exact_losses_give_back_the_coefficients():
    fit = fit_law(SIZES, TOKENS, TRUE.loss(SIZES, TOKENS), samples=200)
    assert [getattr(fit.law, n) for n in NAMES] == pytest.approx([getattr(TRUE, n) for n in NAMES], rel=1e-3)
    size, tokens = TRUE.best(1e21)
    assert 6 * size * tokens == pytest.approx(1e21)
    near = [TRUE.loss(size * f, tokens / f) for f in (0.9, 1.0, 1.1)]
    assert min(near) == near[1]


def coverage(grids: int) -> np.ndarray:
    """In how many of the grids each interval has the coefficient."""
    hits = np.zeros(len(NAMES), int)
    for seed in range(grids):
        fit = fit_law(SIZES, TOKENS, planted(seed), samples=200 if grids > 10 else 60, seed=seed)
        for at, name in enumerate(NAMES):
            low, high = fit.interval(lambda law, n=name: getattr(law, n))
            hits[at] += low <= getattr(TRUE, name) <= high
    return hits


def test_intervals_cover_planted_coefficients():
    assert (coverage(10) >= 8).all()


@pytest.mark.slow
def test_intervals_cover_in_90_to_99_of_100_grids():
    hits = coverage(100)
    assert ((hits >= 90) & (hits <= 99)).all(), dict(zip(NAMES, hits, strict=True))


def test_a_run_that_is_predicted_lies_in_its_interval():
    inside = 0
    for seed in range(3):
        fit = fit_law(SIZES, TOKENS, planted(seed), samples=200)
        held_out = TRUE.loss(1e10, 4e11) * np.exp(np.random.default_rng(99 + seed).normal(0, 0.01))
        value, (low, high) = fit.predict(1e10, 4e11)
        assert low < value < high and high / low < 1.1
        inside += low <= held_out <= high
    assert inside >= 2


def test_power_law_with_and_without_a_floor():
    compute = np.geomspace(1e15, 1e21, 20)
    loss = 1.7 + 500 * compute**-0.17
    found, plain = fit_power(compute, loss, floor=True), fit_power(compute, loss, floor=False)
    assert (found.E, found.alpha) == (pytest.approx(1.7, rel=1e-3), pytest.approx(0.17, rel=1e-3))
    assert plain.E == 0 and plain.alpha < 0.1


def test_approaches_need_runs_that_can_answer():
    loss = planted(0, 0.001)
    points = Points(SIZES, TOKENS, loss)
    fit = fit_law(SIZES, TOKENS, loss, samples=200)
    envelope, isoflop, parametric = approaches(points, fit)
    assert abs(envelope.exponent - TRUE.size_exponent) < 0.15
    assert isoflop.exponent == pytest.approx(TRUE.size_exponent, abs=0.05)  # the grid's diagonals have one compute
    line = Points(SIZES[:6], TOKENS[:6], loss[:6])
    assert [one.why[:5] for one in approaches(line, fit)] == ["needs", "needs", ""]
    assert parametric.size(1e20) == pytest.approx(fit.law.best(1e20)[0])
    budgets = np.geomspace(1e18, 1e21, 4)
    sizes = np.concatenate([TRUE.best(c)[0] * np.geomspace(0.2, 5, 7) for c in budgets])
    tokens = np.repeat(budgets, 7) / 6 / sizes
    equal = Points(sizes, tokens, TRUE.loss(sizes, tokens))
    assert approaches(equal, fit)[1].exponent == pytest.approx(TRUE.size_exponent, abs=0.01)


def test_files_and_the_command(tmp_path, capsys):
    table, saved = tmp_path / "runs.csv", tmp_path / "fit.json"
    rows = [f"{n:.0f},{n / 2:.0f},{d:.0f},{loss}" for n, d, loss in zip(SIZES, TOKENS, planted(1), strict=True)]
    head = "parameters,non_embedding_parameters,tokens,loss"
    table.write_text("\n".join([head, *rows, "1000,500,1000,nan"]) + "\n")
    with pytest.raises(SystemExit, match="0"):
        main(["scaling", "fit", str(table), "--samples", "20", "--output", str(saved)])
    said = capsys.readouterr().out
    assert "1 without a loss" in said and "every parameter" in said and "Next: llmanac scaling plan" in said
    fit = Fit.from_json(read_table(saved), str(saved))
    other = fit_law(SIZES / 2, TOKENS, planted(1), samples=200)
    assert other.law.A < fit.law.A and read_points(table, "non-embedding").parameters[0] == SIZES[0] // 2
    with pytest.raises(DataError, match="is no fit"):
        Fit.from_json({"law": {}}, "x.json")
    for text, words in {
        "a,b\n1,2\n": "has no column for total",
        "parameters,loss\n1,2\n": "tokens or flops",
        f"{head}\n1,1,x,2\n": ":2: tokens: 'x' is not a number",
        f"{head}\n1,1,-5,2\n": "not a positive number",
        f"{head}\n1,1,5,2,9\n": "5 fields where the header has 4",
        f"{head}\n": "no run with a loss",
    }.items():
        table.write_text(text)
        with pytest.raises(DataError, match=words):
            read_points(table)
    with pytest.raises(DataError, match="too few"):
        fit_law([1, 2], [1, 2], [1, 2])
    with pytest.raises(DataError, match="same number of parameters"):
        fit_law(np.full(9, 5), np.geomspace(1, 9, 9), np.ones(9))
    with pytest.raises(SpecError, match="drop-highest"):
        Points(SIZES, TOKENS, planted(0)).without_highest(99)


def test_one_best_size_says_no_slope():
    """The envelope of two sizes near each other: all its points are one size, whose slope would be 0."""
    draw = np.random.default_rng(0)
    sizes, lengths = np.meshgrid([50_000, 200_000, 800_000], np.geomspace(2e6, 8e6, 6))
    flops = 6 * sizes * lengths
    best = np.abs(np.log(sizes / 200_000))
    points = Points(sizes.ravel(), lengths.ravel(), (3 + best + 1e12 / flops + 1e-4 * draw.random(flops.shape)).ravel())
    found = approaches(points, fit_law(points.parameters, points.tokens, points.loss))[0]
    assert found.exponent is None and "two different best ones" in found.why


@pytest.mark.slow
def test_intervals_hold_the_numbers_of_other_planted_laws(root):
    """A few laws of tools/scaling_coverage.py at each number of runs; of 20 the binomial says 15 or more."""
    tool = runpy.run_path(str(root / "tools" / "scaling_coverage.py"))
    for runs in tool["RUNS"]:
        hits = tool["covered"](runs, range(20))
        assert (hits >= 15).all(), (runs, dict(zip(NAMES, hits, strict=True)))


@pytest.mark.slow
@pytest.mark.parametrize("runs", [10, 16, 40])
def test_intervals_hold_90_to_98_of_100_numbers_of_planted_laws(runs, root):
    hits = runpy.run_path(str(root / "tools" / "scaling_coverage.py"))["covered"](runs, range(1000))
    assert ((hits >= 900) & (hits <= 980)).all(), dict(zip(NAMES, hits, strict=True))


@pytest.mark.parametrize("runs", [6, 7, 8, 9, 10])
def test_few_runs_give_no_interval_and_say_so(runs, tmp_path, capsys, root):
    planted = runpy.run_path(str(root / "tools" / "scaling_coverage.py"))["planted"]
    _, sizes, tokens, losses = planted(runs, 0)
    table = tmp_path / "runs.csv"
    rows = [f"{n},{d},{loss}" for n, d, loss in zip(sizes, tokens, losses, strict=True)]
    table.write_text("\n".join(["parameters,tokens,loss", *rows]))
    with pytest.raises(SystemExit):
        main(["scaling", "fit", str(table), "--samples", "20"])
    printed = capsys.readouterr().out
    assert ("no intervals: " in printed) is (runs < 10)
    fit = fit_law(sizes, tokens, losses, samples=20)
    assert (fit.interval(lambda law: law.E) is None) is (fit.error("E") is None) is (runs < 10)
    assert (fit.predict(1e10, 4e11)[1] is None) is (runs < 10)
    assert Fit.from_json(json.loads(json.dumps(fit.as_json())), "here").law == fit.law
