"""Emoji as captioned pictures, from the archive of the npm package `emoji-datasource-google` (or `-twitter`).

    archive.tgz: package/emoji.json, package/img/google/64/1f600.png, ...
    folder/      captions.csv (image, text, category, license), images/1f600.png, ..., SOURCE.md

The archive is a file that the user has: nothing is fetched. Only members of exactly these names are read, and no name
of the archive is written: images are called by their code points. Skin tones and the parts of other emoji are left
out. A text is the name in small letters and what the group is: `woman firefighter, person role`.
"""

import csv
import gzip
import io
import json
import re
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmanac.core import files
from llmanac.core.errors import DataError
from llmanac.core.outputs import check_own_folder
from llmanac.core.progress import progress
from llmanac.data.pictures.preprocess import open_image
from llmanac.data.quarantine import Bounds, Problems
from llmanac.data.unpack import check_expansion

LICENSES = {"google": "Apache-2.0", "twitter": "CC-BY-4.0"}
WRITTEN = ("captions.csv", "images", "SOURCE.md")
MEMBER = re.compile(r"package/img/([a-z]{1,20})/64/([0-9a-f]{2,6}(?:-[0-9a-f]{2,6}){0,15}\.png)")
TABLE = "package/emoji.json"
MOST_TABLE, MOST_IMAGE, MOST_PIXELS, MOST_MEMBERS = 16 << 20, 1 << 20, 1 << 20, 100_000
BOUNDS = Bounds(ratio=50.0, expanded=256 << 20, ratio_advice="it is no archive of emoji",
                expanded_advice="it is no archive of emoji")  # fmt: skip
NAME = re.compile(r"[^\x00-\x1f]{1,200}")


class _Limited(io.RawIOBase):
    """The bytes of a gzip file, as far as they may go."""

    def __init__(self, path: Path, handle: Any) -> None:
        self.path, self.handle, self.size, self.out = path, handle, path.stat().st_size, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        block = self.handle.read(len(buffer))
        self.out += len(block)
        check_expansion(self.path, self.out, self.size, Problems(bounds=BOUNDS))
        buffer[: len(block)] = block
        return len(block)


def write_emoji(archive: str | Path, folder: str | Path) -> dict[str, Any]:
    """Write the captioned folder; returns `pictures`, `license` and `set`, what the archive calls its images.

    Raises:
        DataError: a file that is no such archive, or too large; SpecError: a folder that holds something else.
    """
    path, place = Path(archive), Path(folder)
    if not path.is_file():
        raise DataError(f"{archive}: no such file; get it with `npm pack emoji-datasource-google` and give the .tgz")
    check_own_folder(place, "--output", WRITTEN, [path], what="a folder of emoji")
    table, images, kind = _read(path)
    if kind not in LICENSES:
        raise DataError(
            f"{path}: the images of the set {kind!r} have no license that lets you use them; there are "
            f"{', '.join(f'emoji-datasource-{name}' for name in LICENSES)}"
        )
    rows = [row for row in map(_row, table) if row is not None and row[0] in images]
    if not rows:
        raise DataError(f"{path}: no emoji of {TABLE} has an image in package/img/{kind}/64")
    with files.atomic_folder(place) as made, progress("write emoji", len(rows), "pictures") as bar:
        (made / "images").mkdir()
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["image", "text", "category", "license"])
        for name, text, category in rows:
            open_image(images[name], f"{path}: {name}", formats=("PNG",), pixels=MOST_PIXELS)
            (made / "images" / name).write_bytes(images[name])
            writer.writerow([f"images/{name}", text, category, LICENSES[kind]])
            bar.advance()
        (made / "captions.csv").write_text(out.getvalue(), "utf-8")
        (made / "SOURCE.md").write_text(_source(path, kind), "utf-8")
    return {"pictures": len(rows), "license": LICENSES[kind], "set": kind}


def _read(path: Path) -> tuple[list[Any], dict[str, bytes], str]:
    """The table, the images by name, and the name of the set."""
    table, images, kinds, count = None, {}, set(), 0
    try:
        with gzip.open(path) as packed, tarfile.open(fileobj=_Limited(path, packed), mode="r|") as members:
            for member in members:
                count += 1
                if count > MOST_MEMBERS:
                    raise DataError(f"{path}: more than {MOST_MEMBERS:,} files; it is no archive of emoji")
                found = MEMBER.fullmatch(member.name)
                if not member.isreg() or (member.name != TABLE and found is None):
                    continue
                most = MOST_TABLE if found is None else MOST_IMAGE
                if member.size > most:
                    raise DataError(f"{path}: {member.name[:80]} has {member.size:,} bytes; at most {most:,} are read")
                opened = members.extractfile(member)
                assert opened is not None
                data = opened.read(most)
                if found is None:
                    table = _parsed(data, path)
                else:
                    kinds.add(found[1])
                    images[found[2]] = data
    except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: not an archive that can be read ({str(error)[:120]}); give the .tgz") from error
    if table is None or len(kinds) != 1:
        raise DataError(
            f"{path}: expected {TABLE} and the images of one set in package/img/SET/64, found "
            f"{'a table' if table is not None else 'no table'} and {len(kinds)} sets; is it emoji-datasource-google?"
        )
    return table, images, kinds.pop()


def _parsed(data: bytes, path: Path) -> list[Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: {TABLE} is not JSON ({str(error)[:100]})") from None
    if not isinstance(found, list):
        raise DataError(f"{path}: {TABLE} is {type(found).__name__}, expected a list of emoji")
    return found


def _row(emoji: Any) -> tuple[str, str, str] | None:
    """(image, text, category) of an entry; None for a part of other emoji, or one that lacks something."""
    read: Callable[[str], Any] = emoji.get if isinstance(emoji, dict) else lambda key: None
    values = [read(key) for key in ("image", "name", "category", "subcategory")]
    if not all(isinstance(value, str) and NAME.fullmatch(value) for value in values) or values[2] == "Component":
        return None
    image, name, category, group = values
    return image, f"{name.lower()}, {group.replace('-', ' ')}", category


def _source(path: Path, kind: str) -> str:
    owner = {"google": "Noto Emoji, Google", "twitter": "Twemoji, Twitter and contributors"}[kind]
    return (
        f"# Emoji\n\nFrom `{path.name}` (the npm package emoji-datasource-{kind}). The images are {owner}, under "
        f"{LICENSES[kind]}, unchanged; names and groups are of the package's emoji.json, under MIT. Name both where "
        "you pass on the images or what was made from them.\n"
    )
