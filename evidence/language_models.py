"""Bigram, n-gram, feed-forward model: what they cost and what they give.

From the bigram to the transformer on one text and one tokenizer, then smoothings and orders of what is counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evidence._compared import compared, shown, trained
from evidence._page import bullets
from llmanac.lab.report import Section, table
from llmanac.lab.stats import mean

ROWS = ("lm/bigram", "lm/ngram", "lm/feedforward")
CLAIM = (
    "n-grams are extremely fast, grow with their order and are poor on what they never saw; a feed-forward model shares"
)
SEEDS, REPLICATE = 1, "measurement"  # each comparison has seeds of its own
TOLERANCE = 1e-3  # float32 training
NAMES = ("language_models", "smoothings")
PLAIN = "ngram{smoothing=mle}"


def measure(seed: int, size: str) -> dict[str, Any]:
    return {name: trained(name, seed) for name in NAMES} if size == "small" else compared(*NAMES)


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    """What the rows claim beside the numbers, then both comparisons."""
    found = seeds[0]
    models, counted = found["language_models"], found["smoothings"]
    data = models["data"]
    about = (
        f"Text: the documentation of this Python, {data['train_tokens'] / 1000:,.0f} thousand tokens of byte-level BPE "
        f"({data['vocabulary']:,} tokens) to train, {data['held_out_documents']} documents "
        f"({data['held_out_bytes'] / 1000:.0f} kB) held out. Seconds are wall time, two threads for what is trained "
        "and one for what is counted. What is counted has no random part, so its seeds are one measurement and its "
        "intervals are zero wide: they say nothing about other texts."
    )
    return [
        Section("", [about]),
        Section("From the bigram to the transformer, in short", [bullets(of_models(models))], [costs(models)]),
        Section("N-grams by order and smoothing, in short", [bullets(of_ngrams(models, counted))], [costs(counted)]),
        *(section for name in NAMES for section in shown(name, found[name])),
    ]


def bits(result: Mapping[str, Any], arm: str) -> float:
    return mean(result["values"]["bits_per_byte"][arm])


def costs(result: Mapping[str, Any]) -> dict[str, Any]:
    rows = [
        [
            arm, f"{bits(result, arm):.4g}", f"{own['seconds']:.2f} s", f"{own['parameters']:,.0f}",
            f"{own['model_bytes'] / 1e6:.2f} MB", f"{own['peak_memory'] / 1e6:.0f} MB",
        ]
        for arm, own in result["costs"].items()
    ]  # fmt: skip
    return table(["", "bits per byte", "training", "numbers", "model", "memory while training"], rows)


def of_models(result: Mapping[str, Any]) -> list[str]:
    cost = result["costs"]
    bigram, smoothed, three = bits(result, "bigram"), bits(result, "ngram{order=2}"), bits(result, "ngram{order=3}")
    five, forward, transformer = (bits(result, arm) for arm in ("ngram{order=5}", "feedforward", "transformer"))
    longest = cost["ngram{order=5}"]
    smaller = {arm: longest["parameters"] / cost[arm]["parameters"] for arm in ("feedforward", "transformer")}
    passes = cost["feedforward"]["tokens"] / result["data"]["train_tokens"]
    return [
        "**lm/bigram: simple, fast, very limited context.** It holds, and the first thing that fails is not the "
        "context but the zeros: every held-out bigram that was never seen gets probability 0 (10^-99 here, 329 bits), "
        f"which makes {bigram:.2f} of what the same counts give as {smoothed:.2f} when smoothed. With two tokens of "
        f"context instead of one, a further {1 - three / smoothed:.0%} are gained.",
        "**lm/feedforward: learned embeddings share parameters, fixed window.** It has "
        f"{smaller['feedforward']:.1f} times fewer numbers than the 5-gram with the same window, and "
        f"{forward / five - 1:+.0%} bits per byte: sharing saves memory, and has to be paid for in training. The "
        f"transformer, with {smaller['transformer']:.1f} times fewer numbers, has {transformer / five - 1:+.0%}, after "
        f"{cost['transformer']['seconds'] / longest['seconds']:.0f} times the 5-gram's time. That it shares is shown "
        "by the swapped words of [ngram_neural](../ngram_neural/page.md).",
        f"The trained models took {cost['feedforward']['steps']:,.0f} steps, {cost['feedforward']['tokens'] / 1e6:.1f} "
        f"million tokens: {passes:.1f} passes over the text that counting read once. More steps would lower both.",
    ]


def of_ngrams(models: Mapping[str, Any], result: Mapping[str, Any]) -> list[str]:
    cost = result["costs"]
    orders = {int(arm.rpartition("=")[2].rstrip("}")): arm for arm in cost if arm.startswith("ngram{order=")}
    orders = dict(sorted({**orders, 5: "ngram"}.items()))
    grows = cost[orders[10]]["model_bytes"] / cost[orders[2]]["model_bytes"]
    late = [
        (cost[orders[b]]["model_bytes"] - cost[orders[a]]["model_bytes"]) / (b - a) / 1e6 for a, b in ((5, 7), (7, 10))
    ]
    falls = all(
        bits(result, b) <= bits(result, a) for a, b in zip(orders.values(), [*orders.values()][1:], strict=False)
    )
    times = [own["seconds"] for own in cost.values()]
    out = [
        f"**Fast.** Counting and smoothing take {min(times):.2f} to {max(times):.2f} s. From text to an ARPA file, and "
        "queries beside KenLM: [figures](../benchmarks/ngram.json) of `benchmarks/ngram.py`.",
        f"**Memory grows with N**: {grows:.0f} times from order 2 to order 10. Past order 5 it is {min(late):.0f} to "
        f"{max(late):.0f} MB an order: most long n-grams occur once, and an order adds at most one n-gram a token.",
        f"**Poor on unseen n-grams** holds without smoothing: {bits(result, PLAIN):.0f} bits per byte at order 5, "
        f"{bits(models, 'bigram'):.1f} at order 2. By how much it holds with smoothing is measured in "
        "[ngram_neural](../ngram_neural/page.md).",
    ]
    if falls:
        out.append(
            "Milder than the claim: with modified Kneser-Ney no longer order that was measured is worse than a shorter "
            "one."
        )
    return out
