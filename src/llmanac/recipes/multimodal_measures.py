"""What a multimodal run measures of its model, on pictures it was trained on the like of and on held-out ones.

`measure` gives tables of numbers (`scores`: side -> name -> value) and pictures for the report (`ShownPictures`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmanac.core.rng import numpy_generator, torch_generator
from llmanac.core.spec import make_method
from llmanac.data.pictures import scenes
from llmanac.generate.images import describe
from llmanac.models.images.samplers import SamplerSpec
from llmanac.recipes.multimodal_data import ANSWERING, ANSWERS, DESCRIBES, Draw, PictureMaterial, shown_by
from llmanac.recipes.multimodal_judge import Judge, kernel_distance

SIDES = ("seen", "held out")
MEASURED, MADE = 320, 160  # pictures of a side that are read, and that are drawn; about
REBUILT = 4  # times as many pictures are rebuilt: a change of one point is looked for
BATCH = 64
SHOWN = 8  # pictures of a side in the report
STEPS = (2, 5, 10, 20, 50)  # of a sampler
DRAWN_IN = 10  # steps, where none are stated
Scores = dict[str, dict[str, float]]


@dataclass
class ShownPictures:
    """Pictures of the report with a line below each: a title, images (B, 3, H, H) from -1 to 1, and the lines."""

    title: str
    pixels: Tensor
    lines: Sequence[str]
    about: str = ""


@dataclass
class MeasuredPictures:
    """scores: side -> name -> value; shown: pictures; extra: what is of neither side."""

    scores: Scores = field(default_factory=dict)
    shown: list[ShownPictures] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass
class Measure:
    """The measurements of one run.

    Args:
        judge: of scenes, with the fraction of real images that it reads right; None for the user's pictures.
        guidance, sampler: how `dall-e` and `diffusion` draw.
    """

    material: PictureMaterial
    spec: Any
    seed: int
    judge: tuple[Judge, float] | None = None
    guidance: float = 1.0
    sampler: SamplerSpec | None = None
    count: int = MEASURED

    def __call__(self, model: Any) -> MeasuredPictures:
        kinds: dict[str, Callable[[Any, MeasuredPictures], None]] = {"clip": self.retrieval, "vq-vae": self.rebuilt}
        kinds |= dict.fromkeys(DESCRIBES, self.described) | dict.fromkeys(ANSWERING, self.answered)
        found = MeasuredPictures()
        kinds.get(self.spec.name, self.drawn)(model, found)
        return found

    def sides(self, count: int | None = None) -> list[tuple[str, list[Any], Tensor]]:
        """(side, items, their pixels), drawn by a generator of their own."""
        out = []
        for side in SIDES:
            items = self.material.some(count or self.count, side)
            out.append((side, items, self.material.pixels(items, numpy_generator(self.seed, "measure", side))))
        return out

    def of(self, side: str) -> Sequence[Any]:
        """All items of a side."""
        return self.material.seen if side == "seen" else self.material.held_out

    # ------------------------------------------------------------------ clip
    def retrieval(self, model: Any, found: MeasuredPictures) -> None:
        """Recall of the caption among all of them, and of the image among those of its side."""
        every = list(dict.fromkeys(item.caption for item in [*self.material.seen, *self.material.held_out]))
        texts = vectors(model.texts, self.material.captions(every))
        number = {caption: i for i, caption in enumerate(every)}
        grid = []
        for side, items, pixels in self.sides():
            images = vectors(model.images, pixels)
            own = torch.tensor([number[item.caption] for item in items])
            right = torch.zeros(len(items), len(every), dtype=torch.bool)  # any text of a picture is
            for row, item in zip(right, items, strict=True):
                row[[number[text] for text in self.material.texts[shown_by(item)]]] = True
            best = (images @ texts.T).topk(min(5, len(every))).indices
            back = (texts[own] @ images.T).argmax(1)  # any picture of the text is right
            hit = right.gather(1, best)
            found.scores[side] = {
                "R@1": share(hit[:, 0]),
                "R@5": share(hit.any(1)),
                "image R@1": share(right[back, own]),
                "captions": float(len(every)),
            }
            if self.material.made_here:
                pairs = [(SCENE[every[i]], item) for i, item in zip(best[:, 0].tolist(), items, strict=True)]
                found.scores[side] |= {
                    name: mean(getattr(a, name) == getattr(b, name) for a, b in pairs) for name in scenes.QUESTIONS
                }
            else:
                found.scores[side] |= own_side(images @ texts.T, right, [item.caption for item in self.of(side)], every)
            some = spread(len(items), SHOWN)
            lines = [mark(every[best[i, 0]], items[i].caption, right=bool(hit[i, 0])) for i in some]
            found.shown.append(ShownPictures(f"Nearest caption, {side}", pixels[some], lines))
            grid.append((pixels[some], [items[i].caption for i in some]))
        pixels, captions = torch.cat([p for p, _ in grid]), [c for _, cs in grid for c in cs]
        similar = vectors(model.images, pixels) @ vectors(model.texts, self.material.captions(captions)).T
        found.extra["grid"] = {"captions": captions, "cosine": [[round(v, 3) for v in row] for row in similar.tolist()]}

    # ------------------------------------------------------------------ vlm, flamingo
    def described(self, model: Any, found: MeasuredPictures) -> None:
        """Captions and answers that are exactly right: a caption is any of the picture's, no word of it unknown."""
        draw, end = Draw(self.material, self.spec), {self.material.tokenizer.eos_id}

        def written(pixels: Tensor, asked: str = "") -> list[str]:
            ids = [
                row
                for part in pixels.split(BATCH)
                for row in describe(
                    model, part.to(model.device), draw.prompt(asked), end=end, most=self.material.length
                )
            ]
            return [self.material.text(row) for row in ids]

        for side, items, pixels in self.sides():
            said = written(pixels)
            right = [
                text in map(self.material.wanted, self.material.texts[shown_by(item)])
                for text, item in zip(said, items, strict=True)
            ]
            scores = {"exact captions": mean(right)}
            answers: dict[str, list[str]] = {}
            for name, question in scenes.QUESTIONS.items() if self.material.made_here else ():
                answers[name] = written(pixels, question)
                scores[name] = mean(a == getattr(item, name) for a, item in zip(answers[name], items, strict=True))
            found.scores[side] = scores
            some = spread(len(items), SHOWN)
            lines = [
                mark(said[i], items[i].caption, right=right[i])
                + "".join(f" | {name}: {a[i]}" for name, a in answers.items())
                for i in some
            ]
            found.shown.append(ShownPictures(f"Captions and answers, {side}", pixels[some], lines))

    # ------------------------------------------------------------------ vilt, co-attention
    def answered(self, model: Any, found: MeasuredPictures) -> None:
        """Questions whose answer gets the highest score."""
        for side in SIDES:
            items = self.material.some(self.count, side)
            draw = Draw(self.material, self.spec, items)
            batch = draw(numpy_generator(self.seed, "measure", side), 4 * self.count)
            with torch.no_grad():
                parts = [batch[i : i + BATCH].to(model.device) for i in range(0, len(batch), BATCH)]
                chosen = torch.cat([model(p.ids, p.pixels, p.lengths).argmax(1).cpu() for p in parts])
            assert batch.ids is not None and batch.labels is not None
            right, texts = chosen == batch.labels, [self.material.text(row) for row in batch.ids.tolist()]
            found.scores[side] = {"right": share(right)}
            for name, question in scenes.QUESTIONS.items() if self.material.made_here else ():
                found.scores[side][name] = share(right[torch.tensor([text == question for text in texts])])
            names = self.names
            pairs = zip(chosen.tolist(), batch.labels.tolist(), strict=True)
            said = [mark(names[a], names[b], right=a == b) for a, b in pairs]
            lines = [f"{text} | {line}" for text, line in zip(texts[:SHOWN], said, strict=False)]
            found.shown.append(ShownPictures(f"Answers, {side}", batch.pixels[:SHOWN], lines))

    @property
    def names(self) -> Sequence[str]:
        return ANSWERS if self.material.made_here else ("does not belong", "belongs")

    # ------------------------------------------------------------------ vq-vae
    def rebuilt(self, model: Any, found: MeasuredPictures) -> None:
        """Squared error, codes in use, and what the judge reads in originals and reconstructions."""
        uses = torch.zeros(self.spec.codebook.codes, dtype=torch.long)
        for side, items, pixels in self.sides(REBUILT * self.count):
            with torch.no_grad():
                codes = torch.cat([model.encode(p.to(model.device)).cpu() for p in pixels.split(BATCH)])
                again = torch.cat([model.decode(c.to(model.device)).cpu() for c in codes.split(BATCH)]).clamp(-1, 1)
            uses += codes.flatten().bincount(minlength=len(uses))
            scores = {
                "squared error": float((again - pixels).square().mean()),
                "variance": float(pixels.var(dim=0).mean()),
            }
            if self.judge is not None:
                before, after = (self.judge[0].right(p, items).double() for p in (pixels, again))
                change, half = after - before, 0.0
                if len(items) > 1:
                    half = 1.96 * float(change.std()) / len(items) ** 0.5
                scores |= {"read right, original": float(before.mean()), "read right, rebuilt": float(after.mean())}
                scores |= {"change": float(change.mean()), "change, half of 95%": half}
            found.scores[side] = scores
            some = spread(len(items), SHOWN)
            lines = [items[i].caption for i in some]
            found.shown.append(ShownPictures(f"Originals, {side}", pixels[some], lines))
            found.shown.append(ShownPictures(f"Reconstructions, {side}", again[some], [""] * len(some)))
        part = uses[uses > 0].double() / uses.sum()
        found.extra |= {
            "codes_in_use": float((uses > 0).double().mean()),
            "perplexity": float((-(part * part.log()).sum()).exp()),
            "codes": len(uses),
        }

    # ------------------------------------------------------------------ dall-e, diffusion
    def draw_images(self, model: Any, captions: Sequence[str], sampler: SamplerSpec | None = None) -> Tensor:
        """(B, 3, size, size) from -1 to 1, of captions."""
        ids, out = self.material.captions(captions), []
        generator = torch_generator(self.seed, "measure", "draw")
        for part in ids.split(BATCH):
            part = part.to(model.device)
            if self.spec.name == "dall-e":
                found = model.images(model.generate(part, guidance=self.guidance, generator=generator))
            else:
                words = Draw(self.material, self.spec).words(part.cpu()).to(model.device)
                how = sampler or self.sampler or default_sampler(self.spec)
                found = model.generate(words, sampler=how, guidance=self.guidance, generator=generator)
            out.append(found.detach().cpu().clamp(-1, 1))
        return torch.cat(out)

    def drawn(self, model: Any, found: MeasuredPictures) -> None:
        """Images of captions, judged; the distance of their features to those of real ones, with a floor and noise."""
        for side, items, pixels in self.sides(min(self.count, MADE)):
            made = self.draw_images(model, [item.caption for item in items])
            scores: dict[str, float] = {}
            if self.judge is not None:
                scores = self.judged(made, items, pixels)
                other = self.material.pixels(items, numpy_generator(self.seed, "measure", side, "floor"))
                noise = torch.rand(pixels.shape, generator=torch_generator(self.seed, "noise")) * 2 - 1
                features = [f.detach() for f in map(self.judge[0].vectors, (pixels, other, noise))]
                scores["KID, other real images"] = kernel_distance(features[0], features[1])
                scores["KID, noise"] = kernel_distance(features[0], features[2])
            scores["pixels off their mean"] = float(made.std(dim=0).mean())
            found.scores[side] = scores
            some = spread(len(items), SHOWN)
            found.shown.append(ShownPictures(f"Drawn, {side}", made[some], [items[i].caption for i in some]))
        if self.spec.name == "diffusion":
            self.by_steps(model, found)

    def judged(self, made: Tensor, items: Sequence[Any], pixels: Tensor) -> dict[str, float]:
        assert self.judge is not None
        with torch.no_grad():
            distance = kernel_distance(self.judge[0].vectors(pixels), self.judge[0].vectors(made))
        return {"color and shape right": share(self.judge[0].right(made, items)), "KID": distance}

    def by_steps(self, model: Any, found: MeasuredPictures) -> None:
        """The same with fewer steps of the sampler."""
        items = self.material.some(min(self.count, MADE) // 2)
        pixels = self.material.pixels(items, numpy_generator(self.seed, "measure", "steps"))
        how = self.sampler or default_sampler(self.spec)
        rows = {}
        for steps in STEPS:
            made = self.draw_images(model, [item.caption for item in items], replace(how, steps=steps))
            if self.judge is not None:
                rows[str(steps)] = self.judged(made, items, pixels)
            some = spread(len(items), SHOWN)
            found.shown.append(ShownPictures(f"{steps} steps", made[some], [items[i].caption for i in some]))
        found.extra["steps"] = rows

    def quick(self, model: Any, count: int = 64) -> tuple[dict[str, float], ShownPictures | None]:
        """One number on the seen side, while the model trains: `loss`, lower is better; and pictures of generators."""
        small = replace(self, count=count)
        if self.spec.name in ("dall-e", "diffusion"):
            items = self.material.some(count)
            made = self.draw_images(model, [item.caption for item in items])
            some = spread(len(items), SHOWN)
            right = float("nan") if self.judge is None else share(self.judge[0].right(made, items))
            shown = ShownPictures("", made[some], [items[i].caption for i in some])
            return {"loss": 1 - right, "right": right}, shown
        found = small(model)
        name = next(iter(found.scores["seen"]))
        value = found.scores["seen"][name]
        return {"loss": value if self.spec.name == "vq-vae" else 1 - value, "right": value}, None


SCENE = {scene.caption: scene for scene in scenes.all_scenes()}


def default_sampler(spec: Any) -> SamplerSpec:
    """DDIM, or flow matching for a model of the flow, in few steps: with guidance more of them put objects twice."""
    name = "flow" if spec.predicts == "flow" else "ddim"
    made: SamplerSpec = make_method("sampler", {"name": name, "steps": DRAWN_IN})
    return made


@torch.no_grad()
def vectors(encode: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """Unit vectors of images or texts, in parts."""
    return torch.cat([encode(part) for part in rows.split(BATCH)]).cpu()


def own_side(scores: Tensor, right: Tensor, captions: Sequence[str], every: Sequence[str]) -> dict[str, float]:
    """Recall of a right caption among those of its own side alone; scores and right (B, captions)."""
    there = torch.tensor([every.index(caption) for caption in dict.fromkeys(captions)])
    best = there[scores[:, there].topk(min(10, len(there))).indices]
    hit = right.gather(1, best)
    return {
        "R@1, of its side": share(hit[:, 0]), "R@10, of its side": share(hit.any(1)),
        "captions of its side": float(len(there)),
    }  # fmt: skip


def share(right: Tensor) -> float:
    return float(right.double().mean())


def mean(values: Any) -> float:
    found = [float(v) for v in values]
    return float(np.mean(found))


def spread(total: int, count: int) -> list[int]:
    """`count` numbers below `total`, evenly apart."""
    return [i * total // count for i in range(count)] if total > count else list(range(total))


def mark(found: str, expected: str, *, right: bool) -> str:
    """What was found, and where it is wrong, what was expected."""
    return found if right else f"{found or '(nothing)'} (is: {expected})"
