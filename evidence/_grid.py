"""Small models that differ in one part, trained on the same tokens; runs are kept, so that studies share them.

The text is that of `llmanac compare`: the documentation of Python and docstrings, in 1,024 tokens. Every run of a seed
starts from equal tensors where names and shapes are equal, and reads the same rows in the same order.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from evidence._compared import SMALL, WORK, made_up
from llmanac.core import files
from llmanac.core.pages import table
from llmanac.core.spec import dump, make_method, patch
from llmanac.core.types import Batch
from llmanac.evaluate.bits_per_byte import score_texts
from llmanac.lab import words
from llmanac.lab.cache import digest
from llmanac.lab.compare import BASE
from llmanac.lab.prepare import PreparedArms, prepare
from llmanac.lab.stats import compare_arms
from llmanac.models.load import load_model
from llmanac.recipes.parts import RecipeParts
from llmanac.recipes.spec import load_recipe
from llmanac.train.loop import train

LENGTH, STEPS = 128, 400
SHAPE: dict[str, Any] = {"dim": 64, "layers": 3, "max_length": 4 * LENGTH}
MIXER = {"name": "multi-head", "heads": 4}
TRAIN = {
    "train.length": LENGTH, "train.batch_tokens": 512, "train.steps": STEPS, "train.dtype": "float32",
    "train.attention": "sdpa", "train.compile": "never",
}  # fmt: skip
FEW = {"train.length": 8, "train.batch_tokens": 64, "train.steps": 3}


def model_spec(size: str, *, block: str = "pre-norm", ffn: Any = "swiglu", mixer: Any = (), **parts: Any) -> Any:
    """The model of the grid with other parts; `mixer` is merged into the base's unless it names another one."""
    shape = SHAPE if size == "full" else {"dim": 32, "layers": 1, "max_length": 64}
    mixed = {**MIXER, **dict(mixer)}
    blocks = [{"name": block, "ffn": ffn, "mixer": mixed}]
    return make_method("lm", {"name": "transformer", **shape, "blocks": blocks, **parts})


@cache
def recipe(size: str) -> Any:
    """The recipe of every run; its model is replaced."""
    if size == "full":
        return load_recipe(str(BASE), TRAIN).spec
    folder = Path(tempfile.mkdtemp())
    for number, text in enumerate(made_up()):
        (folder / f"{number}.txt").write_text(text, "utf-8")
    small = {k: v for k, v in SMALL.items() if not k.startswith("model.")}
    source = {"name": "files", "paths": [str(folder)]}
    return load_recipe(str(BASE), {**TRAIN, **small, **FEW, "data.source": source}).spec


@cache
def text(size: str) -> PreparedArms:
    """Tokenizer, training tokens and held-out documents."""
    return prepare(recipe(size), WORK / "cache" / "text" if size == "full" else Path(tempfile.mkdtemp()))


def trained(spec: Any, seed: int, size: str, changes: Mapping[str, Any] | None = None) -> Any:
    """The trained model of a Spec, by the recipe with these changes; one that is kept is loaded."""
    asked = patch(dataclasses.replace(recipe(size), model=spec), changes or {})
    stages = RecipeParts(asked, text(size), torch.device("cpu"))
    if size == "small":
        model = stages.model(seed)
        with tempfile.TemporaryDirectory() as folder:
            train(model, stages.rows(seed), stages.objective, asked.train, folder, seed=seed, report=lambda _: None)
        return model.eval()
    key = digest({"model": dump(spec), "train": dump(asked.train), "seed": seed, "text": text(size).identity})
    place = WORK / "grid" / key
    if not (place / "model").is_dir():
        model = stages.model(seed)
        done = train(model, stages.rows(seed), stages.objective, asked.train, place / "run", seed=seed)
        files.write_json(place / "done.json", {"seconds": done.seconds, "loss": done.loss})
        model.save_pretrained(place / "model")
    return load_model(place / "model", device="cpu").eval()


def bits(model: Any, size: str, texts: str = "report") -> dict[str, float]:
    """Bits per byte of the held-out documents in windows of the trained length, and parameters."""
    score = score_texts(model, text(size).tokenizer, getattr(text(size), texts), window=recipe(size).train.length)
    return {"bits per byte": score.bits_per_byte, "parameters": float(model.parameter_count())}


def arms(specs: Mapping[str, Any], seed: int, size: str) -> dict[str, dict[str, float]]:
    """`bits` of every arm; a small measurement trains the last one only."""
    chosen = specs if size == "full" else dict(list(specs.items())[-1:])
    return {name: bits(trained(spec, seed, size), size) for name, spec in chosen.items()}


def paced(runs: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, dict[str, float]]:
    """CPU seconds of each, and its ratio to the first: medians over rounds in which all take turns."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):  # the first round warms up
        for name in list(runs)[:: 1 if turn % 2 else -1]:
            start = time.process_time()
            runs[name]()
            taken[name].append(time.process_time() - start)
    first = next(iter(taken.values()))[1:]
    return {
        name: {
            "seconds": statistics.median(own[1:]),
            "ratio": statistics.median(a / b for a, b in zip(own[1:], first, strict=True)),
        }
        for name, own in taken.items()
    }  # fmt: skip


def training_steps(specs: Mapping[str, Any], rounds: int, rows: int = 8) -> dict[str, dict[str, float]]:
    """`paced` for a forward and backward pass of each model."""
    runs = {}
    for name, spec in specs.items():
        model = spec.build(vocab_size=1024)
        ids = torch.randint(1024, (rows, LENGTH + 1), generator=torch.Generator().manual_seed(0))
        batch = Batch(ids=ids[:, :-1], targets=ids[:, 1:])
        runs[name] = lambda m=model, b=batch: m.nll(b).backward()
    return paced(runs, rounds)


# What these pages stated before their first cell: three seeds, and half a percent as the margin of equivalence.
STATED: Any = {"fewest": 3, "margin": 0.005}


def verdicts(values: Mapping[str, Sequence[float]], unit: str = "bit/B", better: str = "lower") -> dict[str, Any]:
    """A table of arms against the first one, paired by seed; `lab/stats.py` has the tests."""
    first = next(iter(values))
    found = {c.arm: c for c in compare_arms(values, first, better=better, **STATED)} if len(values) > 1 else {}
    rows = [[first, "baseline", words.quantity(statistics.fmean(values[first]), unit), "", "", ""]]
    for name, c in found.items():
        own = dataclasses.asdict(c)
        said = [words.verdict(own, "seed"), words.quantity(c.mean, unit), words.difference(own), words.interval(own)]
        rows.append([name, *said, words.p_value(c.p)])
    return table(["", "verdict", "mean", "difference", "95% interval", "p"], rows, 0)
