"""Scaling laws: a published one refitted, intervals on planted ones, 6ND against counted FLOPs, and a predicted run.

**The fit.** On the {published[points]} points that Epoch AI read off the Chinchilla paper's figure (the five highest
losses left out), the objective is {published[objective]:.5e} and the law L = {law[E]:.4f} + {law[A]:.0f} /
N^{law[alpha]:.4f} + {law[B]:.0f} / D^{law[beta]:.4f}. By the three approaches N grows as C to the power {exponents}.
Without a floor the exponent of the loss over compute is {published[without]:.4f}, next to the 0.050 of Kaplan et al.
2020, who fitted none; with a floor it is {published[with]:.4f}. The 0.05 is a matter of the missing floor.

**The intervals.** Of {grids} grids of 36 runs with 1% of noise, drawn from a known law, the 95% intervals cover its
coefficients in {coverage}. They are those of laws drawn from the posterior.

**The ladder.** {runs} runs of {sizes} parameters on {tokens} tokens of the documentation of Python, {minutes:.0f}
minutes of training on a busy machine. From their law the loss of a run of {ahead:.1f} times the compute of the
largest is predicted: {predicted[loss]:.3f} nats a token ({predicted[low]:.3f} to {predicted[high]:.3f}), measured
{measured:.3f}: {verdict}, {error:+.1%} off. {caution}

This ladder was planned with four sizes, and a larger run of a fifth size with twice the tokens, and was cut for time:
its law is that of three sizes, and the run held out is the one of the fourth size with the most tokens. That run was
trained before the law was fitted, and is not a part of the fit. Three finished runs of the fourth size were left out,
and the intervals' method was changed twice after the first one (the point estimate stayed).

**Limits.** One seed and one recipe; these models are far smaller than those that laws are quoted for, so that their
exponents are not those of large ones. The interval takes all runs to be equally noisy and the law to hold; it has no
term for a law that bends. The errors on the published points are smaller than Epoch AI's (a bootstrap over
points), since the noise of those points grows with the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._corpora import needed_data
from llmanac.core.pages import Section, table
from llmanac.core.spec import parse_patches
from llmanac.lab.compare import BASE
from llmanac.lab.scaling.compute import APART, compare
from llmanac.lab.scaling.ladder import run_ladder
from llmanac.lab.scaling.law import NAMES, Law, fit_law
from llmanac.lab.scaling.optimum import approaches, compute_laws, read_points
from llmanac.recipes.spec import load_recipe

ROWS = ("scaling/compute", "scaling/law", "scaling/plan")
CLAIM = "C = 6ND; loss falls predictably: a law of small runs predicts a larger one, and gives the size for a budget"
SEEDS = 1
TOLERANCE = 1e-3

TRUE = Law(1.8, 400.0, 2000.0, 0.35, 0.37)
GRIDS, BUDGET = 100, 840.0
LADDER = ("tokenizer.vocab_size=512", "train.batch_tokens=1024", "train.length=128", "evaluate.held_out_bytes=60000")
POINTS = "scaling/chinchilla_figure4_points.csv"
FOLDER = Path("studies") / "evidence-ladder"


def planted(seed: int, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sizes, tokens and noisy losses of a grid of the known law."""
    grids = np.meshgrid(np.geomspace(3e6, 3e9, side), np.geomspace(1e8, 1e11, side))
    sizes, tokens = (values.ravel() for values in grids)
    noise = np.exp(np.random.default_rng(seed).normal(0, 0.01, sizes.size))
    return sizes, tokens, TRUE.loss(sizes, tokens) * noise


def covered(seed: int, samples: int) -> list[int]:
    """Whether each interval has the coefficient."""
    fit = fit_law(*planted(seed, 6), samples=samples, seed=seed)
    bounds = [fit.interval(lambda law, n=name: getattr(law, n)) for name in NAMES]
    return [int(low <= getattr(TRUE, name) <= high) for name, (low, high) in zip(NAMES, bounds, strict=True)]


def published() -> dict[str, Any]:
    """The fit of the digitised points."""
    points = read_points(needed_data(POINTS) / POINTS).without_highest(5)
    fit = fit_law(points.parameters, points.tokens, points.loss)
    with_floor, without = compute_laws(points)
    assert with_floor is not None and without is not None
    return {
        "points": fit.points, "objective": fit.objective, "law": {n: getattr(fit.law, n) for n in NAMES},
        "errors": {n: fit.error(n) for n in NAMES}, "with": with_floor.alpha, "without": without.alpha,
        "approaches": [[one.approach, one.exponent, one.low, one.high] for one in approaches(points, fit)],
    }  # fmt: skip


