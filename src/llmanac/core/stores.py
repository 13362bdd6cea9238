"""Folders in object stores (`s3://bucket/place` and what else fsspec knows) as folders of this machine.

    STORE/llmanac-manifest.json       {"files": {name: [bytes, sha256]}}, written last
    STORE/files/SHA256/name   content under its hash

A folder that was pushed is what its manifest names: an upload that is killed leaves the manifest of before and all that
it names. What no manifest names any more is removed after the next one is written. One process at a time writes to a
place. Without a manifest a place is a folder of plain objects, such as a corpus.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from llmanac.core import files
from llmanac.core.errors import LlmanacError

# a letter alone is a drive of Windows; Path makes one slash of two
STORE = re.compile(r"(?!(?:https?|file):)([a-z][a-z0-9+.-]+):/{1,2}(?=[^/])", re.IGNORECASE)
MANIFEST = "llmanac-manifest.json"
Where = TypeVar("Where", Path, Path | None)
EVERY = 60.0  # seconds from one push of a folder that is written to the next
WHOLE = (".safetensors", ".gguf", ".distcp")  # large files that nobody writes to once they have their name
MOST = 64 << 20  # bytes of a manifest


class _Store:
    """A place: where the objects are, and the folder of this machine that is like it."""

    def __init__(self, path: str | Path) -> None:
        self.url = STORE.sub(r"\1://", str(path), count=1).rstrip("/")
        digest = hashlib.sha256(self.url.encode()).hexdigest()[:16]
        self.folder = files.cache_folder() / "stores" / digest / self.url.rpartition("/")[2]
        with self.refusing():
            from fsspec.core import url_to_fs

            self.system, self.root = url_to_fs(self.url)
            self.system.invalidate_cache()

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """Whatever the store's library raises is a sentence that names the place."""
        try:
            yield
        except LlmanacError:
            raise
        except ImportError as error:
            raise LlmanacError(f"{self.url}: {error}; pip install 'llmanac[stores]'") from None
        except Exception as error:
            raise LlmanacError(f"{self.url}: {type(error).__name__}: {str(error)[:300]}") from None

    def manifest(self) -> dict[str, list[Any]] | None:
        """Size and hash of each file by name; None where nothing was pushed."""
        place = f"{self.root}/{MANIFEST}"
        with self.refusing():
            if not self.system.exists(place):
                return None
            data = self.system.cat_file(place) if self.system.size(place) <= MOST else b""
        with contextlib.suppress(ValueError, TypeError, AttributeError, LookupError):
            found = {str(name): [int(one[0]), str(one[1])] for name, one in json.loads(data)["files"].items()}
            if not any(map(_leads_out, found)):
                return found
        raise LlmanacError(f"{self.url}/{MANIFEST}: is no manifest of a folder; name another place")

    def object(self, name: str, digest: str) -> str:
        return f"{self.root}/files/{digest}/{name.rpartition('/')[2]}"

    def fetch(self, source: str, target: Path, digest: str | None = None) -> None:
        with files.atomic_file(target, durable=False) as file, self.refusing(), self.system.open(source, "rb") as given:
            total = hashlib.sha256()
            while block := given.read(files.PIECE):
                total.update(block)
                file.write(block)
            if digest is not None and total.hexdigest() != digest:
                raise LlmanacError(f"{self.url}: {source} is not what the manifest names; push the folder again")


