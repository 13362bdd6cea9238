"""How near your pictures are to your texts for a CLIP: the cosine of each pair, and over each row what zero-shot
classification makes of it, softmax(s cos). Without pictures of yours, scenes are drawn that the texts describe.

The model is the run of `llmanac run clip` where `runs/clip` holds one, else a small one that is trained here for some
seconds on drawn scenes: it knows their words, colors and shapes, and nothing of photographs."""

import base64
import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from markupsafe import Markup
from PIL import Image

from llmanac.core.errors import SpecError
from llmanac.core.rng import numpy_generator
from llmanac.core.spec import make_method
from llmanac.data.pictures import PictureStream, scenes
from llmanac.data.pictures.preprocess import Preprocess, open_image
from llmanac.guide.demos import Field, _html, in_time
from llmanac.recipes import multimodal_data as data
from llmanac.recipes.multimodal import WORDS
from llmanac.recipes.multimodal_report import png
from llmanac.recipes.multimodal_use import PictureModel

CARD = {"title": "Similarity of pictures and texts", "kinds": [], "rows": ["multimodal/clip"]}
RUN = Path("runs/clip")
MOST_PIXELS, SHOWN = 4_000_000, 64  # of one picture; pixels a side of what is shown
MOST_TEXTS, STEPS, ROWS = 8, 120, 48
TEXTS = (
    "a large red circle in the top left\na small blue square in the bottom right\n"
    "a large green triangle in the top right\na small yellow ring in the bottom left"
)
FIELDS = (
    Field("texts", "Texts, one a line", TEXTS, most=800, area=True),
    Field("pictures", "Pictures (PNG, JPEG, GIF, WebP)", "", most=400_000, files=6),
)


class Small(PictureModel):
    """A CLIP of drawn scenes that is trained here."""

    def __init__(self) -> None:
        vision = {"name": "vit", "image": scenes.SIDE, "patch": 16, "dim": 64, "layers": 1, "pool": "mean"}
        text = {"name": "transformer", "dim": 64, "layers": 1, "position": "learned", "norm": "layernorm"}
        texts = [scene.caption for scene in scenes.all_scenes()]
        words = make_method("tokenizer", WORDS).train(texts)
        seen, held = scenes.split()
        material = data.PictureMaterial(
            seen, held, words, scenes.SIDE, 2 + max(len(words.encode(t)) for t in texts), True
        )
        spec = make_method("multimodal", {"name": "clip", "dim": 32, "vision": vision, "text": text})
        self.spec = data.fitted(spec, material)
        self.model = self.spec.build(vocab_size=words.vocab_size).initialise(0)
        self.tokenizer, self.size, self.place = words, scenes.SIDE, Path("the demo's model")
        stream = PictureStream(data.Draw(material, self.spec), rows=ROWS, seed=0, name="demo")
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=4e-3)
        for _ in range(STEPS):
            total, count, _ = self.model.loss(next(stream))
            optimizer.zero_grad()
            (total / count).backward()
            optimizer.step()
        self.model.eval()

    def pixels(self, images: Any) -> torch.Tensor:
        return Preprocess(size=self.size)(list(images))


@functools.cache
def model() -> tuple[PictureModel, str]:
    """The model, and what it is."""
    if (RUN / "results.json").is_file():
        return PictureModel(RUN, device="cpu"), f"the run in {RUN}"
    with torch.enable_grad():
        return Small(), f"a CLIP trained here for {STEPS} steps on drawn scenes"


def run(values: dict[str, Any], models: Any, until: float) -> list[Markup]:
    """A table of pictures over texts."""
    texts = list(dict.fromkeys(" ".join(line.split()) for line in values["texts"].splitlines() if line.strip()))
    if not 2 <= len(texts) <= MOST_TEXTS:
        raise SpecError(f"Texts: {len(texts)} of them; give 2 to {MOST_TEXTS}, one a line")
    images = [
        open_image(given, f"picture {number}", pixels=MOST_PIXELS) for number, given in enumerate(values["pictures"], 1)
    ]
    given = bool(images)
    if not given:
        known = {scene.caption: scene for scene in scenes.all_scenes()}
        drawn = [known[text] for text in texts if text in known] or scenes.all_scenes()[:4]
        images = [Image.fromarray(scene.draw(numpy_generator(1, scene.caption))) for scene in drawn]
    found, name = model()
    in_time(until)
    with torch.no_grad():
        cosine = similar(found, images, texts)
        shares = found.classify(images, texts)
    rows = []
    for number, image in enumerate(images):
        cells = [f"{c:.2f} ({100 * p:.0f}%)" for c, p in zip(cosine[number].tolist(), shares[number], strict=True)]
        rows.append((thumbnail(image, f"picture {number + 1}"), *cells))
    said = Markup("<p>{}. The cosine, and in brackets the probability that it gives the text.{}</p>")
    own = "" if given else " The pictures are drawn from the texts; send your own above."
    return [said.format(name[0].upper() + name[1:], own), _html.table("", ("picture", *texts), rows)]


def similar(found: PictureModel, images: list[Any], texts: list[str]) -> torch.Tensor:
    """(images, texts) cosines."""
    clip = found.model
    read: torch.Tensor = clip.texts(found.rows(texts, clip.text.spec.max_length))
    seen: torch.Tensor = clip.images(found.pixels(images))
    return seen @ read.T


def thumbnail(image: Any, title: str) -> Markup:
    """A small copy of the image inside the page."""
    small = image.copy()
    small.thumbnail((SHOWN, SHOWN))
    encoded = base64.b64encode(png(np.asarray(small, np.uint8))).decode()
    return Markup('<img src="data:image/png;base64,{}" width="{}" height="{}" alt="{}">').format(
        encoded, *small.size, title
    )
