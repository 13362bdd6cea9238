"""Extraction beside trafilatura and Resiliparse, one thread, on the pages of the article extraction benchmark.

    python benchmarks/extract.py [--only NAME]

`extract-f1`: F1 by the benchmark's own definition (4-shingles, means of precision and recall over pages).
`extract-speed`: megabytes of HTML a CPU second, median of interleaved rounds. Each library is asked as the benchmark
asks it: the text alone, without comments.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from _harness import Benchmark, Result, find_peer, interleave
from _pages import pages

from llmanac.core.errors import LlmanacError
from llmanac.core.registry import build
from llmanac.data.extractors import Unusable
from llmanac.data.extractors._score import SHINGLE, Score, match, score

bench = Benchmark("extract", "Text out of pages, beside trafilatura and Resiliparse, one thread.")
PEERS = {"trafilatura": {"format": "txt"}, "resiliparse": {}}


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


def scores(width: int = SHINGLE) -> dict[str, Score]:
    """F1 of every extractor."""
    return {
        name: score(match(marked, extract(page), width) for page, marked in pages().values())
        for name, extract in extractors().items()
    }


@bench.measure("extract-f1")
def f1() -> Result:
    found, (_, title) = scores(), find_peer("trafilatura")
    theirs = found.get("trafilatura")
    more: dict[str, Any] = {"pages": len(pages())}
    for name, one in found.items():
        more |= {f"{name}_f1": one.f1, f"{name}_precision": one.precision, f"{name}_recall": one.recall}
    more |= {f"{name}_token_f1": one.f1 for name, one in scores(1).items()}
    return Result("extract-f1", "F1", found["structured"].f1, title, theirs.f1 if theirs else None, "higher", more)


@bench.measure("extract-speed")
def speed() -> Result:
    found, (_, title) = extractors(), find_peer("trafilatura")
    html = [page for page, _ in pages().values()]
    megabytes = sum(len(page.encode("utf-8")) for page in html) / 1e6
    runs: dict[str, Any] = {
        {"structured": "ours", "trafilatura": "theirs"}.get(name, name): lambda extract=extract: [
            extract(p) for p in html
        ]
        for name, extract in found.items()
    }
    seconds = interleave(runs, rounds=3, clock=time.process_time)
    rest = {f"{name}_megabytes_per_second": megabytes / taken for name, taken in seconds.items() if name in PEERS}
    return Result.rate("extract-speed", megabytes, seconds, unit="MB/s", peer=title, megabytes=megabytes, **rest)


if __name__ == "__main__":
    bench.main()
