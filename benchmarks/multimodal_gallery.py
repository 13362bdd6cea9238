"""A picture of what finished runs do, for the page on images and text.

    python benchmarks/multimodal_gallery.py -o docs/multimodal_gallery.png runs/llava runs/vq-vae runs/clip

Each run is a block: of a clip held-out pictures with the nearest caption, of a llava or flamingo what it writes of
held-out scenes, of a vq-vae originals over reconstructions, of a dalle or diffusion what it draws for captions. Which
pictures are shown is chosen by their number alone, never by how well they came out; a wrong text is marked.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from llmanac.core import files
from llmanac.core.errors import DataError
from llmanac.core.rng import numpy_generator
from llmanac.core.run_folder import RECIPE
from llmanac.core.spec import make
from llmanac.models.images.load import load_multimodal
from llmanac.recipes import multimodal as recipes
from llmanac.recipes import multimodal_data as data
from llmanac.recipes.multimodal_measures import Measure, vectors
from llmanac.recipes.multimodal_report import images_of
from llmanac.recipes.multimodal_use import PictureModel

SHOWN, SIDE, GAP, LINE = 6, 96, 14, 13  # pictures of a block; pixels
WIDTH = SHOWN * (SIDE + GAP) + GAP
LETTERS = (SIDE + GAP) // 6  # of a line below a picture
Row = tuple[np.ndarray, str]


def material_of(place: Path) -> tuple[Any, Any, data.PictureMaterial]:
    """The recipe of a run, its model and its pictures, as it read them."""
    if not (place / recipes.RESULTS).is_file():
        raise DataError(f"{place}: no finished run; llmanac run makes one")
    asked = make(recipes.MultimodalRecipe, files.read_toml(place / RECIPE), str(place))
    model = load_multimodal(place / recipes.MODEL, device="cpu")
    size = data.image_size(model.spec)
    return asked, model, data.load_material(asked.data, asked.tokenizer, size, asked.seed, place / "tokenizer")


def chosen(material: data.PictureMaterial) -> tuple[list[Any], torch.Tensor]:
    """Held-out items at equal distances, and their pixels."""
    items = list(material.held_out)
    some = [items[i * len(items) // SHOWN] for i in range(min(SHOWN, len(items)))]
    return some, material.pixels(some, numpy_generator(0, "gallery"))


@torch.no_grad()
def block(place: Path) -> tuple[str, list[list[Row]]]:
    """The title of a run's block and its rows of pictures with lines."""
    asked, model, material = material_of(place)
    items, pixels = chosen(material)
    shown, name = images_of(pixels), model.spec.name
    captions = [item.caption for item in items]
    if name == "clip":
        every = list(dict.fromkeys(item.caption for item in [*material.seen, *material.held_out]))
        texts = vectors(model.texts, material.captions(every))
        best = (vectors(model.images, pixels) @ texts.T).argmax(1).tolist()
        lines = [marked(every[b], caption) for b, caption in zip(best, captions, strict=True)]
        return f"CLIP: the nearest of {len(every):,} captions, pictures not trained on", [
            list(zip(shown, lines, strict=True))
        ]
    if name in data.DESCRIBES:
        said = PictureModel(place, device="cpu").captions([Image.fromarray(image) for image in shown])
        lines = [marked(text, caption) for text, caption in zip(said, captions, strict=True)]
        title = "LLaVA" if name == "vlm" else "Flamingo"
        return f"{title}: what it writes of pairs of color and shape not trained on", [
            list(zip(shown, lines, strict=True))
        ]
    if name == "vq-vae":
        again = images_of(model.decode(model.encode(pixels)).clamp(-1, 1))
        rows = [[(image, "") for image in shown], [(image, "") for image in again]]
        return f"VQ-VAE: above the image, below its {model.spec.side**2} codes decoded", rows
    if name in data.DRAWS:
        measure = Measure(material, model.spec, 0, None, asked.guidance, asked.sampler)
        drawn = images_of(measure.draw_images(model, captions))
        return f"{'DALL-E' if name == 'dall-e' else 'Diffusion'}: drawn for the caption", [
            list(zip(drawn, captions, strict=True))
        ]
    raise DataError(f"{place}: is a {name}, which has no block here")


def marked(said: str, right: str) -> str:
    """A text, with a mark where it is not the right one."""
    return said if said == right else f"x {said}"


def wrapped(text: str) -> list[str]:
    lines = [""]
    for word in text.split():
        lines = [*lines[:-1], f"{lines[-1]} {word}".strip()] if len(lines[-1]) + len(word) < LETTERS else [*lines, word]
    return lines[:4]


def drawn(blocks: Sequence[tuple[str, list[list[Row]]]]) -> Image.Image:
    """All blocks below each other."""
    heights = [
        2 * LINE + sum(SIDE + GAP + LINE * max(len(wrapped(t)) for _, t in row) for row in rows) for _, rows in blocks
    ]
    canvas = Image.new("RGB", (WIDTH, sum(heights) + GAP), "white")
    pen, top = ImageDraw.Draw(canvas), GAP
    for (title, rows), height in zip(blocks, heights, strict=True):
        pen.text((GAP, top), title, fill="black")
        y = top + LINE + 6
        for row in rows:
            for number, (image, text) in enumerate(row):
                x = GAP + number * (SIDE + GAP)
                canvas.paste(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.NEAREST), (x, y))
                for at, line in enumerate(wrapped(text)):
                    color = (170, 20, 20) if text.startswith("x ") else (60, 60, 60)
                    pen.text((x, y + SIDE + 2 + at * LINE), line, fill=color)
            y += SIDE + GAP + LINE * max(len(wrapped(text)) for _, text in row) - LINE * (not any(t for _, t in row))
        top += height
    return canvas.quantize(128)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/multimodal_gallery.png"))
    given = parser.parse_args()
    drawn([block(place) for place in given.runs]).save(given.output, optimize=True)
    print(f"{given.output}: {given.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
