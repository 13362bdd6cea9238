"""Speed claims, measured together: what is called fast, slower or parallel, each as a ratio of CPU times.

{seeds} runs; in each all arms of a comparison take turns, and the medians over {rounds} rounds count. One thread, no
other work on the machine. SmolLM2-135M-Instruct is read from its Q4_1 file by the native runner; other models have
random weights. Each ratio is the time of the first arm over that of the second: mean over runs (least to most).

- Counting {tokens:,} tokens takes {bigram:.2g} (2-gram) and {ngram:.2g} (5-gram) of the time in which a feed-forward
  model reads as many once for training.
- A beam search with {beams} beams takes {beam:.1f} times the time of greedy decoding.
- A mask of a JSON Schema over 49,152 tokens takes {mask:.1f} microseconds a token, a call of the model {call:,.0f}.
- Of the weights' forms the ratios to float32 are those of the native runner at one row.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from evidence import kv_cache
from evidence._grid import paced
from evidence._pretrained import needed
from evidence.speculation import random_lm
from llmanac.core.pages import Section, table
from llmanac.core.spec import make_method
from llmanac.core.types import Batch
from llmanac.generate.constrain import json_schema
from llmanac.generate.constrain.matcher import MaskFollower, Matcher
from llmanac.generate.engine import Engine
from llmanac.generate.load import load_engine
from llmanac.lab.complexity import one_thread
from llmanac.models.gguf.write import export_gguf
from llmanac.models.scalar import ScalarModel
from llmanac.rewards import Sample
from llmanac.rewards.model import ModelReward
from llmanac.tokenizers.load import train_tokenizer

ROWS = (
    "lm/bigram", "lm/ngram", "lm/transformer", "compare/ngram-neural", "decode/beam", "constrain/logits", "reward/rule",
    "serve/dynamic-batching", "serve/quantized", "serve/kv-cache", "norm/rmsnorm",
)  # fmt: skip
CLAIM = "what is called fast is faster than what it is compared with, and what is called slower takes longer"
ARMS = ("each pair takes turns in one process",)
METRIC = "CPU seconds, the ratio of medians over interleaved rounds"
MARGIN = "1% of the other arm's time"
SEEDS, REPLICATE = 5, "run"
TIMED = ("seconds",)

ROUNDS, BEAMS = 5, 4
NEURAL = {
    "feedforward": {"name": "feedforward", "order": 5, "dim": 64, "hidden": 64},
    "lstm": {"name": "lstm", "dim": 64, "layers": 2},
    "transformer": {"name": "transformer", "dim": 64, "layers": 2, "max_length": 128},
}
FORMS = ("f32", "q8_0")
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "year": {"type": "integer"}, "tags": {"type": "array", "items": {
        "type": "string"}}},
    "required": ["name", "year", "tags"],
    "additionalProperties": False,
}  # fmt: skip
VALUE = '{"name": "Ada Lovelace", "year": 1843, "tags": ["engine", "notes on the engine", "numbers"]}'
PROMPT = "The museum opens at nine. In its first room there is"
ANSWERS = tuple(f"<think>{'two and two are four, ' * n}</think><answer>{n}</answer>" for n in range(1, 9))


@one_thread()
def measure(seed: int, size: str) -> dict[str, Any]:
    """Seconds of each arm; of a small run only that every arm runs."""
    full = size == "full"
    found = {
        "training": training(seed, full),
        "pass": passes(seed, full),
        "reward": rewards(seed, full),
        "norm": norms(2048 if full else 64, ROUNDS if full else 1),
        "cache": cache(seed, full),
    }
    with TemporaryDirectory(prefix="llmanac-rates-") as folder:
        return {"seconds": found | served(seed, full, Path(folder))} if full else {"arms": arms_of(found)}


def arms_of(found: Mapping[str, Mapping[str, float]]) -> dict[str, list[str]]:
    return {name: sorted(own) for name, own in found.items()}


def timed(
    runs: Mapping[str, Callable[[], Any]], full: bool, units: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Median seconds of each arm, for each unit of what it does."""
    found = paced(runs, ROUNDS if full else 1)
    return {name: own["seconds"] / (units or {}).get(name, 1.0) for name, own in found.items()}


