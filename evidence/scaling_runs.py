"""A law of twelve small runs: what it predicts at four times their compute, and whether its plan is the best.

Text, tokenizer and recipe are those of [the ladder](../ladder_s/page.md); the rate falls as the width grows. Twelve
runs of six sizes, each on two of three numbers of tokens, give a law L = E + A / N^a + B / D^b of bits a byte; N has no
embeddings. It predicts three runs of about four times the compute 6 N D of the largest of the twelve: more tokens, a
larger model, and both. Then one budget is spent at the size that the law plans and at half and twice that size. A seed
draws the weights and the order of rows in all of these runs; the law is fitted for each seed.

- Inside their intervals of 95%: {inside} of {ahead} larger runs.
- The planned size against its half: {half}, against its double: {double} (negative: the planned size is better).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evidence import _cells, _ladder
from evidence._ladder import METRIC, Scale
from evidence._page import with_interval
from llmanac.core.errors import DataError
from llmanac.core.pages import Section, table
from llmanac.core.spec import patch
from llmanac.lab.complexity import one_thread
from llmanac.lab.scaling.law import Fit, fit_law

ROWS = ("scaling/law", "scaling/plan")
CLAIM = "a law of small runs predicts runs of four times their compute, and plans the best size for a budget"
SEEDS, MARGIN, PIECES, PARTIAL = 5, 0.01, ("fit", "ahead", "plan"), True
TOLERANCE = 1e-3  # float32 training
SHAPES = ((24, 2), (32, 2), (40, 3), (48, 3), (64, 3), (80, 4))  # width, layers
TOKENS = (250_000, 500_000, 1_000_000)
AHEAD = ((80, 4, 4_000_000), (112, 5, 1_600_000), (160, 5, 800_000))
NAMES = ("more tokens", "both", "larger")
PLANNED = ((24, 2), (32, 2), (32, 3), (40, 3), (48, 3), (56, 3), (64, 3), (64, 4), (80, 4), (96, 4), (112, 4),
           (112, 5), (128, 5), (160, 5), (192, 5), (224, 6))  # fmt: skip
BUDGET = 2e12  # FLOPs, 6 N D
ARMS = ("half", "planned", "double")
BASE = Scale("runs", 64, 3, 1_000_000, 4096, 8e-3, ("base",), ())


def size_of(dim: int, layers: int) -> int:
    """About the parameters of a shape without embeddings."""
    return 12 * layers * dim * dim


def run(dim: int, layers: int, tokens: int, seed: int) -> list[float]:
    """Parameters without embeddings, tokens and bits a byte of one run."""
    recipe, prepared = _ladder.text(BASE)
    changes = {
        "model.dim": dim, "model.layers": layers, "train.steps": max(1, round(tokens / BASE.batch)),
        "train.optimizer.lr": BASE.rate * BASE.dim / dim,
    }  # fmt: skip
    found = _ladder.trained("base", patch(recipe, changes), prepared, seed, 1.0, prepared.report)
    return [found["parameters"], found["tokens"], found[METRIC]]


def planned(size: float) -> tuple[int, int]:
    """The shape whose size is nearest, as a ratio."""
    return min(PLANNED, key=lambda shape: max(size_of(*shape) / size, size / size_of(*shape)))


@one_thread()
def measure(seed: int, size: str, piece: str = "") -> dict[str, Any]:
    if size == "small":
        recipe, prepared = _ladder.small(BASE)
        return {METRIC: _ladder.trained("base", recipe, prepared, seed, 1.0, prepared.report)[METRIC]}
    if piece == "fit":
        pairs = [(shape, TOKENS[(at + more) % 3]) for at, shape in enumerate(SHAPES) for more in (0, 1)]
        return {"runs": [run(*shape, tokens, seed) for shape, tokens in pairs]}
    if piece == "ahead":
        return {name: run(*one, seed) for name, one in zip(NAMES, AHEAD, strict=True)}
    best, _ = law(_fit_of(seed)).law.best(BUDGET)
    if not best > 0:
        raise DataError(
            f"scaling_runs: the law of seed {seed} has no best size: its loss does not fall with one of both"
        )
    return {"best": best} | {
        name: run(dim, layers, round(BUDGET / 6 / size_of(dim, layers)), seed)
        for name, (dim, layers) in ((name, planned(best * 2.0**at)) for at, name in enumerate(ARMS, -1))
    }


def text_hash() -> str:
    return _ladder.text(BASE)[1].identity[:16]


def _fit_of(seed: int) -> list[list[float]]:
    for cell in _cells.read(_cells.PAGES / "scaling_runs")[0]:
        if cell["cell"] == f"fit.{seed}":
            runs: list[list[float]] = _cells.unpacked(cell["values"])["runs"]
            return runs
    raise DataError(f"scaling_runs: the cell `fit.{seed}` is not there yet; run make evidence-queue")


def law(runs: Sequence[Sequence[float]]) -> Fit:
    return fit_law(*zip(*runs, strict=True), samples=500)


def missed(seeds: Sequence[dict[str, Any]], name: str) -> list[float]:
    """The measured loss over the predicted one, less 1."""
    whole = [one for one in seeds if {"fit", "ahead"} <= one.keys()]
    return [one["ahead"][name][2] / law(one["fit"]["runs"]).predict(*one["ahead"][name][:2])[0] - 1 for one in whole]


def against(seeds: Sequence[dict[str, Any]], name: str) -> list[float]:
    """The loss at the planned size over that at another one, less 1."""
    return [one["plan"]["planned"][2] / one["plan"][name][2] - 1 for one in seeds if "plan" in one]


def percent(values: Sequence[float]) -> str:
    return f"{with_interval([100 * value for value in values], 2)}%" if values else "not made yet"


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    whole = [one for one in seeds if {"fit", "ahead"} <= one.keys()]
    rows, budgets = [], []
    for number, one in enumerate(whole):
        fit = law(one["fit"]["runs"])
        for name in NAMES:
            size, tokens, loss = one["ahead"][name]
            value, interval = fit.predict(size, tokens)
            low, high = interval or (value, value)
            rows.append([str(number), name, f"{size:,.0f}", f"{tokens:,.0f}", f"{value:.3f} ({low:.3f} to {high:.3f})",
                         f"{loss:.3f}", "yes" if low <= loss <= high else "no"])  # fmt: skip
    for number, one in enumerate(one for one in seeds if "plan" in one):
        own = one["plan"]
        budgets.append([str(number), f"{own['best']:,.0f}", *(f"{own[a][2]:.3f} ({own[a][0]:,.0f})" for a in ARMS)])
    head = ["seed", "run", "parameters", "tokens", "predicted (95%)", "measured", "inside"]
    means = [[name, percent(missed(seeds, name))] for name in NAMES]
    return [
        Section(
            "Runs of four times the compute", [], [table(head, rows), table(["run", "measured over predicted"], means)]
        ),
        Section(
            f"{BUDGET:.0e} FLOPs, spent at three sizes", ["Bits a byte, and parameters without embeddings."],
            [table(["seed", "best size by the law", *ARMS], budgets)],
        ),
    ]  # fmt: skip


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    whole, inside = [one for one in seeds if {"fit", "ahead"} <= one.keys()], 0
    for one in whole:
        fit = law(one["fit"]["runs"])
        for size, tokens, loss in one["ahead"].values():
            low, high = fit.predict(size, tokens)[1] or (0.0, 0.0)
            inside += low <= loss <= high
    half, double = (percent(against(seeds, name)) for name in ("half", "double"))
    return {"inside": inside, "ahead": len(NAMES) * len(whole), "half": half, "double": double}
