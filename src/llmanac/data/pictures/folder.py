"""A user's images with their texts: a table with the columns `image` and `text`, or a .txt file next to each image.

    pictures/cat.png + pictures/cat.txt        pictures/captions.csv: image,text
                                                                      cat.png,a cat on a chair

`image` is a path relative to the table, or in a Parquet file the bytes (also as `{"bytes": ...}`, as data sets of
Hugging Face have them). A picture has what a `scenes.Scene` has, `caption` and `draw`, so that all else takes either.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from llmanac.core import files
from llmanac.core.errors import DataError
from llmanac.core.progress import progress
from llmanac.data.pictures.preprocess import open_image, read_image
from llmanac.data.quarantine import Problems
from llmanac.data.readers import table_rows
from llmanac.data.unpack import TABLES, format_of

IMAGES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp")
MOST = 100_000  # pictures: they are held in memory, scaled
MOST_TEXT = 1 << 16  # bytes of a caption's file
IMAGE, TEXT = "image", "text"


@dataclass(frozen=True)
class Picture:
    """An image of (size, size, 3) uint8 and its caption; `where` is what messages call it.

    `draw` gives the image, moved by at most `moved` pixels, so that a small set is not learned by heart as quickly.
    """

    caption: str
    image: np.ndarray
    where: str
    moved: int = 0

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        """(size, size, 3) uint8."""
        if not self.moved:
            return self.image
        top, left = generator.integers(0, 2 * self.moved + 1, 2)
        wide = np.pad(self.image, ((self.moved, self.moved), (self.moved, self.moved), (0, 0)), "edge")
        return wide[top : top + len(self.image), left : left + len(self.image)]


def read_pictures(paths: Sequence[str | Path], size: int) -> list[Picture]:
    """The pictures of folders and tables, scaled to size x size pixels, in the order of their names.

    A folder with tables is read through them; without one, each image needs a .txt of its name.

    Raises:
        DataError: what is missing or cannot be read, by file and line; no picture, or more than `MOST`.
    """
    found: list[Picture] = []
    with progress("read pictures", None, "pictures") as bar:
        for path in map(Path, paths):
            for picture in _of(path, size):
                if len(found) == MOST:
                    raise DataError(f"{path}: more than {MOST:,} pictures; give a part of them")
                found.append(picture)
                bar.advance()
    if not found:
        raise DataError(
            f"{', '.join(map(str, paths))}: no pictures; give {', '.join(IMAGES)} files with a .txt of the same name, "
            "or a table with the columns image and text"
        )
    return found


def _of(path: Path, size: int) -> Iterator[Picture]:
    if path.is_file():
        yield from _table(path, size)
        return
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder")
    there = sorted(p for p in path.rglob("*") if p.is_file())
    tables = [p for p in there if format_of(p) in TABLES]
    for table in tables:
        yield from _table(table, size)
    for image in (p for p in there if not tables and p.suffix.lower() in IMAGES):
        text = image.with_suffix(".txt")
        if not text.is_file():
            raise DataError(
                f"{image}: has no {text.name} next to it with its text; write one, or a table of all images"
            )
        caption = files.read_text(text, most=MOST_TEXT).strip()
        yield _picture(caption, read_image(image), str(image), size)


def _table(path: Path, size: int) -> Iterator[Picture]:
    for row in table_rows(path, Problems(), columns=[IMAGE, TEXT]):
        where = f"{path}:{row.line}"
        values: Mapping[str, Any] = row.values
        for column in (IMAGE, TEXT):
            if column not in values:
                raise DataError(f"{where}: no column {column!r}; a table of pictures has `image` and `text`")
        image, text = values[IMAGE], values[TEXT]
        if isinstance(image, Mapping):
            image = image.get("bytes") or image.get("path")
        if not isinstance(text, str):
            raise DataError(f"{where}: text is {type(text).__name__}, expected a text")
        if isinstance(image, bytes):
            opened = open_image(image, where)
        elif isinstance(image, str) and image:
            try:
                opened = read_image(path.parent / image)
            except DataError as error:
                raise DataError(f"{where}: {error}") from None
        else:
            raise DataError(f"{where}: image is {type(image).__name__}, expected a path or the bytes of a file")
        yield _picture(text.strip(), opened, where, size)


def _picture(caption: str, image: Any, where: str, size: int) -> Picture:
    if not caption:
        raise DataError(f"{where}: the text of this picture is empty")
    scaled = image.resize((size, size), Image.Resampling.BICUBIC)
    return Picture(caption, np.asarray(scaled, np.uint8), where)
