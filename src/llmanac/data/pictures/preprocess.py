"""Image files as a model reads them: size, cut, scale and normalization of each family's processor.

    bytes -> RGB -> resize (Pillow's filter) -> centre crop -> x / 255 -> (x - mean) / std         (3, H, W) float32

Images are untrusted: the number of bytes and of pixels and the sides are bounded before anything is decoded.
"""

import io
from collections.abc import Callable, Mapping, Sequence
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
MOST_SIDE = 16_384  # pixels: resizing takes memory by the longer side, however few pixels there are
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP")
HALF = (0.5, 0.5, 0.5)
CONFIG = "preprocessor_config.json"


FILTERS = {1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
DOES = {"do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb"}


@dataclass(frozen=True)
class Preprocess:
    """See the module.

    Attributes:
        size: pixels a side of what the model reads.
        resize: `square` to (edge, edge) or the `shortest` side to `edge`; then the middle of size x size.
        edge: pixels, `size` by default.
        scale, offset: of pixel values before normalization, x * scale + offset.
    """

    size: int = 224
    resize: Literal["square", "shortest"] = "square"
    filter: Literal["lanczos", "bilinear", "bicubic"] = "bicubic"
    mean: tuple[float, float, float] = HALF
    std: tuple[float, float, float] = HALF
    edge: int | None = None
    scale: float = 1 / 255
    offset: float = 0.0

    def __call__(self, images: list[Any]) -> Tensor:
        """Pillow images or (H, W, 3) uint8 arrays -> (B, 3, size, size).

        Raises:
            DataError: an image so narrow that its longer side would have more than `MOST_SIDE` pixels.
        """
        kind = getattr(Image.Resampling, self.filter.upper())
        edge = self.edge or self.size
        rows = []
        for image in images:
            image = image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image, np.uint8))
            image = image.convert("RGB")
            width, height = image.size
            if self.resize == "square":
                image = image.resize((edge, edge), kind)
            else:
                longer = int(edge * max(width, height) / min(width, height))
                if longer > MOST_SIDE:
                    raise DataError(
                        f"an image of {width:,} x {height:,} pixels: its shorter side is read as {edge}, which makes "
                        f"the longer one {longer:,}; at most {MOST_SIDE:,} are read, so cut it"
                    )
                image = image.resize((edge, longer) if width <= height else (longer, edge), kind)
            left, top = ((n - self.size) // 2 for n in image.size)
            image = image.crop((left, top, left + self.size, top + self.size))
            pixels = np.asarray(image, np.float32) * np.float32(self.scale)
            pixels += np.float32(self.offset)
            rows.append((pixels - np.array(self.mean, np.float32)) / np.array(self.std, np.float32))
        return torch.from_numpy(np.stack(rows).transpose(0, 3, 1, 2).copy())

    def save(self, folder: str | Path) -> None:
        """Write `preprocessor_config.json`, as transformers' processors read it."""
        square, edge = {"height": self.size, "width": self.size}, self.edge or self.size
        files.write_json(Path(folder) / CONFIG, {
            "image_processor_type": "CLIPImageProcessor", "do_resize": True, "do_rescale": True, "do_normalize": True,
            "size": {"height": edge, "width": edge} if self.resize == "square" else {"shortest_edge": edge},
            "do_center_crop": self.resize == "shortest" or edge != self.size, "crop_size": square,
            "resample": next(number for number, name in FILTERS.items() if name == self.filter),
            "rescale_factor": self.scale, "image_mean": [m - self.offset for m in self.mean],
            "image_std": list(self.std),
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

    def refused(name: str, expected: str) -> DataError:
        return DataError(f"{path}: {name} is {table.get(name)!r}; {expected}")

    for name, value in table.items():
        if name.startswith("do_") and bool(value) != (name in DOES) and name not in ("do_center_crop", "do_normalize"):
            raise refused(name, "this step is not known" if value else "images are always resized and scaled")
    if table.get("include_top"):
        raise refused("include_top", "a second normalization is not known")
    resize, edge = _resized(table, size, refused)
    crops = bool(table.get("do_center_crop"))
    side = _side(table.get("crop_size", edge)) if crops else edge
    if side != size:
        raise DataError(f"{path}: images of {side} pixels, and the model reads {size}")
    if resize == "shortest" and not crops:
        raise refused("size", "a shortest side without a crop gives images of many shapes, and the model reads squares")
    if edge < size:
        raise refused("size", f"smaller than the crop of {size} pixels")
    if table.get("resample", 3) not in FILTERS:
        raise refused("resample", "1 (lanczos), 2 (bilinear) and 3 (bicubic) are known")
    scale = table.get("rescale_factor", 1 / 255)
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0 < scale < 2:
        raise refused("rescale_factor", "expected a number above 0")
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if table.get("do_normalize", True):
        mean, std = (_three(table.get(name, HALF), name, refused) for name in ("image_mean", "image_std"))
    kind: Any = FILTERS[table.get("resample", 3)]
    return Preprocess(
        size=size, resize=resize, filter=kind, mean=mean, std=std, edge=None if edge == size else edge,
        scale=scale, offset=-1.0 if table.get("rescale_offset") else 0.0,
    )  # fmt: skip


def _resized(
    table: Mapping[str, Any], size: int, refused: Callable[[str, str], DataError]
) -> tuple[Literal["square", "shortest"], int]:
    """How images are resized, and to how many pixels. An integer is the shortest side where a crop follows."""
    name = "size" if "size" in table else "image_size"  # Idefics has image_size
    asked = table.get(name, size)
    side = _side(asked)
    if side is None:
        raise refused(name, "expected pixels, {height, width} of a square, or {shortest_edge}")
    shortest = "shortest_edge" in asked if isinstance(asked, Mapping) else bool(table.get("do_center_crop"))
    return ("shortest" if shortest else "square"), side


def _side(asked: Any) -> int | None:
    """Pixels a side of a size in a processor's file; None for another form."""
    if isinstance(asked, Mapping):
        values = {asked[name] for name in ("height", "width", "shortest_edge") if name in asked}
        if len(values) != 1 or asked.keys() - {"height", "width", "shortest_edge"}:
            return None
        (asked,) = values
    return asked if isinstance(asked, int) and not isinstance(asked, bool) and asked > 0 else None


def _three(values: Any, name: str, refused: Callable[[str, str], DataError]) -> tuple[float, float, float]:
    numbers = isinstance(values, Sequence) and len(values) == 3 and all(isinstance(v, (int, float)) for v in values)
    if not numbers or (name == "image_std" and 0 in values):
        raise refused(name, "expected three numbers")
    return values[0], values[1], values[2]


def open_image(data: bytes, where: str, *, formats: Sequence[str] = FORMATS, pixels: int | None = None) -> Image.Image:
    """Bytes of an image file -> an RGB Pillow image, as people see it: turned as its camera says, on white where it is
    transparent, of an animation the first image.

    Args:
        formats: that are read, of `FORMATS`; pixels: that it may have, `MOST_PIXELS` by default.

    Raises:
        DataError: too many bytes or pixels, a side above `MOST_SIDE`, another format, or a damaged file; the message
            says which and where.
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
    if max(size) > MOST_SIDE:
        raise DataError(f"{where}: {size[0]:,} x {size[1]:,} pixels; a side of at most {MOST_SIDE:,} is read")


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