def pull(path: str | Path) -> Path:
    """The folder of this machine (or file, where the path is one object) that is like the place.

    What is there already and is the same is not fetched again; what the place does not have is removed.

    Raises:
        LlmanacError: the library is not installed, the store refuses, or an object is not what its manifest names.
    """
    store = _Store(path)
    named = store.manifest()
    known = store.folder.with_name("objects.json")
    before = files.read_json(known) if named is None and known.is_file() else {}
    if named is None:
        with store.refusing():
            found = store.system.find(store.root, detail=True)
        mark = {place: str(one.get("ETag") or one.get("mtime") or one.get("created")) for place, one in found.items()}
        names = {place: place[len(store.root) :].lstrip("/") for place in found}
        if not found:
            raise LlmanacError(f"{store.url}: nothing is there")
        if out := next((place for place, name in names.items() if _leads_out(name)), None):
            raise LlmanacError(f"{store.url}: {out} has a name that leads out of a folder; rename it")
        wanted = {store.folder / name if name else store.folder: (place, None) for place, name in names.items()}
        same = {target for target, (place, _) in wanted.items() if before.get(place) == mark[place]}
    else:
        mark = {}
        wanted = {store.folder / name: (store.object(name, digest), digest) for name, (_, digest) in named.items()}
        same = {store.folder / name for name, one in named.items() if _seen(store.folder / name) == one}
    if store.folder.is_dir():
        for old in [place for place in store.folder.rglob("*") if place.is_file() and place not in wanted]:
            old.unlink()
    elif store.folder not in wanted:
        store.folder.mkdir(parents=True, exist_ok=True)
    for target, (source, digest) in wanted.items():
        if target not in same or not target.is_file():
            store.fetch(source, target, digest)
    if named is None:
        files.write_json(known, mark)
    return store.folder


def push(folder: Path, path: str | Path) -> None:
    """Make the place like a folder: content first, then the manifest, which alone counts. Raises LlmanacError."""
    store = _Store(path)
    before = store.manifest() or {}
    with tempfile.TemporaryDirectory(prefix="llmanac-") as kept:
        named = {name: (place, _seen(place)) for name, place in _snapshot(folder, Path(kept))}
        manifest = {name: one for name, (_, one) in named.items() if one is not None}
        if manifest == before:
            return
        there = {store.object(name, digest) for name, (_, digest) in before.items()}
        with store.refusing():
            for name, (place, one) in named.items():
                if one is not None and (target := store.object(name, one[1])) not in there:
                    store.system.put_file(str(place), target)
            data = json.dumps({"files": manifest}, indent=1).encode()
            store.system.pipe_file(f"{store.root}/{MANIFEST}", data)
            needed = {store.object(name, digest) for name, (_, digest) in manifest.items()}
            for place in store.system.find(f"{store.root}/files"):
                if place not in needed:
                    store.system.rm_file(place)


def _leads_out(name: str) -> bool:
    return Path(name).is_absolute() or ".." in Path(name).parts


def _seen(place: Path) -> list[Any] | None:
    return [place.stat().st_size, files.file_sha256(place)] if place.is_file() else None


def _snapshot(folder: Path, target: Path) -> Iterator[tuple[str, Path]]:
    """The files of a folder at one moment, nearly: weights, which are only replaced, by links, others as copies.

    Checkpoints first, then what is written after them, as a process that is killed would leave it.
    """
    for place in sorted(folder.rglob("*"), key=lambda one: ("checkpoints" not in one.parts, one)):
        name = place.relative_to(folder)
        if any(part.startswith(files.TEMPORARY) or part.endswith(".lock") for part in name.parts):
            continue
        with contextlib.suppress(FileNotFoundError):
            if place.is_file():
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                try:
                    if place.suffix not in WHOLE:
                        raise OSError
                    os.link(place, target / name)
                except OSError:  # it may grow, or the disk has no links
                    shutil.copyfile(place, target / name)
                yield name.as_posix(), target / name


@contextlib.contextmanager
def kept(path: Where) -> Iterator[Where]:
    """A folder for a command to write: of a store the folder like it, pushed every minute and at the end.

    Raises:
        LlmanacError: as `pull`, and a last push that the store refuses.
    """
    if path is None or not STORE.match(str(path)):
        yield path
        return
    store, over = _Store(path), threading.Event()
    folder = store.folder
    if store.manifest() is not None:
        pull(path)
    else:
        shutil.rmtree(folder, ignore_errors=True)

    def pushing() -> None:
        while not over.wait(EVERY):
            try:
                push(folder, path)
            except LlmanacError as error:
                print(f"note: {error}; the folder is pushed again later", file=sys.stderr)

    thread = threading.Thread(target=pushing, daemon=True)
    thread.start()
    try:
        yield folder
    finally:
        over.set()
        thread.join()
        if folder.is_dir():
            push(folder, path)
