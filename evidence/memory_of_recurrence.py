"""What recurrent layers remember: gradients by distance, the copy task, parameters and the state.

One block of width {dim} with a feed-forward layer, no positions in the recurrent models. A row of the copy task has
{symbols} symbols of {alphabet}, a number of blanks (the lag), and {symbols} marks at which the symbols are to be said
again in order. Training has lags of {lags}, mixed, {steps} steps of {rows} rows (AdamW at {lr}, cosine), the same rows
for all. What writes to the residual stream does not start at 0 here, so that there is a gradient through time from the
beginning. Guessing is right in {chance:.0%}.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from evidence._synthetic import Rows, fit, once, over, percent, right, writing
from llmanac.core.pages import Line, Section, line_chart, table
from llmanac.core.rng import numpy_generator, torch_generator
from llmanac.core.spec import make_method
from llmanac.core.types import HIDDEN, IGNORE, LAST, Batch
from llmanac.lab.stats import mean

ROWS = ("lm/rnn", "lm/gru", "lm/lstm")
CLAIM = (
    "a vanilla network's gradient vanishes with distance and its state has one size at any length; a GRU has fewer "
    "parameters than an LSTM of the same width; an LSTM remembers further than a GRU and a vanilla network on the copy "
    "task"
)
SEEDS = 3
TOLERANCE = 0.05  # float32 training

MODELS = ("rnn", "gru", "lstm", "mamba", "transformer")
COUNTED = ("rnn", "gru", "lstm", "mamba", "s4d", "transformer")
SIZES = {"full": {"dim": 48, "rows": 16, "steps": 500}, "small": {"dim": 16, "rows": 4, "steps": 3}}
ALPHABET, SYMBOLS, LR = 8, 3, 5e-3
BLANK, MARK = ALPHABET, ALPHABET + 1
LAGS, TESTED = (5, 10, 20, 40, 80), (5, 20, 80, 160, 320)
DISTANCES = (1, 2, 4, 8, 16, 32, 60)
LENGTHS = (64, 512)  # tokens in the state


def draw(rng: np.random.Generator, rows: int, lag: int) -> Rows:
    """Rows of the copy task."""
    said = rng.integers(ALPHABET, size=(rows, SYMBOLS))
    ids = np.concatenate([said, np.full((rows, lag), BLANK), np.full((rows, SYMBOLS), MARK)], 1)
    targets = np.full(ids.shape, IGNORE)
    targets[:, -SYMBOLS:] = said
    return ids, targets


def built(name: str, dim: int, seed: int) -> Any:
    """A model with initial weights."""
    mixer = "multi-head" if name == "transformer" else name
    spec = {"name": "transformer", "dim": dim, "layers": 1, "max_length": 512,
            "blocks": [{"name": "pre-norm", "mixer": mixer}],
            "position": "rope" if name == "transformer" else "none"}  # fmt: skip
    return writing(make_method("lm", spec).build(vocab_size=MARK + 1).initialise(seed), seed)


def gradients(model: Any, seed: int) -> list[float]:
    """The norm of the last output's gradient by the inputs at `DISTANCES`: means of logarithms over rows."""
    ids, _ = draw(numpy_generator(seed, "gradients"), 16, max(DISTANCES))
    x = model.embed(torch.from_numpy(ids)).detach().requires_grad_(True)
    hidden = model(Batch(embeddings=x), want=HIDDEN).hidden[:, -1]
    (hidden * torch.randn(hidden.shape, generator=torch_generator(seed, "direction"))).sum().backward()
    norms = x.grad.norm(dim=-1).clamp(min=1e-30).log().mean(0).exp()
    model.zero_grad()
    return [float(norms[-1 - distance]) for distance in DISTANCES]