def training(seed: int, full: bool) -> dict[str, float]:
    """Seconds a token of counting and estimating, and of one pass of gradient steps."""
    topics = make_method("source", {"name": "python-docs", "parts": ["topics"]}).documents()
    text = np.frombuffer("".join(d.text for d in topics).encode(), np.uint8).astype(np.int32)
    text = text[: 400_000 if full else 2_000]
    rows, runs, units = (
        torch.from_numpy(text[: 32 * 128].reshape(-1, 128) if full else text[:256].reshape(2, 128)),
        {},
        {},
    )
    for name, order in (("2-gram", 2), ("5-gram", 5)):
        spec = make_method("lm", {"name": "ngram", "order": order})
        runs[name] = lambda spec=spec: spec.build(vocab_size=256).estimate([text])
        units[name] = float(len(text))
    for name, fields in NEURAL.items():
        model: Any = make_method("lm", fields).build(vocab_size=256).initialise(seed)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        runs[name] = lambda model=model, optimizer=optimizer: step(model, optimizer, rows.long())
        units[name] = float(rows.numel())
    if not full:  # kernels of n-grams take seconds to compile
        runs = {name: run for name, run in runs.items() if name in NEURAL}
    return timed(runs, full, units)


def step(model: Any, optimizer: Any, rows: torch.Tensor) -> None:
    model.nll(Batch(ids=rows[:, :-1], targets=rows[:, 1:])).mean().backward()
    optimizer.step()
    optimizer.zero_grad()


@torch.inference_mode()
def passes(seed: int, full: bool) -> dict[str, float]:
    """Logits of all positions of a row: at once, and one after another with a cache."""
    model = random_lm(256, 256 if full else 16, 4 if full else 1, seed)
    ids = torch.randint(256, (1, 256 if full else 8), generator=torch.Generator().manual_seed(seed))

    def one_by_one() -> None:
        state = model.start(1)
        for at in range(ids.shape[1]):
            model(ids[:, at : at + 1], state)

    return timed({"at once": lambda: model(ids), "one by one": one_by_one}, full)


def rewards(seed: int, full: bool) -> dict[str, float]:
    """Seconds of scoring eight answers."""
    rule = make_method("reward", "format").build()
    tokenizer = train_tokenizer("utf8", [])
    model = ScalarModel(random_lm(tokenizer.vocab_size, 128 if full else 16, 2 if full else 1, seed)).eval()
    learned = ModelReward(model, tokenizer)
    samples = [Sample(row={}, prompt="", text=text, finished=True, tokens=len(text)) for text in ANSWERS]
    return timed({"rule": lambda: rule(samples), "model": lambda: learned(samples)}, full)


def norms(rows: int, rounds: int) -> dict[str, float]:
    """Forward and backward passes of the norms alone, width 512."""
    x, back = torch.randn(2, rows, 512, generator=torch.Generator().manual_seed(0))
    x.requires_grad_()
    built = {name: make_method("norm", name).build(dim=512) for name in ("layernorm", "rmsnorm")}
    runs = {
        name: lambda norm=norm: [torch.autograd.grad(norm(x), (x, *norm.parameters()), back) for _ in range(20)]
        for name, norm in built.items()
    }
    return {name: own["seconds"] for name, own in paced(runs, rounds).items()}


def cache(seed: int, full: bool) -> dict[str, float]:
    """32 tokens after a prompt of 1,024, with a cache of keys and values and without."""
    model = random_lm(kv_cache.VOCABULARY, 256 if full else 16, 4 if full else 1, seed)
    prompt = kv_cache.ids(1024 if full else 8, seed)
    prompt = prompt[:, : model.max_length - kv_cache.NEW] if model.max_length else prompt
    runs = {
        "with": lambda: kv_cache.decode(model, prompt, model.start(1)),
        "without": lambda: kv_cache.decode(model, prompt, None),
    }
    return timed(runs, full)


