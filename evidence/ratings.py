"""Ratings by people: how many questions an interval needs, by raters of known skill.

Simulated raters compare the answers of two models; the first has the better answer to {better:.0%} of the questions. A
rater says which is better with the probability of his skill, else the other. {trials} simulated studies of each kind,
read by the function of `llmanac rate --report`: the win rate's interval is over questions, not over ratings.

## What the numbers say

- The smallest number of ratings at which at least four of five simulated studies settle that the first model is better:
  {enough}. Each is the first of the {kinds} kinds of study of its skill to get so far in {trials} simulations, so it
  is more likely too small than too large; the interval is of the fraction that settles.
- Raters who err pull the win rate towards one half: {pull}. More raters a question do not undo this in the mean rate;
  the preference file, which takes the majority, has {one:.0%} right pairs with one rater of skill 0.7 and {five:.0%}
  with five.
- Kappa of three raters shows the skill: {kappa}.
- The interval holds the expected rate in {covered:.0%} of all studies.

Limits: errors of raters are independent and equally likely on every question; people share tastes and get tired.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmanac.core.pages import Section, table
from llmanac.core.rng import numpy_generator
from llmanac.evaluate.preferences import PREFERENCES, write_preferences
from llmanac.evaluate.ratings import Questions, Rating, report
from llmanac.metrics.statistics.intervals import wilson_interval

ROWS = ("metric/human", "reward/human")
CLAIM = "ratings by people are of high quality and expensive: how many are needed, and what raters' errors do"
SEEDS = 1
BETTER, TRIALS = 0.6, 25
SKILLS, RATERS, QUESTIONS = (0.6, 0.7, 0.9, 1.0), (1, 3, 5), (50, 100, 200, 400)


def simulated(questions: int, raters: int, skill: float, rng: np.random.Generator) -> tuple[list[Rating], np.ndarray]:
    """Ratings, and which questions the first model is better on."""
    truth = rng.random(questions) < BETTER
    rows = []
    for rater in range(raters):
        said = np.where(rng.random(questions) < skill, truth, ~truth)
        turned = rng.random(questions) < 0.5
        for item in range(questions):
            models = ("b", "a") if turned[item] else ("a", "b")
            rows.append(
                Rating(f"r{rater}", item, models, "left" if bool(said[item]) != bool(turned[item]) else "right")
            )
    return rows, truth


def measure(seed: int, size: str) -> dict[str, Any]:
    rng = numpy_generator(seed, "raters")
    small = size == "small"
    skills, raters = ((0.7,), (1, 3)) if small else (SKILLS, RATERS)
    questions, trials = ((40,), 5) if small else (QUESTIONS, TRIALS)
    return {"cells": [
        cell(n, r, skill, trials, rng) for skill in skills for r in raters for n in questions
    ], "pairs": [pairs(r, 40 if small else 400, rng) for r in raters]}  # fmt: skip


def cell(questions: int, raters: int, skill: float, trials: int, rng: np.random.Generator) -> dict[str, Any]:
    """Studies of one kind."""
    expected = BETTER * skill + (1 - BETTER) * (1 - skill)
    found = [report(simulated(questions, raters, skill, rng)[0]) for _ in range(trials)]
    rates = [one["win_rates"][0] for one in found]
    kappas = [one["agreement"].get("kappa") for one in found]
    return {
        "skill": skill, "raters": raters, "questions": questions, "rate": float(np.mean([r["value"] for r in rates])),
        "width": float(np.mean([r["high"] - r["low"] for r in rates])),
        "settled": float(np.mean([r["low"] > 0.5 for r in rates])),
        "covered": float(np.mean([r["low"] <= expected <= r["high"] for r in rates])),
        "kappa": None if None in kappas else float(np.mean(kappas)),
    }  # fmt: skip


def pairs(raters: int, questions: int, rng: np.random.Generator) -> dict[str, Any]:
    """Of a preference file from raters of skill 0.7: how many pairs it has, and how many are the right way round."""
    rows, truth = simulated(questions, raters, 0.7, rng)
    prompts = list(map(str, range(questions)))
    made = Questions(prompts, {name: [f"{name} {i}" for i in prompts] for name in "ab"})
    with tempfile.TemporaryDirectory() as folder:
        write_preferences(Path(folder), made, rows)
        lines = (Path(folder) / PREFERENCES).read_text("utf-8").splitlines()
    better = {f'"chosen": "{"a" if truth[i] else "b"} {i}"' for i in range(questions)}
    right = sum(line[line.index('"chosen"') : line.index(', "rejected"')] in better for line in lines)
    return {"raters": raters, "pairs": len(lines), "right": right / max(1, len(lines))}


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    rows = [
        [f"{c['skill']}", str(c["raters"]), str(c["questions"]), f"{c['rate']:.3f}", f"{c['width']:.3f}",
         f"{c['settled']:.0%}", f"{c['covered']:.0%}", "" if c["kappa"] is None else f"{c['kappa']:.2f}"]
        for c in seeds[0]["cells"]
    ]  # fmt: skip
    heads = ["skill", "raters a question", "questions", "win rate", "width of its interval", "settled"]
    heads += ["interval holds", "kappa"]
    kept = [[str(p["raters"]), str(p["pairs"]), f"{p['right']:.0%}"] for p in seeds[0]["pairs"]]
    return [
        Section("Win rates", [], [table(heads, rows)]),
        Section("Preference files", ["Raters of skill 0.7, 400 questions."],
                [table(["raters a question", "pairs", "right way round"], kept)]),
    ]  # fmt: skip


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    cells, kept = seeds[0]["cells"], {p["raters"]: p["right"] for p in seeds[0]["pairs"]}
    enough = []
    for skill in SKILLS:
        fits = [c for c in cells if c["skill"] == skill and c["settled"] >= 0.8]
        first = min(fits, key=lambda c: c["raters"] * c["questions"], default=None)
        if first is None:
            enough.append(f"more than {max(QUESTIONS) * max(RATERS):,} at skill {skill}")
            continue
        _, low, high = wilson_interval(round(first["settled"] * TRIALS), TRIALS)
        enough.append(
            f"{first['raters'] * first['questions']:,} at skill {skill} ({first['questions']} questions by "
            f"{first['raters']}; {first['settled']:.0%}, 95% {low:.0%} to {high:.0%})"
        )
    last = {c["skill"]: c for c in cells if c["raters"] == 3 and c["questions"] == max(QUESTIONS)}
    return {
        "better": BETTER, "trials": TRIALS, "enough": ", ".join(enough), "kinds": len(RATERS) * len(QUESTIONS),
        "one": kept[1], "five": kept[5],
        "pull": ", ".join(f"{last[s]['rate']:.3f} at skill {s}" for s in SKILLS),
        "kappa": ", ".join(f"{last[s]['kappa']:.2f} at skill {s}" for s in SKILLS),
        "covered": float(np.mean([c["covered"] for c in cells])),
    }  # fmt: skip
