"""The pages and texts that benchmarks share with studies."""

from __future__ import annotations

import functools
import gzip
import json
import os
import random
import sysconfig
from importlib import metadata
from pathlib import Path
from typing import Any

from llmanac.core.errors import DataError

ROOT = Path(__file__).resolve().parent.parent


def data_folder() -> Path | None:
    """Real data: the folder that LLMANAC_SHARED_DATA names, else `../shared/data` next to the checkout."""
    named = os.environ.get("LLMANAC_SHARED_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    return folder if folder.is_dir() else None


def needed_data(*names: str) -> Path:
    """The same, of a study that cannot do without these files and folders in it. DataError where one is absent."""
    folder = data_folder()
    if folder is None or not all((folder / name).exists() for name in names):
        raise DataError(f"LLMANAC_SHARED_DATA: must name the folder that has {', '.join(names)}")
    return folder


@functools.cache
def pages() -> dict[str, tuple[str, str]]:
    """`{name: (HTML, text that a person marked)}` of the article extraction benchmark; empty where it is not there."""
    folder = data_folder()
    if folder is None or not (folder / "extraction" / "ground-truth.json").is_file():
        return {}
    folder = folder / "extraction"
    marked = json.loads((folder / "ground-truth.json").read_text("utf-8"))
    out = {}
    for name in sorted(marked):
        page = gzip.decompress((folder / "html" / f"{name}.html.gz").read_bytes()).decode("utf-8")
        out[name] = page, marked[name].get("articleBody") or ""
    return out


def visible(page: str) -> Any:
    """The root of a page's HTML, without scripts and styles."""
    import lxml.html

    root = lxml.html.document_fromstring(page.encode("utf-8"), parser=lxml.html.HTMLParser(encoding="utf-8"))
    for element in root.xpath("//script|//style|//noscript"):
        element.drop_tree()
    return root


def articles() -> list[str]:
    """Encyclopedia articles of WikiText-2, without their markup of tokens; empty where the set is not there."""
    folder = data_folder()
    if folder is None:
        return []
    out = []
    for name in ("wikitext2_valid.txt", "wikitext2_test.txt"):
        text = (folder / "text" / name).read_text("utf-8")
        for mark, plain in ((" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", "."), (" ,", ","), (" .", "."), ("<unk>", "it")):
            text = text.replace(mark, plain)
        parts = ["\n".join(line.strip() for line in part.split("\n")) for part in text.split("\n = ")]
        out += [part for part in parts if len(part) > 500]
    return out


def sources(longest: int = 40_000) -> list[str]:
    """The standard library's modules: code with prose in it."""
    root = Path(sysconfig.get_paths()["stdlib"])
    texts = [path.read_text("utf-8", errors="replace")[:longest] for path in sorted(root.glob("*.py"))]
    return [text for text in texts if text.strip()]


def library() -> list[str]:
    """Every module of the standard library."""
    paths = [p for p in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")) if "site-packages" not in p.parts]
    return [path.read_text("utf-8", errors="replace") for path in paths]


def descriptions(longest: int = 40_000) -> list[str]:
    """What the installed packages say of themselves: lists, tables, code and prose, as READMEs are."""
    found = sorted(metadata.distributions(), key=lambda package: package.metadata["Name"] or "")
    texts = [(package.read_text("METADATA") or "").partition("\n\n")[2][:longest] for package in found]
    return [text for text in texts if text.strip()]


def mixture() -> list[str]:
    """Every sort of text, in an order that chance decides once."""
    texts = articles() + sources() + descriptions() + [marked for _, marked in pages().values() if marked]
    random.Random(0).shuffle(texts)
    return texts
