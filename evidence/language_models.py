"""Bigram, n-gram and feed-forward models: cost and quality.

Text: the documentation of this Python, {data[train_tokens]:,} tokens of byte-level BPE ({data[vocabulary]:,} tokens) to
train, {data[held_out_documents]} documents ({data[held_out_bytes]:,} bytes) held out. Times are wall time, with two
threads for trained models and one for counted ones. Counting has no random part, so its seeds are one measurement and
its intervals have zero width: they say nothing about other texts.

- **lm/bigram: simple, fast, very limited context.** The claim holds, but what fails first is not the context but the
  zeros: every held-out bigram that was never seen gets probability 0 (10^-99 here, 329 bits), so the same counts give
  {bits[bigram]:.2f} bits per byte unsmoothed and {bits[2]:.2f} smoothed. Two tokens of context instead of one save
  another {further:.0%}.
- **lm/feedforward: learned embeddings share parameters, fixed window.** It has {fewer[0]:.1f} times fewer parameters
  than the 5-gram with the same window, and {more[0]:+.0%} bits per byte: sharing saves memory and costs training time.
  The transformer, with {fewer[1]:.1f} times fewer parameters, has {more[1]:+.0%}, after {longer:.0f} times the 5-gram's
  time. The swapped words of [ngram_neural](../ngram_neural/page.md) show that parameters are shared.
- The trained models took {steps:,.0f} steps, {millions:.1f} million tokens: {passes:.1f} passes over the text that
  counting reads once. More steps would lower both.
- **lm/ngram: fast.** Counting and smoothing take {times[0]:.2f} to {times[1]:.2f} s. `benchmarks/ngram.py` compares
  estimation and queries with KenLM: [figures](../benchmarks/ngram.jsonl).
- **Memory grows with N**: {grows:.0f} times from order 2 to order 10. Beyond order 5 it is {late[0]:.0f} to
  {late[1]:.0f} MB per order: most long n-grams occur once, and an order adds at most one n-gram per token.
- **Poor on unseen n-grams** holds without smoothing: {unsmoothed:.0f} bits per byte at order 5, {bits[bigram]:.1f} at
  order 2. [ngram_neural](../ngram_neural/page.md) measures how far it holds with smoothing.
- With modified Kneser-Ney {orders}.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evidence._compared import compared, shown, trained
from llmanac.core.pages import Section
from llmanac.lab.stats import mean

ROWS = ("lm/bigram", "lm/ngram", "lm/feedforward")
CLAIM = (
    "n-grams are extremely fast, grow with their order and are poor on what they never saw; a feed-forward model shares"
)
SEEDS, REPLICATE = 1, "measurement"  # each comparison has seeds of its own
TOLERANCE = 1e-3  # float32 training
PIECES = ("language_models", "smoothings")
PLAIN = "ngram{smoothing=mle}"


def measure(seed: int, size: str, piece: str = "") -> dict[str, Any]:
    return {name: trained(name, seed) for name in PIECES} if size == "small" else compared(piece)[piece]


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    return [section for name in PIECES for section in shown(name, seeds[0][name])]


def bits(result: Mapping[str, Any], arm: str) -> float:
    return mean(result["values"]["bits_per_byte"][arm])


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    models, counted = (seeds[0][name] for name in PIECES)
    cost, data = models["costs"], models["data"]
    orders = {int(arm[len("ngram{order=") : -1]): arm for arm in counted["costs"] if arm.startswith("ngram{order=")}
    by_order = dict(sorted({**orders, 5: "ngram"}.items()))
    size = {order: counted["costs"][arm]["model_bytes"] / 1e6 for order, arm in by_order.items()}
    values = [bits(counted, arm) for arm in by_order.values()]
    longest, neural = cost["ngram{order=5}"], (cost["feedforward"], cost["transformer"])
    late, times = (
        sorted([(size[7] - size[5]) / 2, (size[10] - size[7]) / 3]),
        [c["seconds"] for c in counted["costs"].values()],
    )
    falls = values == sorted(values, reverse=True)
    two, three, five = (bits(models, f"ngram{{order={order}}}") for order in (2, 3, 5))
    return {
        "data": data, "bits": {"bigram": bits(models, "bigram"), 2: two}, "further": 1 - three / two,
        "fewer": [longest["parameters"] / one["parameters"] for one in neural],
        "more": [bits(models, arm) / five - 1 for arm in ("feedforward", "transformer")],
        "longer": cost["transformer"]["seconds"] / longest["seconds"], "steps": neural[0]["steps"],
        "millions": neural[0]["tokens"] / 1e6, "passes": neural[0]["tokens"] / data["train_tokens"],
        "times": (min(times), max(times)), "grows": size[10] / size[2], "late": late,
        "unsmoothed": bits(counted, PLAIN),
        "orders": "no longer order is worse than a shorter one" if falls else "a longer order can be worse",
    }  # fmt: skip