def served(seed: int, full: bool, folder: Path) -> dict[str, dict[str, float]]:
    """SmolLM2 by the native runner: beams, masks, requests at once, forms of the weights."""
    place = needed()
    engine = load_engine(place, device="cpu", runner="native")
    ids = engine.tokenizer.encode(PROMPT)
    draws = np.random.default_rng(seed)
    prompts = [[*ids, *draws.integers(0, 49_152, 8).tolist()] for _ in range(8)]
    plain: dict[str, Any] = {"max_new_tokens": 24, "stop_ids": ()}
    beam = [make_method("decoding", {"name": "beam", "beams": BEAMS})]
    beams = timed({
        "greedy": lambda: engine.generate(prompts[:1], **plain),
        "beams": lambda: engine.generate(prompts[:1], **plain, decoding=beam),
    }, full)  # fmt: skip
    batching = timed({
        "together": lambda: engine.generate(prompts, **plain),
        "in turn": lambda: [engine.generate([prompt], **plain) for prompt in prompts],
    }, full)  # fmt: skip
    dense = load_engine(place, device="cpu", dtype="float32")
    files = {kind: load_engine(export_gguf(dense.model, dense.tokenizer, folder / f"{kind}.gguf", kind), device="cpu",
                               runner="native") for kind in FORMS}  # fmt: skip
    files["bf16"] = load_engine(folder / "f32.gguf", device="cpu", runner="native", dtype="bfloat16")
    forms = timed({name: lambda own=own: own.generate(prompts[:1], **plain) for name, own in files.items()}, full)
    mask = statistics.median(masks(engine))
    return {"beams": beams, "batching": batching, "forms": forms,
            "masks": {"mask": mask, "call": forms["f32"] / plain["max_new_tokens"]}}  # fmt: skip


def masks(engine: Engine) -> list[float]:
    """Seconds of the mask of each token of a text."""
    tokenizer: Any = engine.tokenizer
    json.loads(VALUE)
    taken = []
    for turn in range(ROUNDS + 1):
        follower = MaskFollower(
            Matcher(json_schema.grammar(SCHEMA), tokenizer), [tokenizer.eos_id], tokenizer.vocab_size
        )
        for token in tokenizer.encode(VALUE):
            start = time.process_time()
            follower.bits()
            if turn:  # the first round compiles
                taken.append(time.process_time() - start)
            follower.advance(int(token))
    return taken


def ratios(seeds: Sequence[dict[str, Any]], group: str, one: str, other: str) -> list[float]:
    """Of each run, by how much the first arm takes longer than the other, as a part of the other's time."""
    return [run["seconds"][group][one] / run["seconds"][group][other] - 1 for run in seeds]


def mask_microseconds(seeds: Sequence[dict[str, Any]]) -> list[float]:
    """Microseconds of a mask in each run, less the hundred that are claimed."""
    return [1e6 * run["seconds"]["masks"]["mask"] - 100 for run in seeds]


COMPARED = (
    ("training", "2-gram", "feedforward"), ("training", "5-gram", "feedforward"), ("training", "transformer", "5-gram"),
    ("training", "lstm", "5-gram"), ("pass", "at once", "one by one"), ("beams", "beams", "greedy"),
    ("masks", "mask", "call"), ("reward", "rule", "model"), ("batching", "together", "in turn"),
    ("forms", "q8_0", "f32"), ("forms", "bf16", "f32"), ("cache", "with", "without"), ("norm", "rmsnorm", "layernorm"),
)  # fmt: skip


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    rows = []
    for group, one, other in COMPARED:
        found = [1 + ratio for ratio in ratios(seeds, group, one, other)]
        seconds = [statistics.median(run["seconds"][group][arm] for run in seeds) for arm in (one, other)]
        rows.append([group, one, other, *(f"{value:.3g}" for value in seconds),
                     f"{statistics.fmean(found):.3g} ({min(found):.3g} to {max(found):.3g})"])  # fmt: skip
    head = ["what", "first arm", "second arm", "seconds, first", "seconds, second", "first over second"]
    return [Section("CPU seconds (of training: a token)", [], [table(head, rows)])]


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    def over(group: str, one: str, other: str) -> float:
        return 1 + statistics.fmean(ratios(seeds, group, one, other))

    masks = [run["seconds"]["masks"] for run in seeds]
    return {
        "seeds": len(seeds), "rounds": ROUNDS, "tokens": 400_000, "beams": BEAMS,
        "bigram": over("training", "2-gram", "feedforward"), "ngram": over("training", "5-gram", "feedforward"),
        "beam": over("beams", "beams", "greedy"),
        **{key: 1e6 * statistics.median(run[key] for run in masks) for key in ("mask", "call")},
    }  # fmt: skip
