"""GET /metrics: Prometheus text under the names of vLLM, so that its dashboards and routers work here.

The worker's thread writes, the event loop reads; every number is written by one thread only.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmanac.generate.engine import Request
    from llmanac.generate.prefix_cache import PrefixCache

PREFIX = "vllm:"
REASONS = ("stop", "length", "abort", "error")
SHORT = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
TOKENS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
LONG = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0)
COUNTS = tuple(float(m * 10**e) for e in range(6) for m in (1, 2, 5))

# name, buckets, what it measures
HISTOGRAMS = (
    ("time_to_first_token_seconds", SHORT, "From a request's arrival to its first token"),
    ("inter_token_latency_seconds", TOKENS, "Between two steps that gave a sequence tokens"),
    ("e2e_request_latency_seconds", LONG, "From a request's arrival to its last token"),
    ("request_queue_time_seconds", LONG, "From a request's arrival to its first step"),
    ("request_prefill_time_seconds", LONG, "From a request's first step to its first token"),
    ("request_decode_time_seconds", LONG, "From a request's first token to its last"),
    ("request_prompt_tokens", COUNTS, "Tokens of a request's prompt"),
    ("request_generation_tokens", COUNTS, "Tokens generated for a request, all samples"),
)


class Histogram:
    """Counts of values by bucket; `buckets` are upper bounds, the last one is infinite."""

    def __init__(self, buckets: tuple[float, ...]) -> None:
        self.buckets, self.counts, self.sum = buckets, [0] * (len(buckets) + 1), 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.buckets, value)] += 1
        self.sum += value


@dataclass
class Times:
    """When a request arrived, began to run, and had its first and latest tokens (of `time.monotonic`)."""

    arrival: float
    begun: float | None = None
    first: float | None = None
    latest: dict[int, float] = field(default_factory=dict)


class Metrics:
    """What a server counted since it started."""

    def __init__(self) -> None:
        self.finished: Counter[str] = Counter(dict.fromkeys(REASONS, 0))
        self.prompt_tokens = self.generation_tokens = 0
        self.histograms = {name: Histogram(buckets) for name, buckets, _ in HISTOGRAMS}

    def tokens(self, request: Request, times: Times, sample: int, count: int, now: float) -> None:
        """A step gave a sample `count` tokens."""
        self.generation_tokens += count
        add = self.histograms
        if times.first is None:
            begun = times.arrival if times.begun is None else times.begun
            times.first = now
            self.prompt_tokens += len(request.prompt)
            add["time_to_first_token_seconds"].add(now - times.arrival)
            add["request_queue_time_seconds"].add(begun - times.arrival)
            add["request_prefill_time_seconds"].add(now - begun)
            add["request_prompt_tokens"].add(len(request.prompt))
        if sample in times.latest:
            add["inter_token_latency_seconds"].add(now - times.latest[sample])
        times.latest[sample] = now

    def end(self, request: Request, times: Times, now: float, reason: str | None = None) -> None:
        """A request is over; `reason` where it was not finished."""
        last = max(request.sequences, key=lambda s: times.latest.get(s.index, 0.0))
        self.finished[reason or str(last.finish_reason)] += 1
        add = self.histograms
        add["e2e_request_latency_seconds"].add(now - times.arrival)
        add["request_decode_time_seconds"].add(now - (now if times.first is None else times.first))
        add["request_generation_tokens"].add(sum(len(s.token_logprobs) for s in request.sequences))


def render(
    metrics: Metrics, running: int, waiting: int, preemptions: int, cache: PrefixCache | None, model_name: str
) -> str:
    """The page."""
    name = model_name.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    label = f'model_name="{name}"'
    used = 0.0
    plain = [
        ("num_requests_running", "gauge", running, "Requests that run"),
        ("num_requests_waiting", "gauge", waiting, "Requests that wait for a row"),
    ]
    if cache is not None:
        used = min(1.0, cache.pool.nbytes * cache.pool.held / max(1, cache.pool.held + cache.pool.idle) / cache.budget)
        plain += [
            ("prefix_cache_queries_total", "counter", cache.prompt_tokens, "Prompt tokens looked for in the cache"),
            ("prefix_cache_hits_total", "counter", cache.reused_tokens, "Prompt tokens found in the cache"),
        ]
    plain += [
        ("num_preemptions_total", "counter", preemptions, "Requests put back into the queue"),
        ("prompt_tokens_total", "counter", metrics.prompt_tokens, "Prompt tokens read"),
        ("generation_tokens_total", "counter", metrics.generation_tokens, "Tokens generated"),
    ]
    lines = [line for key, kind, value, text in plain for line in _sample(key, kind, text, f"{{{label}}}", value)]
    lines += _sample("kv_cache_usage_perc", "gauge", "Share of the KV cache that rows hold", f"{{{label}}}", used)
    ends = f"{PREFIX}request_success_total"
    lines += [f"# HELP {ends} Requests that ended", f"# TYPE {ends} counter"]
    lines += [f'{ends}{{finished_reason="{reason}",{label}}} {count}' for reason, count in metrics.finished.items()]
    blocks = {} if cache is None else {"block_size": cache.block_tokens, "cache_bytes": cache.budget}
    info = ",".join(f'{key}="{value}"' for key, value in blocks.items())
    lines += _sample(
        "cache_config_info", "gauge", "How the KV cache is set up", f"{{{label}{',' if info else ''}{info}}}", 1
    )
    for key, _, text in HISTOGRAMS:
        lines += _histogram(key, text, label, metrics.histograms[key])
    return "\n".join([*lines, ""])


def joined(pages: list[str]) -> str:
    """One page of those of several models: each counter is explained once, with all its samples behind."""
    found: dict[str, list[str]] = {}
    for page in pages:
        for block in page.split("# HELP ")[1:]:
            about, kind, *samples = block.splitlines()
            found.setdefault(f"# HELP {about}\n{kind}", []).extend(samples)
    return "\n".join([*(line for about, samples in found.items() for line in (about, *samples)), ""])


def _sample(key: str, kind: str, text: str, labels: str, value: float) -> list[str]:
    return [f"# HELP {PREFIX}{key} {text}", f"# TYPE {PREFIX}{key} {kind}", f"{PREFIX}{key}{labels} {value}"]


def _histogram(key: str, text: str, label: str, found: Histogram) -> Iterator[str]:
    yield f"# HELP {PREFIX}{key} {text}"
    yield f"# TYPE {PREFIX}{key} histogram"
    total, counts = 0, list(found.counts)
    for bound, count in zip((*map(repr, found.buckets), "+Inf"), counts, strict=True):
        total += count
        yield f'{PREFIX}{key}_bucket{{le="{bound}",{label}}} {total}'
    yield f"{PREFIX}{key}_sum{{{label}}} {found.sum}"
    yield f"{PREFIX}{key}_count{{{label}}} {total}"
