"""Key-value cache: speed against memory.

No cache, one buffer per row, pages, shared pages. A decoder of {parameters:,} parameters with random weights (width
{dim}, {layers} layers): time and memory do not depend on the weights. CPU seconds of one thread, medians of interleaved
rounds, so that other load on the machine has little effect. All variants gave the same tokens.

The claim holds: without a cache every token costs a pass over all tokens before it, and the factor grows with the
prompt; with a cache, memory grows with every token. {both[requests]} prompts share their first {both[beginning]} tokens
and continue with {both[own]} of their own, read in turn: {kept[reused_tokens]} of {kept[prompt_tokens]} prompt tokens
were not computed again; {kept[blocks_kept]} blocks of {kept[block_tokens]} tokens are kept, {held:.1f} MiB. If nothing
is shared, pages take memory a block at a time where buffers double. A bare paged state gathers its pages in every call
(the first table); rows that go on together in an engine keep what was gathered, in as many bytes again, and cost the
time in the last table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from evidence._grid import paced
from llmanac.core.pages import Section, table
from llmanac.core.spec import make_method
from llmanac.core.types import LAST
from llmanac.generate.engine import Engine
from llmanac.lab.complexity import one_thread
from llmanac.models.state.paged import PagedState
from llmanac.models.state.pool import BlockPool

ROWS = ("serve/kv-cache",)
CLAIM = "a key-value cache trades memory for speed"
SEEDS = 1
TIMED = ("seconds", "overhead", "in turn", "together")

MODEL = {"name": "transformer", "dim": 256, "layers": 4, "max_length": 2048}
VOCABULARY = 4096
LENGTHS = {"full": (64, 256, 1024), "small": (8, 40)}
NEW = 32
BUDGET = 256 * 2**20


@one_thread()
def measure(seed: int, size: str) -> dict[str, Any]:
    """Times, bytes and reused tokens; all ways of remembering must say the same tokens."""
    model = without_ties(MODEL, seed, size)
    found = {"parameters": model.parameter_count(), "by length": by_length(model, LENGTHS[size])}
    if size == "small":
        return {**found, "shared": shared(model, requests=3, beginning=40, own=4)}
    return {**found, "shared": shared(model), "overhead": overhead(model)}


def without_ties(fields: dict[str, Any], seed: int, size: str) -> Any:
    """A model of random weights: zeros, which some begin with, would make every token a tie."""
    spec = make_method("lm", {**fields, **({"dim": 32, "layers": 1} if size == "small" else {})})
    model: Any = spec.build(vocab_size=VOCABULARY).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            generator = torch.Generator().manual_seed(seed)
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return model


def ids(count: int, seed: int) -> torch.Tensor:
    return torch.randint(VOCABULARY, (1, count), generator=torch.Generator().manual_seed(seed))


def medians(runs: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Median CPU seconds of each, all taking turns."""
    return {name: found["seconds"] for name, found in paced(runs, 3).items()}


@torch.inference_mode()
def decode(model: Any, prompt: torch.Tensor, state: Any) -> list[int]:
    """NEW greedy tokens after a prompt; with a state only what is new is computed."""
    row, read = prompt, prompt
    for _ in range(NEW):
        logits = model(row if state is None else read, state, LAST).logits
        read = logits[:, -1].argmax(-1, keepdim=True)
        row = torch.cat([row, read], 1)
    return row[0, prompt.shape[1] :].tolist()


def by_length(model: Any, lengths: Sequence[int]) -> dict[str, dict[str, Any]]:
    found = {}
    for length in lengths:
        prompt, pool = ids(length, length), BlockPool(model.start(1))
        runs = {
            "no cache": lambda prompt=prompt: decode(model, prompt, None),
            "buffers": lambda prompt=prompt: decode(model, prompt, model.start(1)),
            "pages": lambda prompt=prompt, pool=pool: decode(model, prompt, PagedState.start(pool, 1)),
        }
        said = {name: run() for name, run in runs.items()}
        assert len({tuple(tokens) for tokens in said.values()}) == 1, "the caches disagree"
        states = {"buffers": model.start(1), "pages": PagedState.start(pool, 1)}
        for state in states.values():
            decode(model, prompt, state)
        seconds = medians(runs)
        found[str(length)] = {"seconds": seconds, "bytes": {name: state.nbytes for name, state in states.items()}}
    return found


