"""The output's files: which documents are in each, and how they are drawn where domains are mixed."""

from __future__ import annotations

import bisect
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from llmanac.data.mixtures import Domain, MixtureSpec
from llmanac.data.pipeline.records import Record, read_raw
from llmanac.data.schedule import Schedule

Shard = dict[str, Any]  # path (below the build's folder), documents, bytes, domain
NOT_DRAWN = "not_drawn"  # the reason on the list of the mixture


@dataclass
class Tally:
    """What went into a file of the output: pages that are still HTML, and bytes of text by domain, where domains are
    mixed."""

    html: int = 0
    bytes: Counter[str] = field(default_factory=Counter)


def plan_in_order(shards: Sequence[Shard], shard_bytes: int) -> list[dict[str, Any]]:
    """Every document once, in order: a file takes whole shards, or a part of one that is larger than a file may be."""
    outputs: list[dict[str, Any]] = []
    held = shard_bytes  # so that the first shard begins a file
    for shard in shards:
        pieces = max(1, round(shard["bytes"] / shard_bytes))
        cuts = [shard["documents"] * n // pieces for n in range(pieces + 1)]
        for start, stop in itertools.pairwise(cuts):
            if start == stop:
                continue
            if held >= shard_bytes:
                outputs.append({"sections": []})
                held = 0
            outputs[-1]["sections"].append([shard["path"], start, stop - start])
            held += shard["bytes"] * (stop - start) // shard["documents"]
    return outputs


def domains_of(shards: Sequence[Shard], weights: dict[str, float]) -> dict[str, Domain]:
    """What there is of each domain."""
    return {
        name: Domain(
            sum(s["documents"] for s in shards if s["domain"] == name),
            sum(s["bytes"] for s in shards if s["domain"] == name),
            weight,
        )
        for name, weight in weights.items()
    }


def plan_mixed(
    shards: Sequence[Shard], domains: dict[str, Domain], mixture: MixtureSpec, shard_bytes: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Files of a mixture, each with the cursor it begins at; and what the manifest says of it.

    Drawing ends before a domain would be drawn more than `epochs` times over, or at `documents`.
    """
    shares = mixture.draws(domains)
    schedule = Schedule(shares)
    limits = [int(mixture.epochs * domains[name].documents) for name in schedule.names]
    means = [domains[name].bytes / domains[name].documents for name in schedule.names]
    streams = {name: [[s["path"], s["documents"]] for s in shards if s["domain"] == name] for name in schedule.names}
    places = {name: place for place, name in enumerate(schedule.names)}
    outputs: list[dict[str, Any]] = []
    held = float(shard_bytes)
    ended_by = "documents"
    while mixture.documents is None or schedule.drawn < mixture.documents:
        place = places[schedule.peek()]
        if schedule.counts[place] >= limits[place]:
            ended_by = schedule.names[place]
            break
        if held >= shard_bytes:
            outputs.append({"streams": streams, "cursor": schedule.state()[0], "count": 0})
            held = 0.0
        next(schedule)
        outputs[-1]["count"] += 1
        held += means[place]
    drawn = dict(zip(schedule.names, schedule.counts, strict=True))
    said = {
        "unit": mixture.unit,
        "shares": {
            name: weight / schedule.total for name, weight in zip(schedule.names, schedule.weights, strict=True)
        },
        "drawn": drawn,
        "not_drawn": {name: max(0, domains[name].documents - count) for name, count in drawn.items()},
        "epochs": {name: count / domains[name].documents for name, count in drawn.items()},
        "ended_by": ended_by,
    }
    return outputs, said


def plan_undrawn(shards: Sequence[Shard], said: dict[str, Any]) -> dict[str, list[list[Any]]]:
    """By domain, the shards that hold documents which the mixture never draws: `[path, the first of them]`."""
    left: dict[str, list[list[Any]]] = {}
    for name in sorted(n for n, count in said["not_drawn"].items() if count):
        drawn = said["drawn"][name]
        for shard in (s for s in shards if s["domain"] == name):
            if drawn < shard["documents"]:
                left.setdefault(name, []).append([shard["path"], max(0, drawn)])
            drawn -= shard["documents"]
    return left


def output_records(root: Path, task: dict[str, Any], tally: Tally) -> Iterator[Record]:
    """The documents of one file of the output, counted."""
    for name, record in _drawn(root, task):
        tally.html += record.meta.get("format") == "html"
        if name is not None:
            tally.bytes[name] += len(record.data)
        yield record


def _drawn(root: Path, task: dict[str, Any]) -> Iterator[tuple[str | None, Record]]:
    """Each document with its domain; without one where nothing is mixed."""
    if "sections" in task:
        for path, skip, count in task["sections"]:
            yield from ((None, record) for record in itertools.islice(read_raw(root / path, skip), count))
        return
    cursor = task["cursor"]
    names = sorted(task["streams"])
    schedule = Schedule({name: Fraction(weight) for name, weight in zip(names, cursor["weights"], strict=True)})
    schedule.restore(cursor, {})
    streams = {name: _endless(root, task["streams"][name], cursor["drawn"][name]) for name in names}
    for _ in range(task["count"]):
        name = next(schedule)
        yield name, next(streams[name])


def _endless(root: Path, shards: list[list[Any]], at: int) -> Iterator[Record]:
    """A domain's documents from number `at` on, over and over; a repeated one has its round in its id (`a.txt~2`)."""
    ends = list(itertools.accumulate(count for _, count in shards))
    while True:
        turn, place = divmod(at, ends[-1])
        number = bisect.bisect_right(ends, place)
        path, count = shards[number]
        left = ends[number] - place
        for record in itertools.islice(read_raw(root / path, count - left), left):
            yield record._replace(id=f"{record.id}~{turn + 1}") if turn else record
            at += 1