def counted(names: Sequence[str], **sizes: int) -> dict[str, list[float]]:
    """By architecture: counted FLOPs a token, the formula's, 6 N."""
    return {one.name: [one.counted, one.formula, 6.0 * one.parameters] for one in compare(names, **sizes)}


def measure(seed: int, size: str) -> dict[str, Any]:
    """All of it; or one small fit and a few counts."""
    if size == "small":
        fit = fit_law(*planted(0, 5), samples=200)
        return {
            "law": {n: getattr(fit.law, n) for n in NAMES}, "objective": fit.objective * 1000,
            "counted": counted(("transformer", "min-gru"), dim=16, length=16, vocabulary=32),
        }  # fmt: skip
    recipe = load_recipe(BASE, parse_patches(LADDER)).spec
    return {
        "published": published(), "counted": counted(()),
        "covered": np.sum([covered(seed, 200) for seed in range(GRIDS)], 0).tolist(),
        "ladder": run_ladder(recipe, FOLDER, BUDGET),
    }  # fmt: skip


def of_counted(seeds: Sequence[dict[str, Any]]) -> list[float]:
    """The relative error of 6 N D, of each architecture."""
    return [six / count - 1 for count, _, six in seeds[0]["counted"].values()]


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    found = seeds[0]
    ladder, old = found["ladder"], found["published"]
    *rows, last = ladder["runs"]
    inside = "inside the interval" if ladder["inside"] else "outside the interval"
    held = "" if ladder["inside"] else "The claim that such a run can be predicted does not hold here."
    return {
        "published": old, "law": old["law"], "grids": GRIDS, "predicted": ladder["predicted"],
        "exponents": ", ".join(f"{exponent:.3f} ({name})" for name, exponent, _, _ in old["approaches"]),
        "coverage": ", ".join(f"{hits} ({name})" for name, hits in zip(NAMES, found["covered"], strict=True)),
        "runs": len(rows), "measured": ladder["measured"], "error": ladder["error"], "verdict": inside,
        "sizes": f"{min(r['parameters'] for r in rows):,} to {max(r['parameters'] for r in rows):,}",
        "tokens": f"{min(r['tokens'] for r in rows):,} to {max(r['tokens'] for r in rows):,}",
        "minutes": sum(r["seconds"] for r in ladder["runs"]) / 60, "caution": held,
        "ahead": last["flops"] / max(r["flops"] for r in rows),
    }  # fmt: skip


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    found = seeds[0]
    old, ladder = found["published"], found["ladder"]
    law = [[name, f"{old['law'][name]:,.4g}", f"{old['errors'][name]:.3g}"] for name in NAMES]
    ways = [[name, f"{a:.3f}", f"{low:.3f} to {high:.3f}"] for name, a, low, high in old["approaches"]]
    compute = [
        [name, f"{count:,.0f}", f"{formula / count - 1:+.1%}", f"{six / count - 1:+.1%}", APART.get(name, "")]
        for name, (count, formula, six) in found["counted"].items()
    ]
    own = []
    for name in NAMES:
        shown = [f"{value if value > 1e-6 else 0:,.4g}" for value in (ladder["law"][name], *ladder["intervals"][name])]
        own.append([name, shown[0], f"{shown[1]} to {shown[2]}"])
    runs = [
        [row["name"], f"{row['parameters']:,}", f"{row['tokens']:,}", f"{row['epochs']:.2f}", f"{row['loss']:.4f}"]
        for row in ladder["runs"]
    ]
    return [
        Section(
            "The published points",
            tables=[
                table(["", "value", "standard error"], law),
                table(["approach", "a of N ~ C^a", "95% interval"], ways),
            ],
        ),
        Section(
            "FLOPs of a token, counted (width 64, rows of 128, 512 tokens)",
            paragraphs=[
                "The error of 6 N grows with the share of attention, which here is large: rows are twice as long as "
                "the model is wide. `llmanac scaling compute --dim --length` gives it for other sizes."
            ],
            tables=[table(["", "counted", "formula", "6 N", "why the formula differs"], compute)],
        ),
        Section(
            "The ladder",
            tables=[
                table(["", "value", "95% interval"], own),
                table(["width x layers - steps", "N", "tokens", "epochs", "loss"], runs, base=len(runs) - 1),
            ],
        ),
    ]
