"""Pages with the text they hold, in four sets: two that our extractor's rules were written on, two that they were not.

`news` is the article extraction benchmark (scrapinghub/article-extraction-benchmark: a person marked the text),
`readability` the test pages of mozilla/readability (the text is that of its `expected.html`, what its own algorithm
keeps and its authors accepted). Of the first, the half in the shared data is seen; of the second, the pages whose name
has a SHA-256 that 3 does not divide. The sets are not in this repository:

    LLMANAC_SHARED_DATA   the folder that has extraction/ (news, seen)
    LLMANAC_NEWS          a checkout of scrapinghub/article-extraction-benchmark (news, not seen)
    LLMANAC_READABILITY   a checkout of mozilla/readability (readability, seen and not)
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._corpora import pages
from llmanac.core.errors import LlmanacError
from llmanac.core.registry import build
from llmanac.data.extractors import Unusable
from llmanac.data.extractors._score import Match, match, score
from llmanac.data.extractors._tags import BLOCKS

DRAWS = 2000
SETS = ("news-seen", "readability-seen", "news-unseen", "readability-unseen")
UNSEEN = SETS[2:]
PEERS = {"trafilatura": {"format": "txt"}, "resiliparse": {}}
_NUMBER = re.compile(r"^((?:> |- |  )*)\d{1,9}\. ", re.M)
_NO_TEXT = ("script", "style", "noscript", "template", "title")
Pages = dict[str, tuple[str, str]]


@functools.cache
def marked(name: str) -> Pages | None:
    """`{page: (HTML, its text)}` of one of `SETS`; None where it is not on this machine."""
    if name == "news-seen":
        return pages() or None
    if name == "news-unseen":
        return _news()
    return _readability(unseen=name == "readability-unseen")


def _folder(variable: str, inside: str) -> Path | None:
    named = os.environ.get(variable)
    if not named:
        return None
    folder = Path(named)
    if not (folder / inside).exists():
        raise SystemExit(f"{variable}: {folder} has no {inside}; give a checkout, or unset it to leave the set out")
    return folder


def _news() -> Pages | None:
    folder, seen = _folder("LLMANAC_NEWS", "ground-truth.json"), pages()
    if folder is None or not seen:
        return None
    texts = json.loads((folder / "ground-truth.json").read_text("utf-8"))
    return {
        name: (
            gzip.decompress((folder / "html" / f"{name}.html.gz").read_bytes()).decode("utf-8"),
            texts[name].get("articleBody") or "",
        )
        for name in sorted(set(texts) - set(seen))
    }


def _readability(*, unseen: bool) -> Pages | None:
    folder = _folder("LLMANAC_READABILITY", "test/test-pages")
    if folder is None:
        return None
    out = {}
    for page in sorted((folder / "test" / "test-pages").iterdir()):
        if (int(hashlib.sha256(page.name.encode()).hexdigest(), 16) % 3 == 0) == unseen:
            html = (page / "source.html").read_bytes().decode("utf-8", "replace")
            out[page.name] = html, text_of_html((page / "expected.html").read_text("utf-8"))
    return out


def text_of_html(html: str) -> str:
    """All text of a piece of HTML, its blocks on lines of their own."""
    from lxml import etree

    root = etree.fromstring(html.encode("utf-8"), etree.HTMLParser(encoding="utf-8", remove_comments=True))
    out: list[str] = []
    for event, element in etree.iterwalk(root, events=("start", "end")):
        apart = element.tag in BLOCKS or element.tag == "br"
        hidden = element.tag in _NO_TEXT
        if event == "start":
            out += ["\n"] * apart + [element.text or ""] * (not hidden)
        else:
            out += ["\n"] * apart + [element.tail or ""]
    return "".join(out)


def fingerprint(found: Pages) -> str:
    """Which pages they are: a SHA-256 of their names, HTML and texts."""
    digest = hashlib.sha256()
    for name in sorted(found):
        for part in (name, *found[name]):
            digest.update(hashlib.sha256(part.encode("utf-8", "replace")).digest())
    return digest.hexdigest()[:16]


def matches(name: str, extract: Callable[[str], str], width: int = 4) -> list[Match]:
    """Of every page of a set that is there."""
    return [match(text, extract(page), width) for page, text in (marked(name) or {}).values()]


def interval(found: Sequence[Match], other: Sequence[Match] | None = None) -> tuple[float, float]:
    """95% bootstrap interval over pages of F1, or of the difference to another's F1 on the same pages."""
    rng = np.random.Generator(np.random.PCG64(0))
    values = []
    for _ in range(DRAWS):
        drawn = rng.integers(0, len(found), len(found))
        value = score([found[i] for i in drawn]).f1
        values.append(value - score([other[i] for i in drawn]).f1 if other else value)
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def settings() -> list[dict[str, Any]]:
    """Every way of asking trafilatura: for recall, precision or neither; with and without comments and tables."""
    favoured: tuple[dict[str, Any], ...] = ({}, {"favor_recall": True}, {"favor_precision": True})
    return [
        {"include_comments": comments, "include_tables": tables, **favour}
        for favour, comments, tables in itertools.product(favoured, (False, True), (True, False))
    ]


def trafilatura_with(setting: dict[str, Any]) -> Callable[[str], str]:
    """What trafilatura makes of a page when asked in this way."""
    import trafilatura

    return lambda page: trafilatura.extract(page, output_format="txt", **setting) or ""


@functools.cache
def scores_of_settings(kind: str) -> tuple[float, ...]:
    """The F1 of every setting on the seen pages of a kind, `news` or `readability`."""
    return tuple(score(matches(f"{kind}-seen", trafilatura_with(setting))).f1 for setting in settings())


def best_setting(name: str) -> dict[str, Any]:
    """How trafilatura is asked on a set: the setting that is best for it on the seen pages of the set's kind."""
    every = scores_of_settings(name.partition("-")[0])
    return settings()[every.index(max(every))]


def extractors() -> dict[str, Callable[[str], str]]:
    """Ours, and the backends that are installed."""
    out = {}
    for name, choices in {"structured": {}, **PEERS}.items():
        try:
            made = build("extractor", name, **choices)
        except LlmanacError:
            continue
        out[name] = lambda page, made=made: text_of(made, page)
    return out


def text_of(extractor: Any, page: str) -> str:
    try:
        return extractor.extract(page).text
    except Unusable:
        return ""


def ours(page: str) -> str:
    """What our extractor says of a page, without the numbers of ordered lists."""
    return _NUMBER.sub(r"\1", text_of(build("extractor", "structured"), page))
