"""The output's files: which documents are in each, and how they are drawn where domains are mixed."""

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from llmanac.core import files
from llmanac.core.progress import progress
from llmanac.data.mixtures import Domain, MixtureSpec
from llmanac.data.pipeline.records import Record, places, read_at, read_raw
from llmanac.data.schedule import ByteSchedule, Schedule

Shard = dict[str, Any]  # path (below the build's folder), documents, bytes, domain
NOT_DRAWN = "not_drawn"  # the reason on the list of the mixture


@dataclass
class OutputTally:
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


def write_orders(root: Path, streams: dict[str, list[str]], seed: int) -> dict[str, str]:
    """By domain, the file (an array) with the order its documents are drawn in: shard, place in it, bytes of text.

    Documents are ordered by a hash of seed and id: the order depends neither on the machine nor on other documents.
    """
    salt = str(seed).encode()
    orders = {}
    with progress("order the documents", total=sum(map(len, streams.values())), unit="shards") as bar:
        for number, (name, paths) in enumerate(sorted(streams.items())):
            parts, keys = [np.zeros((0, 3), np.int64)], [np.zeros(0, np.uint64)]
            for shard, path in enumerate(paths):
                ids, at, sizes = zip(*places(root / path), strict=True) if (root / path).stat().st_size else ((),) * 3
                parts.append(np.stack([np.full(len(at), shard), at, sizes], 1).astype(np.int64))
                hashed = b"".join(_hash(salt, one) for one in ids)
                keys.append(np.frombuffer(hashed, "<u8").astype(np.uint64))
                bar.advance(1)
            order = np.concatenate(parts)[np.argsort(np.concatenate(keys), kind="stable")]
            orders[name] = f"work/order/{number}.npy"
            with files.atomic_file(root / orders[name]) as out:
                np.save(out, order)
    return orders


def _hash(salt: bytes, name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8, key=salt[:64]).digest()


def plan_mixed(
    root: Path, shards: Sequence[Shard], domains: dict[str, Domain], mixture: MixtureSpec, shard_bytes: int
) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, list[Any]]]:
    """Files of a mixture, each with the cursor it begins at; what the manifest says of it; and, by domain with
    documents that are never drawn, the arguments of `undrawn_records`.

    Drawing ends before a domain would be drawn more than `epochs` times over, or at `documents`.
    """
    targets = mixture.targets(domains)
    streams = {name: [s["path"] for s in shards if s["domain"] == name] for name in targets}
    orders = write_orders(root, streams, mixture.seed)
    loaded = {name: np.load(root / path, mmap_mode="r") for name, path in orders.items()}
    schedule = _schedule(mixture.unit, targets, loaded)
    limits = [int(mixture.epochs * domains[name].documents) for name in schedule.names]
    numbers = {name: number for number, name in enumerate(schedule.names)}
    task = {"streams": streams, "orders": orders, "unit": mixture.unit}
    outputs: list[dict[str, Any]] = []
    held = shard_bytes
    ended_by = "documents"
    while mixture.documents is None or schedule.drawn < mixture.documents:
        number = numbers[schedule.peek()]
        count = schedule.counts[number]
        if count >= limits[number]:
            ended_by = schedule.names[number]
            break
        if held >= shard_bytes:
            outputs.append({**task, "cursor": schedule.state()[0], "count": 0})
            held = 0
        name = next(schedule)
        outputs[-1]["count"] += 1
        held += int(loaded[name][count % len(loaded[name]), 2])
    drawn = dict(zip(schedule.names, schedule.counts, strict=True))
    said: dict[str, Any] = {
        "unit": mixture.unit,
        "targets": targets,
        "longest": {name: int(order[:, 2].max()) for name, order in loaded.items()},
        "drawn": drawn,
        "not_drawn": {name: max(0, domains[name].documents - count) for name, count in drawn.items()},
        "epochs": {name: count / domains[name].documents for name, count in drawn.items()},
        "ended_by": ended_by,
    }
    left = {name: [streams[name], orders[name], drawn[name]] for name, count in said["not_drawn"].items() if count}
    return outputs, said, left


def _schedule(unit: str, targets: dict[str, Any], orders: dict[str, Any]) -> Schedule:
    if unit == "documents":
        return Schedule(targets)
    return ByteSchedule(targets, {name: order[:, 2] for name, order in orders.items()})


def undrawn_records(root: Path, paths: Sequence[str], order: str, drawn: int) -> Iterator[Record]:
    """The documents of a domain that a mixture never draws, in the order of the corpus."""
    left = np.load(root / order, mmap_mode="r")[drawn:]
    for at in np.lexsort((left[:, 1], left[:, 0])):
        yield read_at(root / paths[left[at, 0]], int(left[at, 1]))


def output_records(root: Path, task: dict[str, Any], tally: OutputTally) -> Iterator[Record]:
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
    weights = {name: Fraction(weight) for name, weight in zip(names, cursor["weights"], strict=True)}
    orders = {name: np.load(root / task["orders"][name], mmap_mode="r") for name in names}
    schedule = _schedule(task["unit"], weights, orders)
    schedule.restore(cursor, {})
    drawn = dict(cursor["drawn"])
    for _ in range(task["count"]):
        name = next(schedule)
        turn, place = divmod(drawn[name], len(orders[name]))  # a repeated document has its round in its id (`a.txt~2`)
        shard, at, _ = orders[name][place].tolist()
        record = read_at(root / task["streams"][name][shard], at)
        yield name, record._replace(id=f"{record.id}~{turn + 1}") if turn else record
        drawn[name] += 1
