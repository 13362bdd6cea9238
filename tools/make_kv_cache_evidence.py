"""What remembering keys and values buys, and what it costs: no cache, one buffer a row, pages, shared pages.

python tools/make_kv_cache_evidence.py        docs/evidence/kv_cache/{kv_cache.md,kv_cache.json}

A model with random weights: work and memory do not depend on what it says. CPU seconds of one thread, medians of
interleaved rounds, so that a busy machine changes little.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from llmanac.core.device import machine
from llmanac.core.files import write_json, write_text
from llmanac.core.spec import make_method
from llmanac.generate.engine import Engine
from llmanac.models._block_pool import BlockPool
from llmanac.models._paged import PagedState

MODEL = {"name": "transformer", "dim": 256, "layers": 4, "max_length": 2048}
VOCABULARY = 4096
LENGTHS = (64, 256, 1024)
NEW = 32
ROUNDS = 5
BUDGET = 256 * 2**20


def ids(count: int, seed: int) -> torch.Tensor:
    return torch.randint(VOCABULARY, (1, count), generator=torch.Generator().manual_seed(seed))


def medians(runs: dict[str, Callable[[], Any]], rounds: int = ROUNDS) -> dict[str, float]:
    """Median CPU seconds of each, all taking turns."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for name in runs:
        runs[name]()
    for turn in range(rounds):
        for name in list(runs)[:: 1 if turn % 2 else -1]:
            start = time.process_time()
            runs[name]()
            taken[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


@torch.inference_mode()
def decode(model: Any, prompt: torch.Tensor, state: Any) -> list[int]:
    """NEW greedy tokens after a prompt; with a state only what is new is computed."""
    row, read = prompt, prompt
    for _ in range(NEW):
        logits = model(row if state is None else read, state, "last").logits
        read = logits[:, -1].argmax(-1, keepdim=True)
        row = torch.cat([row, read], 1)
    return row[0, prompt.shape[1] :].tolist()


def by_length(model: Any) -> dict[int, dict[str, Any]]:
    found = {}
    for length in LENGTHS:
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
        seconds = medians(runs, rounds=3)
        found[length] = {"seconds": seconds, "bytes": {name: state.nbytes for name, state in states.items()}}
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
        found[name] = medians(
            {"without": lambda t=together: run(t, False), "with": lambda t=together: run(t, True)}, rounds=3
        )
    return {**found, "reports": reports}


def overhead(model: Any) -> dict[int, dict[str, float]]:
    """Decoding rows that share nothing: what pages cost where they buy nothing."""
    found = {}
    for rows in (1, 8, 32):
        prompts = [ids(64, 1000 + i)[0].tolist() for i in range(rows)]
        plain, paged = Engine(model), Engine(model, prefix_cache_bytes=1)
        options: dict[str, Any] = {"max_new_tokens": 64, "stop_ids": ()}
        found[rows] = medians(
            {
                "buffers": lambda p=prompts, e=plain, o=options: e.generate(p, **o),
                "pages": lambda p=prompts, e=paged, o=options: e.generate(p, **o),
            },
            rounds=3,
        )
    return found


def page(result: dict[str, Any]) -> str:
    lines = [
        "# Key-value cache: speed against memory",
        "",
        "Made by `python tools/make_kv_cache_evidence.py`. A decoder of "
        f"{result['parameters']:,} parameters (random weights, dim {MODEL['dim']}, {MODEL['layers']} layers) on "
        f"{result['machine']['cpu']}, one thread; CPU seconds, medians of interleaved rounds. All ways said the same "
        f"tokens.",
        "",
        f"## One row: {NEW} tokens after a prompt",
        "",
        "| prompt | no cache | buffers | pages | bytes remembered: buffers | pages |",
        "|---|---|---|---|---|---|",
    ]
    for length, row in result["by length"].items():
        s, b = row["seconds"], row["bytes"]
        lines.append(
            f"| {length} | {s['no cache']:.3f} s | {s['buffers']:.3f} s ({s['no cache'] / s['buffers']:.1f}x faster) | "
            f"{s['pages']:.3f} s ({s['no cache'] / s['pages']:.1f}x) | {b['buffers'] / 2**20:.2f} MiB | "
            f"{b['pages'] / 2**20:.2f} MiB |"
        )
    both = result["shared"]
    lines += [
        "",
        f"## {both['requests']} prompts that begin with the same {both['beginning']} tokens and go on for "
        f"{both['own']} of their own",
        "",
        "| requests | without a prefix cache | with | |",
        "|---|---|---|---|",
    ]
    for name in ("in turn", "together"):
        s = both[name]
        lines.append(f"| {name} | {s['without']:.3f} s | {s['with']:.3f} s | {s['without'] / s['with']:.1f}x faster |")
    kept = both["reports"]["in turn"]
    lines += [
        "",
        f"Of {kept['prompt_tokens']} prompt tokens read in turn, {kept['reused_tokens']} were not computed; "
        f"{kept['blocks_kept']} blocks of {kept['block_tokens']} tokens are kept, {kept['bytes'] / 2**20:.1f} MiB of "
        f"a budget of "
        f"{kept['budget_bytes'] / 2**20:.0f} MiB.",
        "",
        "## What pages cost where nothing is shared: 64 tokens after 64, rows at once",
        "",
        "| rows | buffers | pages | |",
        "|---|---|---|---|",
    ]
    for rows, s in result["overhead"].items():
        lines.append(
            f"| {rows} | {s['buffers']:.3f} s | {s['pages']:.3f} s | {s['pages'] / s['buffers'] - 1:+.0%} time |"
        )
    lines += [
        "",
        "The claim (speed against memory) holds: without a cache every token costs a pass over all tokens before it, "
        "and the "
        "factor grows with the prompt; with one, memory grows with every token. Pages take memory a block at a time "
        "where "
        "buffers double, and prompts that begin alike are read once; gathering them costs the time in the last table.",
    ]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent.parent / "docs/evidence/kv_cache")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    model = make_method("lm", MODEL).build(vocab_size=VOCABULARY).eval()
    with torch.no_grad():  # zeros, which some weights begin with, would make every token a tie
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    result: dict[str, Any] = {
        "machine": machine(), "parameters": model.parameter_count(), "by length": by_length(model),
        "shared": shared(model), "overhead": overhead(model),
    }  # fmt: skip
    write_json(out / "kv_cache.json", result)
    write_text(out / "kv_cache.md", page(result))
    print(page(result))


if __name__ == "__main__":
    main()
