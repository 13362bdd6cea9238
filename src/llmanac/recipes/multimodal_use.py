"""A trained model of images in use: its texts, its pixels, and captions, labels and drawings from files."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llmanac.core import files
from llmanac.core.errors import RequestError, SpecError
from llmanac.core.rng import torch_generator
from llmanac.data.pictures.preprocess import load_preprocess, read_image
from llmanac.generate.images import describe, known_ids
from llmanac.models.images.load import load_multimodal
from llmanac.recipes.multimodal_data import DESCRIBES, DRAWS, IMAGE, image_size
from llmanac.recipes.multimodal_measures import default_sampler
from llmanac.recipes.multimodal_report import images_of, png
from llmanac.tokenizers.load import load_tokenizer

MOST_PIXELS = 1 << 24  # of a file that is written


class PictureModel:
    """A model with what its folder says of texts and pixels.

    Args:
        path: a run's folder, or one in Hugging Face's layout with tokenizer.json and preprocessor_config.json.

    Raises:
        CheckpointError: a folder that holds no model of images; TokenizerError, DataError: no tokenizer or processor.
    """

    def __init__(self, path: str | Path, device: str = "auto") -> None:
        place = Path(path)
        place = place / "model" if (place / "model").is_dir() else place
        self.place = place
        self.model = load_multimodal(place, device=device)
        self.spec: Any = self.model.spec
        self.tokenizer: Any = load_tokenizer(place)
        self.size = image_size(self.spec)

    def pixels(self, images: Sequence[Any]) -> torch.Tensor:
        """(B, 3, size, size) of files, or of Pillow images."""
        read = load_preprocess(self.place, self.size)
        opened = [read_image(one) if isinstance(one, (str, Path)) else one for one in images]
        return read(opened).to(self.model.device, self.model.dtype)

    def _check(self, names: Sequence[str], does: str) -> None:
        if self.spec.name not in names:
            raise SpecError(
                f"{self.place}: is a {self.spec.name}, which does not {does}; that is for {', '.join(names)}"
            )

    def captions(self, images: Sequence[Any], ask: str = "", most: int = 64) -> list[str]:
        """What the model writes of each image. `ask` with `<image>` in it is the prompt itself.

        Raises:
            SpecError: a model that writes no text; RequestError: a prompt that the model cannot read.
        """
        self._check(DESCRIBES, "write about an image")
        token = self.tokenizer
        if IMAGE in ask:
            ids = known_ids(token, ask, "--ask", special="all")
            ids = ids if token.bos_id is None or not token.adds_bos else [token.bos_id, *ids]
        else:
            image = [self.spec.image_id] if self.spec.name == "vlm" else []
            ids = [*image, *([] if token.bos_id is None else [token.bos_id]), *known_ids(token, ask, "--ask")]
        end = set() if token.eos_id is None else {token.eos_id}
        found = describe(self.model, self.pixels(images), ids, end=end, most=most)
        return [token.decode(row, skip_special=True).strip() for row in found]

    def rows(self, texts: Sequence[str], length: int) -> torch.Tensor:
        """(B, T) ids of texts with begin and end, padded. Raises RequestError for one that is too long or not known."""
        token, out = self.tokenizer, []
        for text in texts:
            ids = known_ids(token, text, "text")
            row = [i for i in (token.bos_id, *ids, token.eos_id) if i is not None]
            if len(row) > length:
                raise RequestError(f"{text!r}: {len(row)} tokens, and the model reads {length}")
            out.append(row)
        pad = token.pad_id if token.pad_id is not None else token.eos_id or 0
        longest = length if self.spec.name in ("dall-e", "clip") else max(map(len, out))
        return torch.tensor([row + [pad] * (longest - len(row)) for row in out], device=self.model.device)

    @torch.no_grad()
    def classify(self, images: Sequence[Any], texts: Sequence[str]) -> list[list[float]]:
        """(images, texts) probabilities: a softmax over the texts, or of a sigmoid loss each on its own."""
        self._check(("clip",), "compare images with texts")
        scores = self.model(self.pixels(images), self.rows(texts, self.model.text.spec.max_length))
        found: list[list[float]] = (scores.sigmoid() if self.spec.loss == "sigmoid" else scores.softmax(1)).tolist()
        return found

    def draw(
        self, prompt: str, output: Path, *, count: int, guidance: float, steps: int | None, scale: int, seed: int
    ) -> tuple[int, int]:  # fmt: skip
        """Write `count` images of a caption side by side; returns width and height in pixels."""
        self._check(DRAWS, "draw images")
        width, height = self.size * scale * count, self.size * scale
        if width * height > MOST_PIXELS:
            raise SpecError(f"--scale: {width} x {height} pixels; at most {MOST_PIXELS:,} are written")
        generator = torch_generator(seed, "draw")
        if self.spec.name == "dall-e":
            if steps is not None:
                raise SpecError("--steps: is for diffusion; a dall-e writes one token after the other")
            ids = self.rows([prompt] * count, self.model.text.spec.max_length - self.spec.image_tokens)
            made = self.model.images(self.model.generate(ids, guidance=guidance, generator=generator))
        else:
            ids = self.rows([prompt] * count, 1 << 20)
            special = torch.tensor(sorted(self.tokenizer.special_tokens.values()), device=ids.device)
            labels = ids.masked_fill(torch.isin(ids, special), -1)
            how = default_sampler(self.spec)
            sampler = how if steps is None else replace(how, steps=steps)
            made = self.model.generate(labels, sampler=sampler, guidance=guidance, generator=generator)
        row = np.concatenate(list(images_of(made)), 1)
        files.write_bytes(output, png(row.repeat(scale, 0).repeat(scale, 1)))
        return width, height
