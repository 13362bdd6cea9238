"""Images and texts in one space, in one stream and in two: CLIP, patches, relations, fusion.

All models have {dim} dimensions, see images of 32 x 32 pixels with one or two plain objects, and train {steps} steps
of {rows} pictures (on pairs of objects {pair_steps}), on one CPU thread of a machine that others used too. Ten of the
48 combinations of color and shape are in no picture or caption that is trained on, of one object or of two. A first run
drew scenes of two objects without regard to that, and its part on relations was discarded. Small models after a short
training: the differences count, not the levels.

Of two objects {kept} scenes are trained on and {tested} others are tested: the right caption against one about other
objects, one with the opposite relation, with the objects swapped and with the colors swapped (chance is 50%). An image
is a sequence of (32 / p)^2 patches. A single stream is ViLT, two with co-attention have METER's layer.

What is small here: images without texture, a vocabulary of 40 words, no pretraining. Positions are what these models
learn last, and with small patches later still: a part of the weakness on relations may be the short training. A batch
of 64 random pairs hardly ever holds a caption and its swapped form, so that the loss does not ask for the order; so
it is for real CLIP models and their captions, but these numbers are of scenes alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from itertools import permutations, product
from typing import Any

import numpy as np
import torch

from evidence._page import with_interval
from evidence._pictures import BATCH, DIM, TEXT, VISION, Kept, drawn, fit, material, right, share
from evidence._synthetic import average, over
from llmanac.core.pages import Section, table
from llmanac.core.rng import numpy_generator
from llmanac.data.pictures import Pictures
from llmanac.data.pictures import scenes as s
from llmanac.recipes import multimodal_data as data
from llmanac.recipes.multimodal_measures import vectors

CLAIM = (
    "contrastive pairs classify without labels and are weak on relations; smaller patches cost more; streams can meet"
)
SEEDS = 3
TIMED = ("seconds",)
TOLERANCE = 2e-2
PATCHES = (16, 8, 4)
PAIRS = 600  # scenes of two objects that are trained on
SIZES: dict[str, dict[str, int]] = {
    "full": {"steps": 400, "pairs": 400, "tested": 240, "tested_pairs": 512},
    "small": {"steps": 2, "pairs": 2, "tested": 16, "tested_pairs": 16},
}
KINDS = ("easy", "opposite", "objects", "colors")
TESTED = 128  # rows at a time
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
WORDS_OF = {"easy": "other objects", "opposite": "the opposite relation", "objects": "the objects swapped",
            "colors": "the colors swapped"}  # fmt: skip
ROWS = ("multimodal/vit", "multimodal/clip", "multimodal/unified")
ONE = {"image": s.SIDE, "patch": 8, "dim": DIM, "layers": 4}
TWO = {"vision": {**VISION, "layers": 1}, "text": {"name": "encoder", "dim": DIM, "layers": 1}, "dim": DIM, "layers": 2}


def measure(seed: int, size: str) -> dict[str, Any]:
    sizes = SIZES[size]
    out: dict[str, Any] = {"patches": {}, "fusion": {}}
    for patch in PATCHES if size == "full" else PATCHES[:1]:
        fields = {"vision": {**VISION, "patch": patch}, "text": TEXT, "dim": DIM}
        model, seconds = fit("clip", fields, sizes["steps"], seed)
        found = retrieval(model, seed, sizes["tested"])
        out["patches"][str(patch)] = {**found, "flops": model.vision.flops(), "seconds": seconds}
    fields = {"vision": VISION, "text": TEXT, "dim": DIM}
    model, _ = fit("clip", fields, sizes["pairs"], seed, draw=pairs)
    out["relations"] = relations(model, seed, sizes["tested_pairs"])
    for name, fields in (("vilt", ONE), ("co-attention", TWO)) if size == "full" else ():
        model, seconds = fit(name, fields, sizes["steps"], seed)
        out["fusion"][name] = {**answers(model, seed, sizes["tested"]), "flops": flops(model), "seconds": seconds}
    return out


@torch.no_grad()
def retrieval(model: Any, seed: int, count: int) -> dict[str, Any]:
    """R@1 among all 384 captions on both sides, and which fields of the chosen captions are right."""
    shown, every = material(), s.all_scenes()
    texts = vectors(model.texts, shown.captions([scene.caption for scene in every]))
    out: dict[str, Any] = {}
    for name, side in (("seen", "seen"), ("held", "held out")):
        items = shown.some(count, side)
        chosen = (vectors(model.images, drawn(items, seed)) @ texts.T).argmax(1).tolist()
        found = [every[i] for i in chosen]
        out[name] = share(a.caption == b.caption for a, b in zip(found, items, strict=True))
        out[f"{name} fields"] = {
            field: share(getattr(a, field) == getattr(b, field) for a, b in zip(found, items, strict=True))
            for field in s.QUESTIONS
        }  # fmt: skip
    return out


@cache
def kept_pairs() -> list[Any]:
    """Scenes of two objects to train on, a few drawings of each."""
    return [Kept(scene) for scene in two_objects(PAIRS, numpy_generator(0, "pairs"))]


def two_objects(count: int, generator: np.random.Generator, besides: Iterable[Any] = ()) -> list[s.PairScene]:
    """Different scenes, none of `besides`, nor one of them said from its other object.

    Their combinations of color and shape are trained ones, and so are those with the colors swapped: that a combination
    is new gives no wrong caption away.
    """
    taken, out = {item.caption for item in besides}, []
    while len(out) < count:
        item = s.random_pair(generator)
        said = {item.caption, opposite(item.swapped("objects")).caption}
        if taken.isdisjoint(said) and trained(item) and trained(item.swapped("colors")):
            taken |= said
            out.append(item)
    return out


def trained(item: s.PairScene) -> bool:
    """Whether both combinations of color and shape are trained on."""
    return combinations().issuperset(zip(item.colors, item.shapes, strict=True))


@cache
def combinations() -> set[tuple[str, str]]:
    """The combinations of color and shape that are trained on."""
    return {(scene.color, scene.shape) for scene in material().seen}


def pairs(generator: np.random.Generator, rows: int) -> Pictures:
    """Scenes of two objects with their captions."""
    every = kept_pairs()
    items = [every[i] for i in generator.integers(0, len(every), rows)]
    ids = material().captions([item.caption for item in items])
    return Pictures(pixels=s.pixels_of([item.draw(generator) for item in items]), ids=ids)


@torch.no_grad()
def relations(model: Any, seed: int, count: int) -> dict[str, float]:
    """How often the right caption of two objects is nearer than each kind of wrong one."""
    generator = numpy_generator(seed, "pairs", "test")
    items = two_objects(count, generator, besides=kept_pairs())
    images = vectors(model.images, s.pixels_of([item.draw(generator) for item in items]))
    wrong = {
        "easy": [replaced(item) for item in items],
        "opposite": [opposite(item) for item in items],
        "objects": [i.swapped("objects") for i in items],
        "colors": [i.swapped("colors") for i in items],
    }

    def near(chosen: Sequence[s.PairScene]) -> torch.Tensor:
        return (images * vectors(model.texts, material().captions([c.caption for c in chosen]))).sum(1)

    own = near(items)
    return {kind: float((own > near(chosen)).double().mean()) for kind, chosen in wrong.items()}


def opposite(item: s.PairScene) -> s.PairScene:
    return s.PairScene(item.colors, item.shapes, OPPOSITE[item.relation])


def replaced(item: s.PairScene) -> s.PairScene:
    """The same relation between two objects of other colors and shapes, in trained combinations."""
    colors = permutations([c for c in s.COLORS if c not in item.colors], 2)
    shapes = list(permutations([c for c in s.SHAPES if c not in item.shapes], 2))
    return next(p for c, f in product(colors, shapes) if trained(p := s.PairScene(c, f, item.relation)))


@torch.no_grad()
def answers(model: Any, seed: int, count: int) -> dict[str, float]:
    """Questions that are answered right, on both sides of the split."""
    out = {}
    for name, side in (("seen", "seen"), ("held", "held out")):
        draw = data.Draw(material(), model.spec, material().some(count, side))
        batch = draw(numpy_generator(seed, "questions"), 2 * count)
        assert batch.labels is not None and batch.ids is not None and batch.lengths is not None
        parts = [batch[i : i + TESTED] for i in range(0, len(batch), TESTED)]
        out[name] = right(torch.cat([model(p.ids, p.pixels, p.lengths).argmax(1) for p in parts]), batch.labels)
    return out


def flops(model: Any) -> float:
    """Matrix-product FLOPs of one question about one image, forward."""
    from torch.utils.flop_counter import FlopCounterMode

    batch = data.Draw(material(), model.spec)(numpy_generator(0), 8)
    model.attention_form = "plain"
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(batch.ids, batch.pixels, batch.lengths)
    return counter.get_total_flops() / 8


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    steps = SIZES["full"]
    return {"dim": DIM, "steps": steps["steps"], "pair_steps": steps["pairs"], "rows": BATCH,
            "tested": steps["tested_pairs"], "kept": PAIRS}  # fmt: skip


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    def row(name: str, *path: str) -> list[str]:
        return [name, *(with_interval(over(seeds, *path, key)) for key in ("seen", "held"))]

    patches = [
        [*row(f"p = {p}, {(s.SIDE // int(p)) ** 2} patches", "patches", p),
         f"{average(seeds, 'patches', p, 'flops') / 1e6:.1f}", f"{average(seeds, 'patches', p, 'seconds'):.0f} s"]
        for p in seeds[0]["patches"]
    ]  # fmt: skip
    sides = ("seen", "held")
    fields = [
        [field, *(with_interval(over(seeds, "patches", "8", f"{side} fields", field)) for side in sides)]
        for field in s.QUESTIONS
    ]
    names = {"vilt": "single stream (ViLT)", "co-attention": "two streams (co-attention)"}
    fusion = [[*row(text, "fusion", name), f"{average(seeds, 'fusion', name, 'flops') / 1e6:.1f}",
               f"{average(seeds, 'fusion', name, 'seconds'):.0f} s"] for name, text in names.items()]  # fmt: skip
    kinds = [[f"{WORDS_OF[kind]}", with_interval(over(seeds, "relations", kind))] for kind in KINDS]
    costs = ["seen", "held out", "MFLOPs, forward", "training"]
    return [
        Section("R@1 among 384 captions, by patch size", tables=[table(["", *costs], patches)]),
        Section("Fields of the nearest caption, p = 8", tables=[table(["", "seen", "held out"], fields)]),
        Section("The right caption of two objects against one with", tables=[table(["", "right is nearer"], kinds)]),
        Section("Questions answered right", tables=[table(["", *costs], fusion)]),
    ]
