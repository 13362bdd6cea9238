"""Extraction against trafilatura and Resiliparse, one thread, on marked pages seen in development and not seen.

    LLMANAC_NEWS=CHECKOUT LLMANAC_READABILITY=CHECKOUT python benchmarks/extract.py [--only NAME]

`_marked.py` says what the sets are; figures of one that is not there are null.

`extract-f1`: F1 on all pages not seen, by the definition of the article extraction benchmark (4-shingles, means of
precision and recall over pages). `extract-f1-sets`: of every set. trafilatura is asked in twelve ways, and the one
that is best for it on the seen pages of a kind counts. The numbers of ordered lists, which our Markdown writes and
neither marked text nor trafilatura has, are taken off ours.
`extract-speed`: megabytes of HTML a CPU second over the pages of all sets that are there, median of interleaved rounds.
"""

from __future__ import annotations

import time
from typing import Any

from _harness import Benchmark, Result, find_peer, interleave

from benchmarks import _marked
from benchmarks._marked import SETS, UNSEEN, extractors, interval, marked, matches, ours
from llmanac.data.extractors._score import Match, score

bench = Benchmark("extract", "Text extraction, against trafilatura and Resiliparse, one thread.")


def matched(names: tuple[str, ...]) -> tuple[list[Match], list[Match] | None, list[dict[str, Any]]]:
    """Ours and trafilatura's matches on sets that are there, and how it was asked on each."""
    mine, theirs, asked = [], [], []
    for name in names:
        mine += matches(name, ours)
        if find_peer("trafilatura")[0] is not None:
            setting = _marked.best_setting(name)
            theirs += matches(name, _marked.trafilatura_with(setting))
            asked.append(setting)
    return mine, theirs or None, asked


def f1_on(title: str, names: tuple[str, ...]) -> Result:
    """F1 on some sets together, with intervals; null where one of them is not there."""
    peer = find_peer("trafilatura")[1]
    sets = {name: marked(name) for name in names}
    more: dict[str, Any] = {"sets": " + ".join(names), "pages": sum(len(found or {}) for found in sets.values())}
    absent = [name for name, found in sets.items() if found is None]
    if absent:
        return Result(title, "F1", None, peer, None, "higher", more | {"not_there": ", ".join(absent)})
    mine, theirs, asked = matched(names)
    one = score(mine)
    more |= {"fingerprints": [_marked.fingerprint(found or {}) for found in sets.values()]}
    more |= {"interval": _short(interval(mine)), "precision": one.precision, "recall": one.recall}
    if "resiliparse" in extractors():
        more["resiliparse_f1"] = score([m for name in names for m in matches(name, extractors()["resiliparse"])]).f1
    if theirs is None:
        return Result(title, "F1", one.f1, peer, None, "higher", more)
    two = score(theirs)
    more |= {"trafilatura_interval": _short(interval(theirs)), "ours_minus_trafilatura": _short(interval(mine, theirs))}
    more |= {"trafilatura_precision": two.precision, "trafilatura_recall": two.recall, "trafilatura_asked": asked}
    return Result(title, "F1", one.f1, peer, two.f1, "higher", more)


def _short(values: tuple[float, float]) -> list[float]:
    return [float(f"{value:.4f}") for value in values]


bench.add("extract-f1", f1_on, UNSEEN)


@bench.measure("extract-f1-sets")
def f1_sets() -> list[Result]:
    return [f1_on(f"extract-f1-{name}", (name,)) for name in SETS]


@bench.measure("extract-speed")
def speed() -> Result:
    found, (_, title) = extractors(), find_peer("trafilatura")
    sets = {name: marked(name) for name in SETS}
    html = [page for pages in sets.values() for page, _ in (pages or {}).values()]
    more: dict[str, Any] = {"pages": len(html), "sets": ", ".join(name for name, pages in sets.items() if pages)}
    if not html:
        return Result("extract-speed", "MB/s", None, title, None, "higher", more)
    megabytes = sum(len(page.encode("utf-8")) for page in html) / 1e6
    runs: dict[str, Any] = {
        {"structured": "ours", "trafilatura": "theirs"}.get(name, name): lambda extract=extract: [
            extract(p) for p in html
        ]
        for name, extract in found.items()
    }
    seconds = interleave(runs, rounds=3, clock=time.process_time)
    more |= {
        f"{name}_megabytes_per_second": megabytes / taken for name, taken in seconds.items() if name in _marked.PEERS
    }
    return Result.rate("extract-speed", megabytes, seconds, unit="MB/s", peer=title, megabytes=megabytes, **more)


if __name__ == "__main__":
    bench.main()
