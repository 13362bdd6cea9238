"""Samples against the probabilities that the model gives: every text of three tokens, counted.

A model with random weights and {vocabulary} tokens gives each of {texts} texts of three tokens a probability, which is
computed token by token. {samples} samples a seed are drawn by each way of decoding: torch, torch with drafts of another
model (speculative decoding), and the native runner. The chi-square statistic compares counts with expected counts
(texts that are expected less than 5 times are taken together); its p-value is uniform if samples follow the model, and
as good as 0 if they do not, as the last row shows for samples at temperature 0.7.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from llmanac.core.pages import Section, table
from llmanac.core.spec import make_method
from llmanac.core.types import Batch
from llmanac.generate.engine import Engine

ROWS = ("use/generate",)
CLAIM = "generated texts are samples x ~ P(X) of the model, by every runner and with drafts"
SEEDS = 3
TOLERANCE = 0.05  # float32 of two runners; counts of samples near a tie

VOCABULARY, LENGTH, PROMPT = 6, 3, [0, 1, 2]
SAMPLES = {"full": 20_000, "small": 500}
WAYS = ("torch", "torch, drafts", "native", "torch at temperature 0.7")


def model_of(seed: int, dim: int = 32) -> Any:
    model = make_method("lm", {"name": "transformer", "dim": dim, "layers": 2, "max_length": 16}).build(
        vocab_size=VOCABULARY
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3 + (parameter.ndim == 1))
    return model.eval()


def probabilities(model: Any) -> dict[tuple[int, ...], float]:
    """P of every text after the prompt."""
    texts = list(itertools.product(range(VOCABULARY), repeat=LENGTH))
    rows = torch.tensor([[*PROMPT, *text] for text in texts])
    with torch.no_grad():
        logs = model(Batch(ids=rows[:, :-1])).logits.double().log_softmax(-1)
    own = logs.gather(-1, rows[:, 1:, None])[:, len(PROMPT) - 1 :, 0].sum(1).exp()
    return dict(zip(texts, own.tolist(), strict=True))


def measure(seed: int, size: str) -> dict[str, Any]:
    """Chi-square statistics, degrees of freedom and p-values of each way."""
    model, samples = model_of(seed), SAMPLES[size]
    expected = probabilities(model)
    drafting = Engine(model, drafter=model_of(seed + 100), rows=500)
    drafting.speculation.always = True
    engines = {
        "torch": (Engine(model, rows=500), 1.0),
        "torch, drafts": (drafting, 1.0),
        "native": (Engine(model, rows=500, runner="native"), 1.0),
        "torch at temperature 0.7": (Engine(model, rows=500), 0.7),
    }
    found = {}
    for name, (engine, heat) in engines.items():
        counts: Counter[tuple[int, ...]] = Counter()
        for part in range(samples // 500):
            options: dict[str, Any] = {"max_new_tokens": LENGTH, "temperature": heat, "n": 500, "stop_ids": []}
            done = engine.generate([PROMPT], seed=1000 * seed + part, **options)
            counts.update(tuple(one.ids) for one in done)
        found[name] = chi_square(counts, expected, samples)
    return {"ways": found, "accepted": drafting.speculation.report()["acceptance"]}


def chi_square(
    counts: Counter[tuple[int, ...]], expected: dict[tuple[int, ...], float], samples: int
) -> dict[str, float]:
    often = [text for text, p in expected.items() if p * samples >= 5]
    cells = [(counts[text], expected[text] * samples) for text in often]
    rest = (samples - sum(count for count, _ in cells), samples - sum(wanted for _, wanted in cells))
    cells += [rest] if rest[1] > 1 else []
    statistic = sum((count - wanted) ** 2 / wanted for count, wanted in cells)
    freedom = len(cells) - 1
    half = torch.tensor([freedom / 2, statistic / 2], dtype=torch.float64)
    return {"statistic": statistic, "freedom": freedom, "p": float(torch.special.gammaincc(half[0], half[1]))}


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"vocabulary": VOCABULARY, "texts": VOCABULARY**LENGTH, "samples": f"{SAMPLES['full']:,}"}


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    rows = []
    for name in WAYS:
        own = [seed["ways"][name] for seed in seeds]
        rows.append([name, *(f"{one['statistic']:.0f} of {one['freedom']}, p = {one['p']:.2g}" for one in own)])
    least = min(seed["ways"][name]["p"] for seed in seeds for name in WAYS[:-1])
    accepted = " and ".join(f"{seed['accepted']:.0%}" for seed in seeds)
    holds = "holds" if least > 0.001 else "does not hold"
    words = f"The claim {holds}: the smallest p-value of the first three is {least:.2g}."
    return [
        Section(
            "Chi-square, by seed",
            paragraphs=[f"{words} Of the drafted tokens {accepted} were accepted."],
            tables=[table(["", *(f"seed {i}" for i in range(len(seeds)))], rows)],
        )
    ]
