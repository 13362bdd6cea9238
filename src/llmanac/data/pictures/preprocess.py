"""Image files as a model reads them: size, cut, scale and normalization of each family's processor.

    bytes -> RGB -> resize (Pillow's filter) -> centre crop -> x / 255 -> (x - mean) / std         (3, H, W) float32

Images are untrusted: the number of bytes and of pixels is bounded before anything is decoded.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from llmanac.core import files
from llmanac.core.errors import DataError
from llmanac.core.files import open_regular

MOST_BYTES = 20 << 20
MOST_PIXELS = 40_000_000
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP")
HALF = (0.5, 0.5, 0.5)
CONFIG = "preprocessor_config.json"


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

    def save(self, folder: str | Path) -> None:
        """Write `preprocessor_config.json`, as transformers' processors read it."""
        square = {"height": self.size, "width": self.size}
        files.write_json(Path(folder) / CONFIG, {
            "image_processor_type": "CLIPImageProcessor", "do_resize": True, "do_rescale": True, "do_normalize": True,
            "size": square if self.resize == "square" else {"shortest_edge": self.size},
            "do_center_crop": self.resize == "shortest", "crop_size": square,
            "resample": {"bilinear": 2, "bicubic": 3}[self.filter],
            "image_mean": list(self.mean), "image_std": list(self.std),
        })  # fmt: skip


CLIP = Preprocess(resize="shortest", mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711))
VIT = Preprocess(filter="bilinear")
SIGLIP = Preprocess(filter="bicubic")


def load_preprocess(folder: str | Path, size: int) -> Preprocess:
    """What `preprocessor_config.json` of a model's folder says, for images of `size` pixels.

    Raises:
        DataError: no such file, or one that asks for another size or what this module does not do.
    """
    path = Path(folder) / CONFIG
    table = files.read_table(path)
    table = table.get("image_processor", table)
    whole = table.get("crop_size") if table.get("do_center_crop") else table.get("size", size)
    side = whole.get("height", whole.get("shortest_edge")) if isinstance(whole, dict) else whole
    if side != size:
        raise DataError(f"{path}: images of {side} pixels, and the model reads {size}")
    filters: dict[int, Any] = {2: "bilinear", 3: "bicubic"}
    if table.get("resample", 3) not in filters:
        raise DataError(f"{path}: resample is {table['resample']}; 2 (bilinear) and 3 (bicubic) are known")
    mean, std = (table.get(name, HALF) for name in ("image_mean", "image_std"))
    for name, values in (("image_mean", mean), ("image_std", std)):
        if (
            len(values) != 3
            or not all(isinstance(v, (int, float)) for v in values)
            or (name == "image_std" and 0 in values)
        ):
            raise DataError(f"{path}: {name} is {values}, expected three numbers")
    return Preprocess(
        size=size, resize="shortest" if table.get("do_center_crop") else "square",
        filter=filters[table.get("resample", 3)], mean=tuple(mean), std=tuple(std),
    )  # fmt: skip


def open_image(data: bytes, where: str, *, formats: Sequence[str] = FORMATS, pixels: int | None = None) -> Image.Image:
    """Bytes of an image file -> an RGB Pillow image, as people see it: turned as its camera says, on white where it is
    transparent, of an animation the first image.

    Args:
        formats: that are read, of `FORMATS`; pixels: that it may have, `MOST_PIXELS` by default.

    Raises:
        DataError: too many bytes or pixels, another format, or a damaged file; the message says which and where.
    """
    if len(data) > MOST_BYTES:
        raise DataError(f"{where}: {len(data):,} bytes; an image may have {MOST_BYTES:,}")
    pixels = MOST_PIXELS if pixels is None else pixels
    try:
        _check_size(_webp_size(data), pixels, where)  # Pillow takes the memory of a WebP when it opens it
        image = Image.open(io.BytesIO(data), formats=list(formats))
        _check_size(image.size, pixels, where)
        image.load()
        return _on_white(ImageOps.exif_transpose(image))
    except DataError:
        raise
    except Exception as error:  # Pillow raises many kinds for damaged files
        said = "cannot identify it" if isinstance(error, UnidentifiedImageError) else str(error)[:120]
        raise DataError(f"{where}: not an image that can be read ({type(error).__name__}: {said})") from error


def _check_size(size: tuple[int, int], most: int, where: str) -> None:
    if size[0] * size[1] > most:
        raise DataError(f"{where}: {size[0]:,} x {size[1]:,} pixels; at most {most:,} are read")


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height that the header of a WebP file states; (0, 0) for other files."""
    kind, head = data[12:16], data[20:30]
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(head) < 10:
        return 0, 0
    if kind == b"VP8X":
        return 1 + int.from_bytes(head[4:7], "little"), 1 + int.from_bytes(head[7:10], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(head[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(head[6:8], "little") & 0x3FFF, int.from_bytes(head[8:10], "little") & 0x3FFF


def _on_white(image: Image.Image) -> Image.Image:
    """RGB of any mode: 16 bits become 8, and what is transparent lies on white."""
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64)
        image = Image.fromarray((np.clip(grey, 0, 65535) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def read_image(path: str | Path) -> Any:
    """The image of a file; see `open_image`."""
    with open_regular(Path(path), DataError) as handle:
        data = handle.read(MOST_BYTES + 1)
    return open_image(data, str(path))
