"""Small models of images with large random weights, as the engine runs them, and files of images."""

from __future__ import annotations

import io
from typing import Any

from _small_models import randomise
from PIL import Image

from llmanac.core.rng import numpy_generator
from llmanac.core.spec import make_method
from llmanac.data.pictures import scenes
from llmanac.data.pictures.preprocess import Preprocess
from llmanac.generate.images import Seeing
from llmanac.recipes.multimodal import WORDS
from llmanac.recipes.multimodal_data import PictureData, fitted, load_material, vocabulary

VISION = {"name": "vit", "image": 32, "patch": 16, "dim": 16, "layers": 1, "pool": "mean"}
TEXT = {"name": "transformer", "dim": 32, "layers": 2}
ASK = "what color is it"


def seeing(place: Any, name: str = "vlm", **choices: Any) -> Seeing:
    """A `vlm` or `flamingo` over the words of scenes; its texts differ from image to image."""
    material = load_material(PictureData(), make_method("tokenizer", WORDS), 32, 0, place)
    fields = {"vision": VISION, "text": TEXT, **choices}
    if name == "flamingo":
        fields |= {"latents": 3, "head_dim": 8}
    spec = fitted(make_method("multimodal", {"name": name, **fields}), material)
    model = randomise(spec.build(vocab_size=vocabulary(spec, material)), std=0.3).double().eval()
    return Seeing(model, material.tokenizer, Preprocess(size=32))


def picture(number: int = 0) -> Image.Image:
    """The drawing of a scene."""
    return Image.fromarray(scenes.all_scenes()[(97 * number) % 384].draw(numpy_generator(number)))


def encoded(image: Image.Image, kind: str = "PNG", **choices: Any) -> bytes:
    """The bytes of an image's file."""
    out = io.BytesIO()
    image.save(out, kind, **choices)
    return out.getvalue()
