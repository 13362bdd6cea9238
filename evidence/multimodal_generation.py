"""Images from captions: discrete tokens in one autoregressive model, and diffusion, by the time they take.

Scenes of one large object are drawn at 16 x 16 pixels: {count} captions, of which those of 10 of 48 pairs of color
and shape are never trained on. A small classifier, right on {judge:.1%} of real images, reads color and shape of
generated ones. One CPU thread of a machine that others used too, float32.

The VQ-VAE writes an image as {tokens} codes of {codes}; without k-means start and revival of dead codes it is "neither"
below. Guidance is {guidance}. Of a sampler that adds noise at each step (DDPM), one that does not (DDIM) and a model of
the flow, each is measured by its steps. The tokenizer limits the autoregressive model.

What is small: 16 x 16 pixels, one object, 40 words, a minute of training. The tokenizer is trained before and frozen,
as in DALL-E; a larger training budget moves all of these numbers, and may change their order.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch

from evidence._page import with_interval
from evidence._pictures import DIM, TEXT, Kept, material, run
from evidence._synthetic import average, over
from llmanac.core.pages import Section, table
from llmanac.core.rng import numpy_generator, torch_generator
from llmanac.core.spec import make_method
from llmanac.data.pictures import Pictures
from llmanac.data.pictures import scenes as s
from llmanac.models.images.load import load_part
from llmanac.recipes import multimodal_data as data
from llmanac.recipes import multimodal_judge as j

ROWS = ("multimodal/vq-vae", "multimodal/dall-e", "multimodal/diffusion")
CLAIM = "an image is a few discrete tokens that a language model can write; diffusion takes noise away in steps"
SEEDS = 3
TIMED = ("seconds",)
TOLERANCE = 2e-2
SIDE, GUIDANCE, GOOD = 16, 2.0, 0.85
SIZES: dict[str, dict[str, int]] = {
    "full": {"judge": 400, "vq": 200, "dalle": 250, "diffusion": 600, "tested": 152},
    "small": {"judge": 2, "vq": 2, "dalle": 2, "diffusion": 2, "tested": 8},
}
QUANTIZER: dict[str, Any] = {
    "name": "vq-vae", "image": SIDE, "base": 16, "multipliers": [1, 2, 2], "codebook": {"codes": 64, "dim": 8},
}  # fmt: skip
PLAIN = {**QUANTIZER, "codebook": {"codes": 64, "dim": 8, "start": "normal", "revive": 0.0}}
DENOISER = {"image": SIDE, "patch": 4, "dim": DIM, "layers": 3, "predicts": "image"}
SAMPLERS = {"ddim": (1, 2, 5, 10, 25, 50), "ddpm": (5, 10, 25, 50), "flow": (1, 2, 5, 10, 25, 50)}


class Half:
    """A scene of a large object at half its size."""

    def __init__(self, scene: s.Scene) -> None:
        self.caption, self.color, self.shape = scene.caption, scene.color, scene.shape
        [self.scene] = Kept.anew([scene])

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        wide = self.scene.draw(generator).astype(np.float32)
        return np.rint(wide.reshape(SIDE, 2, SIDE, 2, 3).mean((1, 3))).astype(np.uint8)


@cache
def halves() -> data.PictureMaterial:
    """The material: large objects alone."""
    whole = material()
    seen, held = ([Half(x) for x in side if x.size == "large"] for side in (whole.seen, whole.held_out))
    return data.PictureMaterial([Kept(x) for x in seen], held, whole.tokenizer, SIDE, 10, True)


class SmallJudge(j.Judge):
    """The judge for 16 x 16 pixels, which sees them enlarged."""

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        return super().features(pixels.repeat_interleave(2, 2).repeat_interleave(2, 3))


@cache
def trained_judge(steps: int) -> SmallJudge:
    """One judge for all seeds."""
    judge = SmallJudge()
    run(judge, labelled, steps, 0)
    return judge


def measure(seed: int, size: str) -> dict[str, Any]:
    sizes, shown = SIZES[size], halves()
    judge = trained_judge(sizes["judge"])
    out: dict[str, Any] = {"judge": accuracy(judge, seed, sizes["tested"])}
    quantizer = built(QUANTIZER, seed)
    spent = run(quantizer, data.Draw(shown, quantizer.spec), sizes["vq"], seed)
    out["vq"] = {**codes(quantizer, judge, seed, sizes["tested"]), "seconds": spent}
    plain = built(PLAIN, seed)
    run(plain, data.Draw(shown, plain.spec), sizes["vq"], seed)
    out["plain"] = codes(plain, judge, seed, sizes["tested"])
    writer = built({"name": "dall-e", "tokenizer": QUANTIZER, "text": {**TEXT, "layers": 3}}, seed)
    load_part(writer.tokenizer, quantizer.state_dict(), "")
    out["dall-e"] = trained(writer, judge, sizes["dalle"], spent, seed, sizes)
    models = {"diffusion": built({"name": "diffusion", **DENOISER}, seed)}
    out["diffusion"] = trained(models["diffusion"], judge, sizes["diffusion"], 0.0, seed, sizes)
    if size == "full":
        models["flow"] = built({"name": "diffusion", **DENOISER, "predicts": "flow"}, seed)
        run(models["flow"], data.Draw(shown, models["flow"].spec), sizes["diffusion"], seed)
    out["samplers"] = {}
    for name, steps in SAMPLERS.items() if size == "full" else ():
        model = models["flow" if name == "flow" else "diffusion"]
        out["samplers"][name] = {
            str(n): judged(model, judge, seed, sizes["tested"], "seen", {"name": name, "steps": n}) for n in steps
        }
    return out


def built(fields: dict[str, Any], seed: int) -> Any:
    spec = data.fitted(make_method("multimodal", fields), halves())
    return spec.build(vocab_size=data.vocabulary(spec, halves())).initialise(seed)


def real(items: Sequence[Any], *names: Any) -> torch.Tensor:
    """New drawings."""
    return halves().pixels(Kept.anew(items), numpy_generator(*names))


def labelled(generator: np.random.Generator, rows: int) -> Pictures:
    """Scenes of all combinations with their color and shape."""
    every = [*halves().seen, *halves().held_out]
    items = [every[i] for i in generator.integers(0, len(every), rows)]
    return Pictures(pixels=halves().pixels(items, generator), labels=j.labels(items))


@torch.no_grad()
def accuracy(judge: j.Judge, seed: int, count: int) -> float:
    items = [*halves().some(count), *halves().some(count, "held out")]
    return float(judge.right(real(items, seed, "judge"), items).double().mean())


@torch.no_grad()
def codes(model: Any, judge: j.Judge, seed: int, count: int) -> dict[str, float]:
    """What a tokenizer keeps of new images."""
    items = [*halves().some(count), *halves().some(count, "held out")]
    pixels = real(items, seed, "codes")
    again = model.decode(model.encode(pixels)).clamp(-1, 1)
    uses = model.usage(pixels).double()
    part = uses[uses > 0] / uses.sum()
    return {
        "error": float((again - pixels).square().mean()), "variance": float(pixels.var(0).mean()),
        "used": float((uses > 0).double().mean()), "perplexity": float((-(part * part.log()).sum()).exp()),
        "read": float(judge.right(again, items).double().mean()),
    }  # fmt: skip


def trained(model: Any, judge: j.Judge, steps: int, spent: float, seed: int, sizes: dict[str, int]) -> dict[str, Any]:
    """Train, then measure both sides, and one without guidance; `spent` is what its tokenizer took."""
    seconds = spent + run(model, data.Draw(halves(), model.spec), steps, seed)
    out: dict[str, Any] = {"seconds": seconds}
    for side in ("seen", "held out"):
        out[side] = judged(model, judge, seed, sizes["tested"], side)
    out["without guidance"] = judged(model, judge, seed, sizes["tested"], "seen", guidance=1.0)
    return out


@torch.no_grad()
def judged(
    model: Any, judge: j.Judge, seed: int, count: int, side: str, sampler: dict[str, Any] | None = None,
    guidance: float = GUIDANCE,
) -> dict[str, float]:  # fmt: skip
    """Generated images of a side's captions: the fraction that is right, and CPU seconds."""
    shown, items = halves(), halves().some(count, side)
    ids = shown.captions([item.caption for item in items])
    generator = torch_generator(seed, "draw", side)
    began = time.process_time()
    if model.spec.name == "dall-e":
        made = model.images(model.generate(ids, guidance=guidance, generator=generator))
    else:
        how = make_method("sampler", sampler or {"name": "ddim", "steps": 25})
        words = data.Draw(shown, model.spec).words(ids)
        made = model.generate(words, sampler=how, guidance=guidance, generator=generator)
    seconds = time.process_time() - began
    return {"right": float(judge.right(made.clamp(-1, 1), items).double().mean()), "seconds": seconds}


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    count = len(halves().seen) + len(halves().held_out)
    return {"count": count, "judge": average(seeds, "judge"), "tokens": 16, "codes": 64, "guidance": GUIDANCE}


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    keys = {"used": "codes in use", "perplexity": "perplexity", "error": "squared error", "read": "read right"}
    names = {"vq": "k-means start, dead codes replaced", "plain": "neither"}
    tokens = [[text, *(with_interval(over(seeds, name, key)) for key in keys)] for name, text in names.items()]
    rows = []
    for name, text in (("dall-e", "autoregressive"), ("diffusion", "diffusion")):
        for part in ("seen", "held out", "without guidance"):
            right = with_interval(over(seeds, name, part, "right"))
            rows.append([f"{text}, {part}", right, f"{average(seeds, name, part, 'seconds'):.1f} s"])
    counts = sorted({int(n) for steps in SAMPLERS.values() for n in steps})
    steps = [
        [
            name,
            *(
                with_interval(over(seeds, "samplers", name, str(n), "right"), 2) if n in SAMPLERS[name] else ""
                for n in counts
            ),
        ]
        for name in SAMPLERS
    ]
    return [
        Section("An image as codes", tables=[table(["", *keys.values()], tokens)]),
        Section("Color and shape right", tables=[table(["", "right", "sampling"], rows)]),
        Section("Steps of the sampler", tables=[table(["", *map(str, counts)], steps)]),
    ]
