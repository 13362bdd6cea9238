"""Shared by the studies made of `llmanac compare`: built-in comparisons, and how they are shown."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmanac.core.pages import Section
from llmanac.core.spec import dump, flatten, patch
from llmanac.evaluate.bits_per_byte import score_texts
from llmanac.lab import words
from llmanac.lab.arms import parse_arms
from llmanac.lab.axis import find_axis, resolve
from llmanac.lab.compare import BASE, load_study, run_study
from llmanac.lab.hold import hold_parameters
from llmanac.lab.prepare import prepare
from llmanac.lab.report import sections, subtitle
from llmanac.lab.runner import with_steps
from llmanac.lab.trials import estimating
from llmanac.lab.trials.training import TrainingTrial
from llmanac.models.pairs import start_token
from llmanac.recipes.spec import load_recipe
from llmanac.train.loop import train

WORK = Path(__file__).resolve().parent.parent / "studies"
# Fixed in every arm, whatever it asks for: "auto" is decided by measuring, and bfloat16 rounds as the processor does.
FIXED = {"train.dtype": "float32", "train.attention": "sdpa", "train.compile": "never"}
OPTIMIZER = {"train.optimizer.precision": "float32", "train.optimizer.form": "foreach"}  # where it has these fields
SMALL = {
    "tokenizer.vocab_size": 300, "model.dim": 32, "model.layers": 1, "model.max_length": 64, "train.length": 32,
    "train.batch_tokens": 64, "data.held_out": 0.3, **FIXED,
}  # fmt: skip
STEPS = 3


def compared(*names: str, **overrides: Any) -> dict[str, Any]:
    """The results of comparisons, by name; what was stopped goes on, what is cached is not run again."""
    out = {}
    for name in names:
        result = run_study(name, folder=WORK / name, cache=WORK / "cache", **overrides).data
        out[name] = {key: value for key, value in result.items() if key != "sources"}
    return out


def comparisons(*names: str) -> tuple[Callable[..., Any], Callable[[Sequence[Any]], list[Section]]]:
    """`measure` and `show` of a study whose PIECES are comparisons that train; the small measurement runs the first."""

    def measure(seed: int, size: str, piece: str = "") -> dict[str, Any]:
        return {names[0]: trained(names[0], seed)} if size == "small" else compared(piece)[piece]

    def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
        return [section for name in names for section in shown(name, seeds[0][name])]

    return measure, show


def made_up(documents: int = 12) -> list[str]:
    """Documents of sentences from a small vocabulary, some words likelier after some."""
    rng = random.Random(0)
    nouns, verbs = ("river", "farmer", "engine", "letter"), ("follows", "carries", "opens", "paints")
    return [
        "\n".join(
            f"The {nouns[i]} {rng.choice(verbs[i:])} the {rng.choice(nouns)}." for i in rng.choices(range(4), k=9)
        )
        for _ in range(documents)
    ]


def trained(name: str, seed: int) -> dict[str, dict[str, float]]:
    """Bits per byte and parameters of every arm of a comparison after a few steps of a small model on made-up text."""
    asked = load_study(name)
    axis, texts = find_axis(asked["kind"]), parse_arms(asked["arms"])
    with tempfile.TemporaryDirectory() as folder:
        for number, text in enumerate(made_up()):
            (Path(folder) / f"{number}.txt").write_text(text, "utf-8")
        source = {"name": "files", "paths": [folder]}
        base = load_recipe(str(BASE), {**asked.get("set", {}), **SMALL, "data.source": source}).spec
        prepared = prepare(base, Path(folder) / "prepared")
        trial = TrainingTrial(prepared, "cpu")
        arms = resolve(base, axis, texts)
        if asked.get("hold") == "params":
            arms = hold_parameters(arms, base, axis, asked["baseline"], prepared.tokenizer.vocab_size)
        out = {}
        for arm in (with_steps(fixed(arm), STEPS) for arm in arms):
            model, stream, objective = trial.build(arm, seed)
            if estimating.is_estimated(arm):
                model = model.estimate(prepared.dataset, start=start_token(prepared.tokenizer))
            else:
                train(model, stream, objective, arm.spec.train, Path(folder) / f"arm-{len(out)}", seed=seed, label=name)
            score = score_texts(model.eval(), prepared.tokenizer, prepared.report, window=arm.spec.train.length)
            out[arm.label] = {"bits per byte": score.bits_per_byte, "parameters": float(model.parameter_count())}
    return out


def fixed(arm: Any) -> Any:
    """The arm with `FIXED` and `OPTIMIZER`."""
    known = flatten(dump(arm.spec))
    return replace(arm, spec=patch(arm.spec, FIXED | {path: v for path, v in OPTIMIZER.items() if path in known}))


def measured(found: Any, metrics: Sequence[Any]) -> dict[str, list[float]]:
    """The values of one measurement by metric."""
    return {metric.name: found.values[metric.name] for metric in metrics}


def shown(name: str, result: Mapping[str, Any]) -> list[Section]:
    """A comparison's lead, and below it everything that its page has."""
    lead = Section(
        load_study(name)["title"], [subtitle(result), *words.warnings(result), " ".join(words.sentences(result))]
    )
    return [lead, *(replace(part, title=f"# {part.title}") for part in sections(result))]
