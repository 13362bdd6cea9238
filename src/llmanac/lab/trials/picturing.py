"""A trial that trains a model of images on scenes and asks it: each question has one right answer among a few.

All arms get the same questions about the same images; chance is the mean of 1/2, 1/8, 1/6 and 1/4.

    clip                 the answer that the nearest of all captions has
    vilt, co-attention   the answer with the highest score among those that fit the question
    vlm, flamingo        the answer with the highest probability after the image and the question

Every stage of an arm (the image encoder that it begins from, its language model alone) is part of its training.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmanac.core import files
from llmanac.core.device import resolve_device
from llmanac.core.rng import numpy_generator
from llmanac.core.run_folder import RECIPE
from llmanac.core.spec import dump, make_method
from llmanac.core.types import Want
from llmanac.data.pictures import PictureStream, scenes
from llmanac.generate.engine import evaluating
from llmanac.lab.axis import Arm
from llmanac.lab.cache import versions
from llmanac.lab.pairing import hash_parameters
from llmanac.lab.sources import fingerprint
from llmanac.lab.study import Measurement
from llmanac.metrics._items import Metric
from llmanac.recipes import multimodal as recipes
from llmanac.recipes import multimodal_data as data
from llmanac.recipes.multimodal_measures import vectors

MEASURE_VERSION = 1  # raise it when what is measured below changes its meaning
CODE = (recipes.__name__, data.__name__, __name__)
CHOICES: dict[str, list[str]] = {
    "size": list(scenes.SIZES), "color": list(scenes.COLORS), "shape": list(scenes.SHAPES),
    "position": list(scenes.POSITIONS),
}  # fmt: skip
SIDES = {"right": "seen", "right_new": "held out"}
COMPARED, CALLED = 2, 64  # steps whose pictures are hashed; images of a call


class Unmeasured(recipes.PictureRun):
    """A run without the recipe's own measurements, which take longer than a short training."""

    def measure(self, judge: Any) -> None:
        return None


class PictureTrial:
    """Trains an arm under a seed by its recipe and asks it about `questions` scenes a side."""

    metrics: tuple[Metric, ...] = (
        Metric("right", "", "higher", "right answers"),
        Metric("right_new", "", "higher", "right answers, new pairs of color and shape"),
        *(Metric(f"{field}_new", "", "higher", f"{field} right, new pairs") for field in CHOICES),
    )
    costs: tuple[Metric, ...] = (
        Metric("parameters", "", "lower"), Metric("train_flops", "FLOP", "lower", "training FLOPs"),
        Metric("tokens", "", "lower", "pictures in training"), Metric("steps", "", "lower"),
        Metric("seconds", "s", "lower", "training time"),
    )  # fmt: skip
    replicate = "seed"

    def __init__(self, questions: int, flops: Mapping[str, float]) -> None:
        self.questions, self.flops = questions, dict(flops)

    def parts(self, arm: Arm, seed: int) -> dict[str, Any]:
        """Everything that decides an arm's numbers."""
        return {
            "trial": "pictures", "measure": MEASURE_VERSION, "asked": dump(arm.spec), "seed": seed,
            "questions": self.questions, "sources": fingerprint([arm.spec], CODE), "versions": versions(),
            "device": str(resolve_device(arm.spec.device)), "threads": torch.get_num_threads(),
        }  # fmt: skip

    def measure(self, arm: Arm, seed: int, work: Path) -> Measurement:
        """Train, or go on with a training that was killed, and ask."""
        asked, place = replace(arm.spec, seed=seed), work / "run"
        resume = (place / RECIPE).is_file()
        done = recipes.run_multimodal(asked, place, resume=resume, report=lambda line: None, run=Unmeasured)
        model, stages = done.load_model(), stages_of(place)
        material = data.load_material(asked.data, asked.tokenizer, scenes.SIDE, seed, place / "tokenizer")
        values: dict[str, list[float]] = {}
        with evaluating(model), torch.no_grad():
            for name, side in SIDES.items():
                right = answers(model, material, side, seed, self.questions)
                values[name] = [sum(right.values()) / len(right)]
                if side != "seen":
                    values |= {f"{field}_new": [share] for field, share in right.items()}
        steps = sum(stage["steps"] for stage in stages)
        costs: dict[str, float | None] = {
            "parameters": done.results["model"]["parameters"], "train_flops": self.flops.get(arm.label),
            "tokens": steps * asked.rows, "steps": steps, "seconds": sum(stage["seconds"] for stage in stages),
        }  # fmt: skip
        stream = PictureStream(data.Draw(material, model.spec), rows=asked.rows, seed=seed, name="train")
        rows = [
            hashlib.sha256(one.numpy().tobytes()).hexdigest() for _ in range(COMPARED) for one in next(stream).pixels
        ]
        begun = begin(model.spec, material, seed)
        return Measurement(values, costs, [], {"parameters": hash_parameters(begun), "rows": rows})