def shared(model: Any, requests: int = 16, beginning: int = 512, own: int = 16) -> dict[str, Any]:
    """Requests that begin alike, one after another and all at once."""
    first = ids(beginning, 1)[0].tolist()
    prompts = [first + ids(own, 100 + i)[0].tolist() for i in range(requests)]
    options: dict[str, Any] = {"max_new_tokens": 8, "stop_ids": ()}
    reports: dict[str, Any] = {}

    def run(together: bool, cached: bool) -> list[list[int]]:
        engine = Engine(model, prefix_cache_bytes=BUDGET if cached else None)
        if together:
            engine.generate(first, max_new_tokens=1)
            done = engine.generate(prompts, **options)
        else:
            done = [engine.generate(prompt, **options)[0] for prompt in prompts]
        if engine.prefix_cache is not None:
            reports["together" if together else "in turn"] = engine.prefix_cache.report()
        return [completion.ids for completion in done]

    found: dict[str, Any] = {"requests": requests, "beginning": beginning, "own": own}
    for together, name in ((False, "in turn"), (True, "together")):
        assert run(together, True) == run(together, False), "the caches disagree"
        found[name] = medians({"without": lambda t=together: run(t, False), "with": lambda t=together: run(t, True)})
    return {**found, "reports": reports}


def overhead(model: Any) -> dict[str, dict[str, float]]:
    """Decoding rows that share nothing: what pages cost where they buy nothing."""
    found = {}
    for rows in (1, 8, 32):
        prompts = [ids(64, 1000 + i)[0].tolist() for i in range(rows)]
        plain, paged = Engine(model), Engine(model, prefix_cache_bytes=BUDGET)
        options: dict[str, Any] = {"max_new_tokens": 64, "stop_ids": ()}
        found[str(rows)] = medians(
            {
                "buffers": lambda p=prompts, e=plain, o=options: e.generate(p, **o),
                "pages": lambda p=prompts, e=paged, o=options: e.generate(p, **o),
            }
        )
    return found


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    """The page."""
    (result,) = seeds
    lengths = []
    for length, row in result["by length"].items():
        s, b = row["seconds"], row["bytes"]
        faster = {way: f"{s[way]:.3f} s ({s['no cache'] / s[way]:.1f}x faster)" for way in ("buffers", "pages")}
        held = [f"{size / 2**20:.2f} MiB" for size in b.values()]
        lengths.append([length, f"{s['no cache']:.3f} s", *faster.values(), *held])
    both = result["shared"]
    ways = [
        [name, f"{s['without']:.3f} s", f"{s['with']:.3f} s", f"{s['without'] / s['with']:.1f}x faster"]
        for name in ("in turn", "together")
        for s in [both[name]]
    ]
    costs = [
        [rows, f"{s['buffers']:.3f} s", f"{s['pages']:.3f} s", f"{s['pages'] / s['buffers'] - 1:+.0%} time"]
        for rows, s in result["overhead"].items()
    ]
    head = ["prompt", "no cache", "buffers", "pages", "bytes, buffers", "bytes, pages"]
    return [
        Section(f"One row: {NEW} tokens after a prompt", [], [table(head, lengths)]),
        Section("Prompts that begin alike", [], [table(["requests", "without a prefix cache", "with", ""], ways)]),
        Section("Nothing shared: 64 tokens after 64", [], [table(["rows", "buffers", "pages", ""], costs)]),
    ]


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    both = seeds[0]["shared"]
    kept = both["reports"]["in turn"]
    sizes = {"dim": MODEL["dim"], "layers": MODEL["layers"], "held": kept["bytes"] / 2**20}
    return {"parameters": seeds[0]["parameters"], "both": both, "kept": kept, **sizes}
