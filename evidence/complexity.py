"""How costs grow with the length: every mixer, and recurrent networks against attention.

Each mixer is the only layer of a model of width {dim}, with one row of s tokens. Operations (products, FFTs, and one
for each element of other arithmetic) and allocated bytes are counted and do not depend on the machine; seconds are CPU
time of one thread, the least of three. A slope is that of the log of a cost over the log of s, fitted to {longest}: 2
for O(s^2), 1 for O(s), 0 for O(1), about 1.1 for O(s log s). Constant parts (tiles of 256 keys, a window of 128 tokens,
a filter's matrix powers) make a slope smaller than theory's at these lengths; with small parts all slopes are within
0.15 of it (`tests/references/test_complexity.py`).

What the usual table of long-context methods says holds, with three remarks. Flash attention saves memory, not work:
its operations grow with s^2 like those of the plain form, whose memory grows with s^2 too. S4's work is O(s log s), not
O(s), since its filter is applied by FFT. A sparse pattern saves work over a complete row only: the next token is
compared with all keys in the cache, except for a sliding window, which keeps its last keys in a ring.

For recurrent networks against attention, the closed forms 6 T d^2 and 8 T d^2 + 4 T^2 d equal the counts. Between
recurrence and attention the memory of inference is often given as O(1) against O(T^2). The cache of keys and values is
O(T), 2 T d numbers a layer, as measured here; T^2 is the size of the scores of all tokens at once, which only the plain
form holds. One layer's cache at T = {last} takes {cache:,} bytes, an RNN's state {state:,}.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from llmanac.core.pages import Section, table
from llmanac.core.registry import build
from llmanac.core.types import Batch
from llmanac.lab import complexity

ROWS = ("compare/rnn-transformer", "lm/mamba", "lm/s4", "attention/flash")
CLAIM = (
    "T d^2 against T^2 d operations, a state of O(1) against a cache of O(T); flash attention takes O(s) memory; state "
    "spaces take O(s) or O(s log s) work and a constant state"
)
SEEDS = 1
TIMED = ("forward seconds", "backward seconds", "decode seconds", "tokens per second")
TOLERANCE = 0.02  # the allocator rounds, and releases of torch differ in small tensors

DIM = {"full": 64, "small": 16}
LENGTHS = {"full": (512, 1024, 2048, 4096, 8192, 16384), "small": (64, 128)}
PLAIN = f"{complexity.FULL}@plain"  # holds all scores, so it is measured at shorter lengths
RATES = {"full": (128, 256, 512, 1024, 2048, 4096), "small": (16, 32)}
MODELS = ("rnn", "gru", "lstm", "transformer")
FIELDS = {name: f"{name}{{states=16}}" for name in ("s4", "s4d")}  # of 64 the constant part of their filter is large
DRAWN = ("multi-head", "multi-head@flash", "sliding-window", "big-bird", "linear", "rnn", "mamba", FIELDS["s4"])
SAID = (
    ("Flash attention", "O(s)", "O(s²)", ("multi-head@flash",)),
    ("Sparse attention", "O(s)", "O(s × window)", ("sliding-window", "longformer", "big-bird")),
    ("Linear attention", "O(s)", "O(s)", ("linear", "random-features", "lightning")),
    ("State spaces", "O(s)", "O(s)", ("mamba", "mamba2", *FIELDS.values())),
)


ABOUT = (
    "theory, then measured: operations forward and backward; bytes forward and of a training step; operations and "
    "bytes of decoding a token; seconds forward, backward and decoding"
)
HEADS = ("", "operations", "bytes", "decode", "state", "seconds")


def slopes(lengths: Sequence[int], found: Mapping[str, Mapping[str, Sequence[float]]]) -> list[list[str]]:
    """Rows of a table under `HEADS`: theory, then slopes over the last four lengths, as `ABOUT` says."""

    def cell(growth: str, costs: Mapping[str, Sequence[float]], *names: str) -> str:
        measured = (f"{round(complexity.slope(lengths[-4:], costs[name][-4:]), 2) + 0.0:.2f}" for name in names)
        return growth + ", ".join(measured)

    rows = []
    for name, costs in found.items():
        theory = complexity.theory_of(name)
        known = (theory.work, theory.memory, theory.decode, theory.state) if theory else ()
        work, memory, decode, state = [f"{growth}: " for growth in known] or [""] * 4
        rows.append([
            name,
            cell(work, costs, "forward operations", "backward operations"),
            cell(memory, costs, "forward bytes", "training bytes"),
            cell(decode, costs, "decode operations", "decode bytes"),
            cell(state, costs, "state"),
            cell("", costs, "forward seconds", "backward seconds", "decode seconds"),
        ])  # fmt: skip
    return rows


def measure(seed: int, size: str) -> dict[str, Any]:
    """Costs of all mixers over the length, the closed forms, and training rates."""
    lengths, dim, small = LENGTHS[size], DIM[size], size == "small"
    names = (
        ["multi-head", "linear", "mamba", "rnn"]
        if small
        else [FIELDS.get(n, n) for n in complexity.mixers() if n != PLAIN]
    )
    fewer = lengths if small else lengths[:4]

    def report(line: str) -> None:
        if not small:
            print(f"  {line}", flush=True)

    return {
        "lengths": list(lengths),
        "costs": complexity.curves(names, lengths, dim, report),
        "plain": {"lengths": list(fewer), "costs": complexity.curves([PLAIN], fewer, dim, report)},
        "steps": list(RATES[size]),
        "closed forms": closed_forms(RATES[size], dim),
        "rates": {name: rates(name, RATES[size], 32 if small else 128, seed, small) for name in MODELS},
    }


def closed_forms(lengths: Sequence[int], dim: int) -> dict[str, dict[str, list[float]]]:
    """Counted product FLOPs and state bytes of one layer, and what the formulas give."""
    found = {}
    for name in ("rnn", complexity.FULL):
        subject = complexity.Subject(name, dim)
        rows = []
        for length in lengths:
            x, state = subject.row(length), subject.model.start(1)
            with torch.no_grad(), complexity.Operations() as counted:
                subject(x)
            with torch.no_grad():
                subject(x, state)
            work = 6 * length * dim**2 if name == "rnn" else 8 * length * dim**2 + 4 * length**2 * dim
            rows.append((counted.products, work, state.nbytes, 4 * (dim if name == "rnn" else 2 * length * dim)))
        titles = ("counted FLOPs", "formula", "state bytes", "state formula")
        columns = zip(*rows, strict=True)
        found[name] = {title: list(map(float, column)) for title, column in zip(titles, columns, strict=True)}
    return found


def rates(name: str, lengths: Sequence[int], dim: int, seed: int, small: bool) -> dict[str, list[float]]:
    """Tokens a second of training steps of as many tokens whatever the length, and FLOPs a token."""
    model = build("lm", name, dim=dim, layers=2, vocab_size=256, max_length=max(lengths))
    tokens = max(lengths)
    found: dict[str, list[float]] = {"tokens per second": [], "FLOPs per token": []}
    with complexity.one_thread():
        for length in lengths:
            ids = torch.randint(256, (tokens // length, length + 1), generator=torch.Generator().manual_seed(seed))
            batch = Batch(ids=ids[:, :-1], targets=ids[:, 1:])
            taken = []
            for _ in range(1 if small else 4):
                start = time.process_time()
                model.nll(batch).backward()
                taken.append(time.process_time() - start)
            found["tokens per second"].append(tokens / min(taken))
            found["FLOPs per token"].append(model.flops_per_token(length))
    return found


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    """The page."""
    (result,) = seeds
    lengths, costs, plain = result["lengths"], result["costs"], result["plain"]
    measured = slopes(lengths, costs) + slopes(plain["lengths"], plain["costs"])
    by_name = {row[0]: row for row in measured}
    said = [
        [approach, memory, work, name, *by_name[name][1:3]]
        for approach, memory, work, names in SAID
        for name in names
        if name in by_name
    ]
    formulas = [[name, theory.formula] for name in costs if (theory := complexity.theory_of(name))]
    drawn = {
        name: {**costs[name], "training seconds": complexity.training(costs[name])} for name in DRAWN if name in costs
    }
    charts = [
        complexity.chart(lengths, drawn, cost, label, "one thread")
        for cost, label in (
            ("forward operations", "operations of a forward pass"), ("training bytes", "bytes of a training step"),
            ("training seconds", "seconds of a training step"),
        )
    ]  # fmt: skip
    exact = [
        [str(length), *(f"{part[key][i]:,.0f}" for part in result["closed forms"].values() for key in part)]
        for i, length in enumerate(result["steps"])
    ]
    heads = ["T", *(f"{name}: {key}" for name, part in result["closed forms"].items() for key in part)]
    speed = [
        [str(length), *(f"{result['rates'][name]['tokens per second'][i]:,.0f}" for name in MODELS)]
        for i, length in enumerate(result["steps"])
    ]
    about = f"Slopes; {ABOUT}. {PLAIN} is measured up to {plain['lengths'][-1]:,} tokens."
    return [
        Section("What is said of long-context methods", [], [
            table(["approach", "memory", "work", "mixer", "operations", "bytes"], said)]),
        Section("All mixers", [about], [
            table(list(HEADS), measured), table(["", "work"], formulas)], charts),
        Section("Break-even lengths", [
            f"Tokens from which a mixer takes at least {complexity.MARGIN:.0%} less time than {complexity.FULL} by "
            "torch's kernel, one row, one thread."
        ], [table(*map(list, complexity.comparison(lengths, costs)))]),
        Section("A recurrent layer and an attention layer", [], [table(heads, exact)]),
        Section("Training rate over the length", [
            "Tokens a second of a training step, two layers of width 128. Every step has as many tokens: long rows are "
            "fewer, so a recurrent network makes more and smaller products, and attention compares more pairs."
        ], [table(["T", *MODELS], speed)]),
    ]  # fmt: skip


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    (result,) = seeds
    lengths, forms = result["lengths"], result["closed forms"]
    cache, state = (int(forms[name]["state bytes"][-1]) for name in (complexity.FULL, "rnn"))
    span = f"{lengths[-4:][0]:,} to {lengths[-1]:,} tokens"
    return {"dim": DIM["full"], "longest": span, "last": result["steps"][-1], "cache": cache, "state": state}
