"""Language models that see: pretrained or not, a frozen or a trained image encoder, a projector or gated layers.

A CLIP of {dim} dimensions is trained on scenes for {clip} steps, with patches of 16 x 16 pixels; its image encoder then
feeds a language model of two layers, by a projector (LLaVA) or by gated cross-attention (Flamingo), for {steps} steps
of {rows} pictures. Half of them ask for the caption, half a question (size, color, shape, position). A caption counts
if every word is right. The language model was first trained for {language} steps on the texts alone, but for the random
one. The blind encoder is that of a CLIP whose captions never named the shape. Models are small, and trainings are
short: what is compared is which arm learns more in equal steps.

The almanac's row is loose: Flamingo itself freezes encoder and language model and trains what is between them. Here
both forms are measured. What is small: the language model knows 40 words and was pretrained on the very texts that it
is to write, which is the best case of pretraining. A first run was discarded: with patches of 8 x 8 pixels and 150
steps of CLIP no arm said positions better than chance, so patches became 16 x 16 and the steps of CLIP 200 before this
one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from evidence._page import with_interval
from evidence._pictures import BATCH, DIM, TEXT, VISION, drawn, fit, material, run, share
from evidence._synthetic import average, over
from llmanac.core.pages import Section, table
from llmanac.data.pictures import Pictures
from llmanac.data.pictures import scenes as s
from llmanac.generate.images import describe
from llmanac.models.images.load import load_part
from llmanac.recipes import multimodal_data as data
from llmanac.recipes.multimodal import TextsAlone

ROWS = ("multimodal/vlm", "multimodal/end-to-end")
CLAIM = "a pretrained language model helps; a frozen encoder limits what is said; end to end is best and costs more"
SEEDS = 3
TIMED = ("seconds",)
TOLERANCE = 2e-2
SIZES: dict[str, dict[str, int]] = {
    "full": {"clip": 200, "language": 100, "steps": 200, "tested": 120},
    "small": {"clip": 2, "language": 2, "steps": 2, "tested": 8},
}
EYES = {**VISION, "patch": 16}  # with these positions are learned soonest, see the study of alignment
PROJECTOR = {"vision": EYES, "text": TEXT, "layer": -1}
GATED = {"vision": EYES, "text": TEXT, "latents": 8, "head_dim": 16}
ARMS: dict[str, tuple[str, dict[str, Any], bool, bool]] = {  # model, fields, pretrained language model, blind encoder
    "random": ("vlm", PROJECTOR, False, False),
    "pretrained": ("vlm", PROJECTOR, True, False),
    "end to end": ("vlm", {**PROJECTOR, "encoder": "trained"}, True, False),
    "gated": ("flamingo", GATED, True, False),
    "gated, end to end": ("flamingo", {**GATED, "encoder": "trained", "language": "trained"}, True, False),
    "blind": ("vlm", PROJECTOR, True, True),
    "blind, end to end": ("vlm", {**PROJECTOR, "encoder": "trained"}, True, True),
}
TITLES = {
    "random": "projector, frozen encoder, random language model",
    "pretrained": "projector, frozen encoder, pretrained language model",
    "end to end": "the same, encoder trained too",
    "gated": "gated cross-attention, encoder and language model frozen",
    "gated, end to end": "the same, both trained too",
    "blind": "projector, frozen blind encoder, pretrained language model",
    "blind, end to end": "the same, encoder trained too",
}


def measure(seed: int, size: str) -> dict[str, Any]:
    sizes = SIZES[size]
    fields = {"vision": EYES, "text": TEXT, "dim": DIM}
    encoders = {
        blind: fit("clip", fields, sizes["clip"], seed, draw=shapeless if blind else None)[0].vision.state_dict()
        for blind in (False, True)
    }
    out: dict[str, Any] = {}
    for arm in ARMS if size == "full" else ("pretrained", "gated"):
        name, own, pretrained, blind = ARMS[arm]

        def prepare(model: Any, pretrained: bool = pretrained, blind: bool = blind) -> None:
            load_part(model.vision, encoders[blind], "")
            if pretrained:
                trained = [p.requires_grad for p in model.text.parameters()]
                model.text.requires_grad_(True)
                run(TextsAlone(model.text, model.spec), texts_of(model.spec), sizes["language"], seed)
                for parameter, was in zip(model.text.parameters(), trained, strict=True):
                    parameter.requires_grad_(was)

        model, seconds = fit(name, own, sizes["steps"], seed, prepare=prepare)
        count = sum(p.numel() for p in model.parameters() if p.requires_grad)
        out[arm] = {**said(model, seed, sizes["tested"]), "trained": count, "seconds": seconds / sizes["steps"]}
    return out


def shapeless(generator: np.random.Generator, rows: int) -> Pictures:
    """Scenes whose captions do not name the shape."""
    items = [material().seen[i] for i in generator.integers(0, len(material().seen), rows)]
    texts = [f"a {item.size} {item.color} in the {item.position}" for item in items]
    return Pictures(pixels=material().pixels(items, generator), ids=material().captions(texts))


def texts_of(spec: Any) -> Any:
    """Captions, questions and answers without images."""
    draw = data.Draw(material(), spec)

    def batch(generator: np.random.Generator, rows: int) -> Pictures:
        items = [draw.items[i] for i in generator.integers(0, len(draw.items), rows)]
        return draw.written(None, [draw.exchange(item, generator) for item in items])

    return batch


@torch.no_grad()
def said(model: Any, seed: int, count: int) -> dict[str, dict[str, float]]:
    """Exact captions, right answers by question, and their mean, on both sides of the split."""
    draw, end = data.Draw(material(), model.spec), {material().tokenizer.eos_id}
    out = {}
    for name, side in (("seen", "seen"), ("held", "held out")):
        items = material().some(count, side)
        pixels = drawn(items, seed)

        def written(asked: str = "", pixels: torch.Tensor = pixels) -> list[str]:
            found = describe(model, pixels, draw.prompt(asked), end=end, most=material().length)
            return [material().text(row) for row in found]

        scores = {"captions": share(a == item.caption for a, item in zip(written(), items, strict=True))}
        for field, question in s.QUESTIONS.items():
            scores[field] = share(a == getattr(item, field) for a, item in zip(written(question), items, strict=True))
        out[name] = {**scores, "answers": float(np.mean([scores[field] for field in s.QUESTIONS]))}
    return out


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"dim": DIM, "rows": BATCH, **{key: SIZES["full"][key] for key in ("clip", "language", "steps")}}


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    arms = [arm for arm in ARMS if arm in seeds[0]]
    sections = []
    for side, title in (("seen", "Trained combinations"), ("held", "Held-out pairs of color and shape")):
        keys = ("captions", "answers", *s.QUESTIONS)
        rows = [[TITLES[arm], *(with_interval(over(seeds, arm, side, key), 2) for key in keys)] for arm in arms]
        sections.append(Section(title, tables=[table(["", "exact captions", "answers", *s.QUESTIONS], rows)]))
    costs = [
        [TITLES[arm], f"{average(seeds, arm, 'trained'):,.0f}", f"{1000 * average(seeds, arm, 'seconds'):.0f}"]
        for arm in arms
    ]
    sections.append(Section("What a step costs", tables=[table(["", "trained parameters", "ms of CPU"], costs)]))
    return sections
