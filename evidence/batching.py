"""Dynamic batching: throughput against latency.

A decoder of {parameters:,} parameters with random weights (width {dim}, {layers} layers), float32, one thread. Requests
of {prompt} tokens each decode {new} tokens. CPU seconds, so that other load on the machine has little effect.

- Batching holds: {most[rows]} requests at once give {most[factor]:.1f} times the tokens a second of one, and each token
  takes {most[slower]:.1f} times as long to come.
- A batch that changes: {queue[requests]} requests of different lengths in {queue[rows]} rows, each row taken by the
  next request as soon as it is free, took {queue[saved]:.0%} less time than batches that wait for their longest.
- A prompt of {long} tokens that arrives while {beside[rows]} others decode: read in pieces of fixed size, the others
  wait up to {beside[fixed]:.0f} times as long as usual for a token; in pieces chosen by time (as the server does),
  {beside[chosen]:.1f} times in the median and {beside[late]:.1f} times for one in twenty. Reading it then takes
  {beside[costs]:.1f} times the CPU seconds, the others' tokens included.
- No room: with at most {bound[most]} tokens held at once requests wait, and the youngest is put back into the queue
  where those that run need its room: {bound[factor]:.2f} times the time, {bound[preemptions]} put back, same tokens.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch

from evidence.kv_cache import VOCABULARY, without_ties
from llmanac.core.pages import Section, table
from llmanac.generate.engine import Engine
from llmanac.lab.complexity import one_thread

ROWS = ("serve/dynamic-batching",)
CLAIM = "batching requests that come and go raises tokens a second and costs each request little"
SEEDS = 1
TIMED = ("seconds", "steps", "median", "late", "most", "alone")

MODEL = {"name": "transformer", "dim": 256, "layers": 4, "max_length": 8192}
PROMPT, NEW, LONG = 64, 48, 4096
ROWS_AT_ONCE = (1, 2, 4, 8, 16, 32)


@one_thread()
def measure(seed: int, size: str) -> dict[str, Any]:
    """Times of each part, and whether the tokens were those of a request alone."""
    small = size == "small"
    model = without_ties(MODEL, seed, size)
    counts = (1, 3) if small else ROWS_AT_ONCE
    return {
        "parameters": model.parameter_count(),
        "at once": {str(rows): at_once(model, rows, 8 if small else NEW) for rows in counts},
        "queue": queue(model, 6 if small else 32, 2 if small else 8),
        "beside": beside(model, 2 if small else 8, 40 if small else LONG),
    }


def ids(count: int, seed: int) -> list[int]:
    return torch.randint(VOCABULARY, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def at_once(model: Any, rows: int, new: int) -> dict[str, Any]:
    """Requests that start together: seconds of a step and tokens a second; the second of two runs counts."""
    engine, found = Engine(model, rows=rows), {}
    for _ in range(2):
        scheduler = engine.scheduler()
        for i in range(rows):
            scheduler.submit(engine.request(ids(PROMPT, i), max_new_tokens=new, stop_ids=()))
        steps = []
        while scheduler.busy:
            start = time.process_time()
            scheduler.step()
            steps.append(time.process_time() - start)
        found = {"seconds": sum(steps), "median": statistics.median(steps[1:])}
    return {"tokens": rows * new, **found}


def queue(model: Any, requests: int, rows: int) -> dict[str, Any]:
    """Requests of different lengths: rows taken at once, batches that wait for their longest, and little room."""
    lengths = [4 + 10 * (7 * i % 8) for i in range(requests)]
    bound = rows * 60

    def run(group: Sequence[int], engine: Engine) -> tuple[list[list[int]], int]:
        scheduler = engine.scheduler()
        asked = [engine.request(ids(PROMPT // 2, i), max_new_tokens=lengths[i], stop_ids=()) for i in group]
        for request in asked:
            scheduler.submit(request)
        while scheduler.busy:
            scheduler.step()
        return [request.sequences[0].ids for request in asked], scheduler.preemptions

    plain, tight = Engine(model, rows=rows), Engine(model, rows=rows, max_num_batched_tokens=bound)
    groups = [range(at, min(at + rows, requests)) for at in range(0, requests, rows)]
    taken: dict[str, float] = {}
    said: dict[str, list[list[int]]] = {}
    preemptions = 0
    for _ in range(2):  # the second counts
        start = time.process_time()
        said["continuous"] = run(range(requests), plain)[0]
        taken["continuous"], start = time.process_time() - start, time.process_time()
        said["batches"] = [tokens for group in groups for tokens in run(group, plain)[0]]
        taken["batches"], start = time.process_time() - start, time.process_time()
        said["bounded"], preemptions = run(range(requests), tight)
        taken["bounded"] = time.process_time() - start
    same = {name: tokens == said["continuous"] for name, tokens in said.items()}
    return {"requests": requests, "rows": rows, "seconds": taken, "same": same, "bound": bound,
            "preemptions": preemptions}  # fmt: skip


def beside(model: Any, rows: int, long: int) -> dict[str, Any]:
    """Steps of others while a long prompt is read, by fixed pieces and by pieces that time chooses."""
    found: dict[str, Any] = {"rows": rows, "long": long}
    for name, slower in (("fixed", None), ("chosen", 3.0)):
        engine = Engine(model, rows=rows + 1, prefix_cache_bytes=2**28)
        scheduler = engine.scheduler(slower=slower)
        scheduler.clock = time.process_time
        for i in range(rows):
            scheduler.submit(engine.request(ids(PROMPT, i), max_new_tokens=4000, stop_ids=()))

        def step(scheduler: Any = scheduler) -> float:
            start = time.process_time()
            scheduler.step()
            return time.process_time() - start

        while len(scheduler.running) < rows:
            step()
        usual = statistics.median(step() for _ in range(20))
        request = engine.request(ids(long, 99), max_new_tokens=1)
        scheduler.submit(request)
        steps = []
        while not request.finished:
            steps.append(step() / usual)
        steps.sort()
        found[name] = {
            "alone": usual,
            "steps": len(steps),
            "median": statistics.median(steps),
            "late": steps[int(0.95 * len(steps))],
            "most": steps[-1],
            "seconds": sum(steps) * usual,
        }
        scheduler.reset()
    return found


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    """The page."""
    (result,) = seeds
    rows = [
        [count, f"{row['tokens'] / row['seconds']:,.0f}", f"{1000 * row['median']:.1f} ms", f"{row['seconds']:.2f} s"]
        for count, row in result["at once"].items()
    ]
    queued, read = result["queue"], result["beside"]
    ways = {"continuous": "a row is taken at once", "batches": "batches wait", "bounded": "at most {bound} tokens held"}
    times = [
        [text.format(**queued), f"{queued['seconds'][name]:.2f} s", "yes" if queued["same"][name] else "no"]
        for name, text in ways.items()
    ]
    pieces = [
        [name, f"{read[name]['steps']}", *(f"{read[name][key]:.1f}" for key in ("median", "late", "most")),
         f"{read[name]['seconds']:.1f} s"]
        for name in ("fixed", "chosen")
    ]  # fmt: skip
    head = ["pieces", "steps", "median", "95 of 100 below", "longest", "until the prompt is read"]
    return [
        Section("Requests at once", [], [table(["requests", "tokens a second", "a token", "all"], rows)]),
        Section(
            f"{queued['requests']} requests in {queued['rows']} rows", [], [table(["", "time", "same tokens"], times)]
        ),
        Section("Others' steps while a long prompt is read, in usual steps", [], [table(head, pieces)]),
    ]


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    (result,) = seeds
    counts = list(result["at once"])
    one, many = result["at once"][counts[0]], result["at once"][counts[-1]]
    queued, read = result["queue"], result["beside"]
    taken = queued["seconds"]
    return {
        "parameters": result["parameters"],
        "dim": MODEL["dim"],
        "layers": MODEL["layers"],
        "prompt": PROMPT,
        "new": NEW,
        "long": read["long"],
        "most": {
            "rows": counts[-1],
            "factor": many["tokens"] / many["seconds"] / (one["tokens"] / one["seconds"]),
            "slower": many["median"] / one["median"],
        },
        "queue": {**queued, "saved": 1 - taken["continuous"] / taken["batches"]},
        "beside": {
            "rows": read["rows"],
            "fixed": read["fixed"]["most"],
            "chosen": read["chosen"]["median"],
            "late": read["chosen"]["late"],
            "costs": read["chosen"]["seconds"] / read["fixed"]["seconds"],
        },
        "bound": {
            "most": queued["bound"],
            "factor": taken["bounded"] / taken["continuous"],
            "preemptions": queued["preemptions"],
        },
    }
