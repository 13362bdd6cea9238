"""Speculative decoding: what drafts save.

The target is {target}: {parameters:,} parameters, float32, one thread, one sequence at a time. It wrote {samples} short
stories ({tokens:,} tokens); an n-gram model counted them and a small transformer ({small:,} parameters, most of them
its embedding) was trained on them for {steps} steps. The stories of the test begin otherwise. Prompt lookup has no
model; it is also tried where the answer quotes the prompt. "Always" drafts at every step. Times are CPU seconds of
decoding, one run each, so they are good to about a tenth.

The tokens were those of plain decoding in {same} of {runs} runs (near-ties may be decided otherwise in float32).

- Stories: {tokens:,} tokens are too few to train a draft on: {accepted[0]:.0%} of the n-gram's tokens and
  {accepted[1]:.0%} of the small transformer's were accepted. The best draft is {best[drafter]} with
  {best[per_call]:.2f} tokens a call and a speed-up of {best[speed]:.2f}. A call with k drafted tokens costs a CPU up to
  k + 1 times one without, until it is limited by reading the weights; so few accepted tokens lose time.
- Quoting: prompt lookup gives {quote[per_call]:.2f} tokens a call, a speed-up of {quote[speed]:.2f}.
- Without "always" the engine measures both ways and pauses drafts that lose: the worst drafter's speed-up is
  {worst[always]:.2f} with every step drafted, {worst[own]:.2f} when the engine decides.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from evidence._pretrained import needed
from llmanac.core.pages import Section, table
from llmanac.core.spec import make_method
from llmanac.core.types import Batch
from llmanac.generate.engine import Completion, Engine
from llmanac.generate.load import load_engine
from llmanac.generate.speculative import Speculation
from llmanac.lab.complexity import one_thread
from llmanac.models.lm.ngram import Ngram

ROWS = ("serve/speculative",)
CLAIM = "drafts that are often right save calls of the large model and leave its tokens unchanged"
SEEDS = 1
TIMED = ("seconds", "own", "same")

OPENINGS = (
    "Once upon a time there was a little",
    "One day, a girl named Lily",
    "Tom and his dog went",
    "The old man",
    "In a small village by the sea",
    "It was a rainy morning, and",
    "The cat wanted to",
    "A brave mouse",
)
TESTS = ("There was a boy who", "A little bird lived")
TEXT = (
    "The library opens at nine on Monday, Tuesday and Thursday, and at noon on Saturday. Members may borrow six books "
    "for three weeks. Children need the card of a parent."
)
ASK = f"Repeat this text exactly, word by word, and write nothing else:\n\n{TEXT}"
STEPS, EACH = 60, 6
HEAT = 0.8


def target() -> Engine:
    """SmolLM2."""
    return load_engine(needed(), device="cpu")


def random_lm(vocab_size: int, dim: int, layers: int, seed: int) -> Any:
    model = make_method("lm", {"name": "transformer", "dim": dim, "layers": layers, "max_length": 256})
    return model.build(vocab_size=vocab_size).initialise(seed).eval()


@one_thread()
def measure(seed: int, size: str) -> dict[str, Any]:
    """Acceptance and CPU seconds of each drafter, for greedy and sampled stories and for a quotation."""
    if size == "full":
        engine, new, each, steps = target(), 48, EACH, STEPS
        opened: list[Any] = list(OPENINGS)
        tests: list[Any] = list(TESTS)
        asked = engine.tokenizer.chat_ids([{"role": "user", "content": ASK}], add_generation_prompt=True)  # type: ignore[union-attr]
    else:
        engine, new, each, steps = Engine(random_lm(64, 32, 1, seed)), 16, 2, 2
        opened, tests = [[1, 2, 3], [4, 5]], [[6, 7]]
        asked = [*range(8, 24), *range(8, 20)]
    stories = engine.generate(opened, n=each, max_new_tokens=80 if size == "full" else 12, temperature=HEAT)
    texts = [[*done.prompt_ids, *done.ids] for done in stories]
    vocabulary = engine.model.vocab_size
    taken: dict[str, float] = {}
    start = time.process_time()
    counted = make_method("lm", {"name": "ngram", "order": 3, "smoothing": "kneser-ney"}).build(vocab_size=vocabulary)
    assert isinstance(counted, Ngram)
    if size == "full":
        counted.estimate([np.asarray(ids, np.int32) for ids in texts])
    taken["3-gram"], start = time.process_time() - start, time.process_time()
    small = trained(random_lm(vocabulary, 64 if size == "full" else 8, 1, seed), texts, steps, seed)
    taken["transformer"] = time.process_time() - start
    drafters: dict[str, Any] = {"3-gram": counted, "transformer": small, "prompt-lookup": "prompt-lookup"}
    if size == "small":
        del drafters["3-gram"]  # its kernels take seconds to compile
    tasks = {
        "stories, greedy": (tests, {}, drafters),
        "stories, sampled": (tests, {"temperature": HEAT, "seed": seed}, drafters),
        "a quotation, greedy": ([asked], {}, {"prompt-lookup": "prompt-lookup"}),
    }
    found = {
        name: task(engine, prompts, {"max_new_tokens": new, **options}, chosen)
        for name, (prompts, options, chosen) in tasks.items()
    }
    return {
        "parameters": sum(p.numel() for p in engine.model.parameters()),  # type: ignore[attr-defined]
        "small": small.parameter_count(),
        "samples": len(texts),
        "tokens": sum(map(len, texts)),
        "steps": steps,
        "training": {"seconds": taken},
        "tasks": found,
    }


def trained(model: Any, texts: Sequence[Sequence[int]], steps: int, seed: int) -> Any:
    """The model after a few steps on the texts, eight a step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(steps):
        rows = [texts[i] for i in torch.randint(len(texts), (8,), generator=generator).tolist()]
        width = min(map(len, rows))
        ids = torch.tensor([row[:width] for row in rows])
        logits = model(Batch(ids=ids[:, :-1])).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def task(engine: Engine, prompts: Sequence[Any], options: dict[str, Any], drafters: dict[str, Any]) -> dict[str, Any]:
    """Plain decoding, then each drafter at every step, and as the engine decides."""

    def run(drafter: Any, always: bool) -> tuple[list[Completion], float, Engine]:
        used = Engine(engine.model, engine.tokenizer, drafter=drafter)
        used.speculation.always = always
        used.generate([1, 2, 1, 2], max_new_tokens=2)  # what is compiled or read first is not timed
        used.speculation = Speculation(always=always)
        start = time.process_time()
        done = [used.generate([prompt], **options)[0] for prompt in prompts]
        return done, time.process_time() - start, used

    plain, seconds, _ = run(None, False)
    tokens = sum(len(done.ids) for done in plain)
    found: dict[str, Any] = {"tokens": tokens, "seconds": seconds, "drafters": {}}
    for name, drafter in drafters.items():
        done, taken, used = run(drafter, True)
        _, own, _ = run(drafter, False)
        same = sum(a.ids == b.ids for a, b in zip(plain, done, strict=True))
        found["drafters"][name] = {**used.speculation.report(), "seconds": taken, "own": own, "same": same}
    return {**found, "texts": len(prompts)}


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    """The page."""
    (result,) = seeds
    out = []
    for name, found in result["tasks"].items():
        rows = [["none", "", "", "1.00", f"{found['seconds']:.1f} s", "1.00", ""]]
        for drafter, row in found["drafters"].items():
            rows.append([
                drafter, f"{row['proposed']}", f"{row['acceptance'] or 0:.0%}", f"{row['tokens_per_call'] or 1:.2f}",
                f"{row['seconds']:.1f} s", f"{found['seconds'] / row['seconds']:.2f}",
                f"{found['seconds'] / row['own']:.2f}",
            ])  # fmt: skip
        head = ["drafter", "drafted", "accepted", "tokens a call", "time", "speed-up", "speed-up, engine decides"]
        out.append(Section(f"{name[0].upper()}{name[1:]}: {found['tokens']} tokens", [], [table(head, rows)]))
    taken = ", ".join(f"{name} {s:.1f} s" for name, s in result["training"]["seconds"].items())
    return [*out, Section("Making the drafts", [f"CPU seconds: {taken}."], [])]


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    (result,) = seeds
    every = [
        {
            "drafter": drafter,
            "task": name,
            "per_call": row["tokens_per_call"] or 1.0,
            "acceptance": row["acceptance"] or 0.0,
            "speed": found["seconds"] / row["seconds"],
            "own": found["seconds"] / row["own"],
            "same": row["same"],
            "texts": found["texts"],
        }
        for name, found in result["tasks"].items()
        for drafter, row in found["drafters"].items()
    ]
    stories = [row for row in every if row["task"].startswith("stories")]
    worst = min(stories, key=lambda row: row["speed"])
    keys = ("parameters", "small", "samples", "tokens", "steps")
    return {
        **{key: result[key] for key in keys},
        "target": "SmolLM2-135M-Instruct",
        "accepted": [
            next(row for row in stories if row["drafter"] == name)["acceptance"] for name in ("3-gram", "transformer")
        ],
        "same": sum(row["same"] for row in every),
        "runs": sum(row["texts"] for row in every),
        "best": max(stories, key=lambda row: row["speed"]),
        "quote": next(row for row in every if row["task"].startswith("a quotation")),
        "worst": {"always": worst["speed"], "own": worst["own"]},
    }