def trained(name: str, seed: int, size: str) -> dict[str, Any]:
    """Gradients at initialisation and after training, and the accuracy by lag."""
    chosen = SIZES[size]
    model = built(name, chosen["dim"], seed)
    found: dict[str, Any] = {"parameters": model.parameter_count(), "before": gradients(model, seed)}

    def rows(rng: np.random.Generator) -> Rows:
        return draw(rng, chosen["rows"], int(rng.choice(LAGS)))

    losses = fit(model, rows, chosen["steps"], lr=LR, schedule={"name": "cosine", "warmup": 0.1}, seed=seed)
    found |= {"after": gradients(model, seed), "loss": mean(losses[-50:])}
    rng = numpy_generator(seed, "test")
    found["right"] = {str(lag): float(np.nanmean(right(model, draw(rng, 256, lag)))) for lag in TESTED}
    return found


@torch.no_grad()
def counted(dim: int) -> dict[str, dict[str, int]]:
    """Parameters of each mixer's recurrence, without the output product, and bytes of the state after some tokens."""
    out = {}
    for name in COUNTED:
        model, row = built(name, dim, 0), {}
        for length in LENGTHS:
            state = model.start(1)
            model(torch.zeros(1, length, dtype=torch.long), state, want=LAST)
            row[f"bytes after {length}"] = int(state.nbytes)
        mixer = model.model.layers[0].self_attn
        row["parameters"] = sum(p.numel() for p in mixer.parameters()) - dim * dim * (name in ("rnn", "gru", "lstm"))
        out[name] = row
    return out


def measure(seed: int, size: str) -> dict[str, Any]:
    """Every model."""
    if size == "small":
        return {"models": {n: trained(n, seed, size) for n in ("rnn", "lstm", "transformer")}, "counted": counted(16)}
    models = {n: once("memory_of_recurrence", f"{n}-{seed}", lambda n=n: trained(n, seed, size)) for n in MODELS}
    return {"models": models, "counted": counted(SIZES[size]["dim"])}


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    """The page."""
    models, lags = list(seeds[0]["models"]), list(seeds[0]["models"]["rnn"]["right"])
    right_by = [[n, *(percent(over(seeds, "models", n, "right", lag)) for lag in lags)] for n in models]
    tables = []
    for when in ("before", "after"):
        rows = [[n, *(small(value) for value in relative(seeds, n, when))] for n in models]
        tables.append(table([f"{when} training, at distance", *map(str, DISTANCES)], rows))
    lines = [
        Line(f"{n}, {when}", list(zip(DISTANCES, np.log10(relative(seeds, n, when)).tolist(), strict=True)),
             shade=2 * k + (when == "after"))
        for k, n in enumerate(("rnn", "gru", "lstm")) for when in ("before", "after")
    ]  # fmt: skip
    words = "Mean over the seeds, before and after training on the copy task."
    chart = line_chart(lines, "distance", "log10 of the gradient, 0 at distance 1", words)
    rows = [[n, f"{c['parameters']:,}", *(f"{c[f'bytes after {length}']:,}" for length in LENGTHS)]
            for n, c in seeds[0]["counted"].items()]  # fmt: skip
    head = ["mixer", "parameters", *(f"bytes of state after {length} tokens" for length in LENGTHS)]
    return [
        Section("Gradient by distance", ["Of the last output by an earlier input, over that at distance 1."], tables,
                [chart]),
        Section("Copy task: percent right by lag", [f"Longer lags than {max(LAGS)} were not trained. Means and half of "
                "the 95% t interval over the seeds."], [table(["lag", *lags], right_by)]),
        Section("Counted", ["A layer of the width above; parameters of rnn, gru and lstm without the output product."],
                [table(head, rows)]),
    ]  # fmt: skip


def relative(seeds: Sequence[dict[str, Any]], name: str, when: str) -> list[float]:
    """Gradients over that at distance 1: geometric means over the seeds."""
    ratios = [[math.log(g / one["models"][name][when][0]) for g in one["models"][name][when]] for one in seeds]
    return [math.exp(mean(values)) for values in zip(*ratios, strict=True)]


def small(value: float) -> str:
    """A ratio of gradients; what is near float32's smallest number is no number."""
    return f"{value:.2g}" if value > 1e-20 else "below 1e-20"


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The numbers of the text."""
    return {
        **SIZES["full"], "symbols": SYMBOLS, "alphabet": ALPHABET, "lags": ", ".join(map(str, LAGS)), "lr": LR,
        "chance": 1 / ALPHABET,
    }  # fmt: skip
