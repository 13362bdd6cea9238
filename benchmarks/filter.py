"""The quality filters against datatrove's, one thread, on the same documents: articles, code, READMEs, news.

    python benchmarks/filter.py [--only NAME]

CPU seconds of this process for all four filters, each asked about every document, median of interleaved rounds; the
decisions, the reasons and the texts that C4 leaves are compared first, and a difference ends the run. datatrove keeps
the words of its last few texts, and so do we: documents are taken one by one through all filters, which suits both.
"""

from __future__ import annotations

import time
from typing import Any

from _corpora import mixture
from _harness import Benchmark, Result, find_peer, interleave

from llmanac.core.registry import build
from llmanac.data.documents import Document
from llmanac.data.stages import Dropped

bench = Benchmark("filter", "Quality filters against datatrove, one thread.")
NAMES = {
    "gopher-quality": "GopherQualityFilter", "gopher-repetition": "GopherRepetitionFilter",
    "fineweb": "FineWebQualityFilter", "c4": "C4QualityFilter",
}  # fmt: skip


def ours(stages: dict[str, Any], documents: list[Document]) -> list[list[tuple[bool, str]]]:
    out = []
    for document in documents:
        row = []
        for stage in stages.values():
            (found,) = stage.apply([document])
            row.append((False, found.reason) if isinstance(found, Dropped) else (True, found.text))
        out.append(row)
    return out


def theirs(filters: dict[str, Any], made: Any, texts: list[str]) -> list[list[tuple[bool, str]]]:
    out = []
    for text in texts:
        row = []
        for one in filters.values():
            document = made(text=text, id="a")
            found = one.filter(document)
            row.append((True, document.text) if found is True else (False, found[1]))
        out.append(row)
    return out


def measured(name: str, wanted: list[str]) -> Result:
    peer, title = find_peer("datatrove.pipeline.filters", "datatrove")
    spacy, _ = find_peer("spacy")
    texts = mixture()
    megabytes = sum(len(text.encode("utf-8")) for text in texts) / 1e6
    documents = [Document(str(i), text, "g") for i, text in enumerate(texts)]
    stages = {one: build("stage", one) for one in wanted}
    runs: dict[str, Any] = {"ours": lambda: ours(stages, documents)}
    more: dict[str, Any] = {"documents": len(texts), "megabytes": megabytes}
    if peer and spacy:
        from datatrove.data import Document as Theirs

        filters = {one: getattr(peer, NAMES[one])() for one in wanted}
        runs["theirs"] = lambda: theirs(filters, Theirs, texts)
        mine, other = runs["ours"](), runs["theirs"]()
        assert mine == other, f"{sum(a != b for a, b in zip(mine, other, strict=True))} documents have other decisions"
        more |= {"decided_alike": len(mine) * len(wanted)}
        more |= {f"kept_by_{one}": sum(row[i][0] for row in mine) for i, one in enumerate(wanted)}
    seconds = interleave(runs, rounds=3, warmup=0 if "theirs" in runs else 1, clock=time.process_time)
    return Result.rate(name, megabytes, seconds, unit="MB/s", peer=title, **more)


bench.add("filter-speed", measured, list(NAMES))


for _name in NAMES:
    bench.add(f"filter-{_name}", measured, [_name])


if __name__ == "__main__":
    bench.main()