def begin(spec: Any, material: data.Material, seed: int) -> Any:
    """A model with its initial weights."""
    return spec.build(vocab_size=data.vocabulary(spec, material)).initialise(seed)


@functools.cache
def scene_material() -> data.Material:
    """The scenes and their words, as a recipe makes them."""
    seen, held = scenes.split()
    texts = [scene.caption for scene in scenes.all_scenes()] + list(scenes.QUESTIONS.values())
    tokenizer = make_method("tokenizer", recipes.WORDS).train(texts)
    longest = max(len(tokenizer.encode(text)) for text in texts) + max(len(a.split()) for a in data.ANSWERS)
    return data.Material(seen, held, tokenizer, scenes.SIDE, longest + 2, True)


def stages_of(place: Path) -> list[dict[str, Any]]:
    """The trainings of a run: that of what it began from, of its language model, and its own."""
    folders = [place / "start", place]
    found = [files.read_table(f / recipes.RESULTS) for f in folders if (f / recipes.RESULTS).is_file()]
    return [stage for results in found for stage in results["stages"].values()]


def answers(model: Any, material: data.Material, side: str, seed: int, count: int) -> dict[str, float]:
    """The share of right answers by question, about `count` scenes of a side."""
    items = material.some(count, side)
    pixels = material.pixels(items, numpy_generator(seed, "questions", side))
    name = model.spec.name
    how: Callable[..., Tensor] = _nearest if name == "clip" else _scored if name in data.ANSWERING else _likely
    out = {}
    for field, choices in CHOICES.items():
        chosen = torch.cat([how(model, material, part, field, choices) for part in pixels.split(CALLED)])
        right = torch.tensor([choices.index(getattr(item, field)) for item in items])
        out[field] = float((chosen == right).double().mean())
    return out


def _nearest(model: Any, material: data.Material, pixels: Tensor, field: str, choices: list[str]) -> Tensor:
    every = scenes.all_scenes()
    texts = vectors(model.texts, material.captions([scene.caption for scene in every]))
    has = torch.tensor([choices.index(getattr(scene, field)) for scene in every])
    return has[(vectors(model.images, pixels) @ texts.T).argmax(1)]


def _scored(model: Any, material: data.Material, pixels: Tensor, field: str, choices: list[str]) -> Tensor:
    ids = material.captions([scenes.QUESTIONS[field]] * len(pixels)).to(model.device)
    lengths = (ids != material.tokenizer.pad_id).sum(1)
    places = torch.tensor([data.ANSWERS.index(choice) for choice in choices])
    return torch.as_tensor(model(ids, pixels.to(model.device), lengths).cpu()[:, places].argmax(1))


def _likely(model: Any, material: data.Material, pixels: Tensor, field: str, choices: list[str]) -> Tensor:
    draw, found = data.Draw(material, model.spec), []
    for choice in choices:
        rows = draw.written(pixels, [(scenes.QUESTIONS[field], choice)] * len(pixels)).to(model.device)
        out = model(rows.ids, rows.pixels, targets=rows.targets, want=Want(nll="none"))
        found.append(out.nll.sum(1).cpu())
    return torch.stack(found, 1).argmin(1)
