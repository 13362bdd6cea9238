"""Image files as a model reads them: size, cut, scale and normalization of each family's processor.

    bytes -> RGB -> resize (Pillow's filter) -> centre crop -> x / 255 -> (x - mean) / std         (3, H, W) float32

Images are untrusted: the number of bytes and of pixels is bounded before anything is decoded.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from llmanac.core.errors import DataError
from llmanac.core.files import open_regular

MOST_BYTES = 20 << 20
MOST_PIXELS = 40_000_000
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP")
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Preprocess:
    """See the module. resize: `square` to (size, size), `shortest` side to `size`, then the middle of size x size."""

    size: int = 224
    resize: Literal["square", "shortest"] = "square"
    filter: Literal["bilinear", "bicubic"] = "bicubic"
    mean: tuple[float, float, float] = HALF
    std: tuple[float, float, float] = HALF

    def __call__(self, images: list[Any]) -> Tensor:
        """Pillow images or (H, W, 3) uint8 arrays -> (B, 3, size, size)."""
        kind = getattr(Image.Resampling, self.filter.upper())
        rows = []
        for image in images:
            image = image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image, np.uint8))
            image = image.convert("RGB")
            width, height = image.size
            if self.resize == "square":
                image = image.resize((self.size, self.size), kind)
            else:
                short, long = min(width, height), max(width, height)
                longer = int(self.size * long / short)
                image = image.resize((self.size, longer) if width <= height else (longer, self.size), kind)
            pixels = np.asarray(image, np.float32)
            top, left = ((n - self.size) // 2 for n in pixels.shape[:2])
            pixels = pixels[top : top + self.size, left : left + self.size] * np.float32(1 / 255)
            rows.append((pixels - np.array(self.mean, np.float32)) / np.array(self.std, np.float32))
        return torch.from_numpy(np.stack(rows).transpose(0, 3, 1, 2).copy())


CLIP = Preprocess(resize="shortest", mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711))
VIT = Preprocess(filter="bilinear")
SIGLIP = Preprocess(filter="bicubic")


def open_image(data: bytes, where: str) -> Any:
    """Bytes of a PNG, JPEG, GIF, WebP or BMP file -> an RGB Pillow image.

    Raises:
        DataError: too many bytes or pixels, another format, or a damaged file; the message says which and where.
    """
    if len(data) > MOST_BYTES:
        raise DataError(f"{where}: {len(data):,} bytes; an image may have {MOST_BYTES:,}")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > MOST_PIXELS:
            raise DataError(f"{where}: {image.width:,} x {image.height:,} pixels; at most {MOST_PIXELS:,} are read")
        return image.convert("RGB")
    except DataError:
        raise
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise DataError(
            f"{where}: not an image that can be read ({type(error).__name__}: {str(error)[:120]})"
        ) from error


def read_image(path: str | Path) -> Any:
    """The image of a file; see `open_image`."""
    with open_regular(Path(path), DataError) as handle:
        data = handle.read(MOST_BYTES + 1)
    return open_image(data, str(path))
