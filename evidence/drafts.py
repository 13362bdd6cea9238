"""What prompt lookup saves on a model that people use: CPU time with drafts over that without, by prompt.

SmolLM2-135M-Instruct (Q4_1) in the native runner, one thread, one request at a time, greedy, at most {new} tokens. The
engine decides when drafts pay. {prompts} prompts of each kind are made of articles of WikiText-2's test part: to repeat
a paragraph word by word, to say what a paragraph is about, and to go on with its first words. Both ways take turns, and
the median over {rounds} rounds counts. `LLMANAC_SHARED_DATA` names the folder of the text.

The tokens were those without drafts in {same} of {compared} answers. Of the drafted tokens {accepted} were accepted.

{findings}
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from benchmarks._corpora import needed_data
from evidence._grid import paced
from evidence._pretrained import needed
from evidence.quantized_models import articles
from evidence.speculation import random_lm
from llmanac.core.pages import Section, table
from llmanac.generate.engine import Engine
from llmanac.generate.load import load_engine
from llmanac.lab.complexity import one_thread
from llmanac.lab.stats import interval

ROWS = ("serve/speculative",)
CLAIM = "drafts save time where an answer repeats its prompt, and cost little elsewhere"
ARMS = ("without drafts", "prompt lookup, as the engine decides")
METRIC = "CPU seconds of each prompt with drafts over those without"
MARGIN = "1% of the time without; elsewhere 5% more are allowed"
SEEDS, REPLICATE = 1, "model: its prompts are the replicates"
VERSION = 2  # 2: the acceptance of each text decides, not one pause for all
TIMED = ("ratio", "proposed", "accepted")
ASKED = {
    "repeat": "Repeat this text exactly, word by word, and write nothing else:\n\n{}",
    "about": "Say in two sentences what this text is about:\n\n{}",
}
KINDS = (*ASKED, "go on")
PROMPTS, NEW, ROUNDS, WORDS, OPENING = 16, 48, 3, 60, 12


def prompts(kind: str, texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """The tokens of each prompt of a kind."""
    if kind == "go on":
        return [list(tokenizer.encode(" ".join(text.split()[:OPENING]))) for text in texts]
    return [
        tokenizer.chat_ids([{"role": "user", "content": ASKED[kind].format(" ".join(text.split()[:WORDS]))}],
                           add_generation_prompt=True)
        for text in texts
    ]  # fmt: skip


@one_thread()
def measure(seed: int, size: str) -> dict[str, Any]:
    """Of each prompt the ratio of times, whether the tokens are the same, and how many were drafted and accepted."""
    if size == "small":
        model = random_lm(64, 32, 1, seed)
        return {"repeat": compared(Engine(model), Engine(model, drafter="prompt-lookup"), [[1, 2, 1, 2]], 8, 1)}
    place = needed()
    plain, drafted = (load_engine(place, device="cpu", runner="native", draft=d) for d in (None, "prompt-lookup"))
    texts = articles(needed_data("text") / "text" / "wikitext2_test.txt")[:PROMPTS]
    return {
        kind: compared(plain, drafted, prompts(kind, texts, plain.tokenizer), NEW, ROUNDS) for kind in KINDS
    }  # fmt: skip


def compared(plain: Engine, drafted: Engine, asked: Sequence[list[int]], new: int, rounds: int) -> dict[str, Any]:
    """Both engines on each prompt, in turns."""
    found: dict[str, Any] = {"ratio": [], "same": 0}
    before = drafted.speculation.report()
    for ids in asked:
        done: dict[str, list[int]] = {}

        def run(name: str, engine: Engine, ids: list[int] = ids, done: dict[str, list[int]] = done) -> None:
            done[name] = list(engine.generate([ids], max_new_tokens=new)[0].ids)

        times = paced({"plain": lambda run=run: run("plain", plain), "drafts": lambda run=run: run("drafts", drafted)},
                      rounds)  # fmt: skip
        found["ratio"].append(times["drafts"]["ratio"])
        found["same"] += done["plain"] == done["drafts"]
    after = drafted.speculation.report()
    return {**found, **{k: after[k] - before[k] for k in ("proposed", "accepted")}}


def longer(seeds: Sequence[dict[str, Any]], kind: str, than: float = 1.0) -> list[float]:
    """By prompt, the time with drafts over that without, less a bound."""
    return [ratio - than for ratio in seeds[0][kind]["ratio"]]


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    rows = []
    for kind, own in seeds[0].items():
        low, high = interval(own["ratio"])
        rows.append([
            kind, f"{len(own['ratio'])}", f"{own['proposed']:,}", f"{own['accepted'] / max(own['proposed'], 1):.0%}",
            f"{fmean(own['ratio']):.2f} ({low:.2f} to {high:.2f})",
            f"{min(own['ratio']):.2f} to {max(own['ratio']):.2f}",
        ])  # fmt: skip
    head = ["prompt", "prompts", "drafted", "accepted", "time over that without, 95%", "least to most"]
    return [Section("Time with drafts", [], [table(head, rows)])]


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    found = seeds[0]
    return {
        "new": NEW, "prompts": PROMPTS, "rounds": ROUNDS, "same": sum(own["same"] for own in found.values()),
        "compared": sum(len(own["ratio"]) for own in found.values()),
        "accepted": ", ".join(
            f"{own['accepted'] / max(own['proposed'], 1):.0%} ({kind})" for kind, own in found.items()
        ),
        "findings": "\n".join(
            f"- {kind}: {fmean(own['ratio']):.2f} of the time without drafts." for kind, own in found.items()
        ),
    }  # fmt: skip
