"""Ways to tune a pretrained model: all weights, LoRA, QLoRA, a prefix, a prompt.

SmolLM2-135M-Instruct ({total:,} parameters, from its Q4_1 file) learns to say `positive` or `negative` of a sentence of
SST-2: the chat template, the system's message `{asked}`, the sentence, and the word as the answer, which alone carries
loss, with the end of its turn. A seed draws {rows} training sentences of at most {longest} tokens, their order and an
adapter's first numbers;
every arm reads them {epochs} times in steps of {batch} rows of like length (AdamW without decay, warm-up and cosine,
bfloat16 products). Of {items} test sentences of that length the more probable of the two words is the answer: accuracy,
and the loss in nats between the two words. The share of the gain is (arm - untuned) / (all weights - untuned) in
accuracy, seed by seed.

An arm's rate is the best of a sweep by the loss on short sentences of the development part, with a seed that is no
replicate: three rates, and up to two further ones while an edge is the best. QLoRA has LoRA's rate, the prefix of one
place that of five.

{findings}

Limits: one small model whose file was rounded to 4 bits (nf4 rounds those numbers once more), one task of two answers,
short sentences, one number of rows, a rate and no other choice swept. `LLMANAC_SHARED_DATA` names the folder of the
data.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks._corpora import needed_data
from evidence import _cells
from evidence._page import with_interval
from evidence._pretrained import needed
from evidence._synthetic import fit, once, percent, writing
from evidence.classifiers import made_up
from evidence.tune_smollm2 import small_model
from llmanac.core.pages import Line, Section, line_chart, table
from llmanac.core.rng import numpy_generator
from llmanac.core.spec import make_method
from llmanac.core.types import HIDDEN, Batch, evaluating
from llmanac.data.labelled import Labelled, read_labelled
from llmanac.lab.complexity import one_thread
from llmanac.models.load import load_model
from llmanac.objectives.instruction import reading
from llmanac.tokenizers.load import load_tokenizer
from llmanac.train.plan import set_attention

ROWS = (
    "finetune/standard", "finetune/full", "finetune/lora", "finetune/qlora", "finetune/prefix", "finetune/prompt"
)  # fmt: skip
CLAIM = (
    "LoRA keeps 90 to 95% of full tuning's gain on a pretrained model and QLoRA as much; a prefix keeps less than LoRA "
    "at equal parameters and a prompt less than half; tuning all weights overfits"
)
SEEDS = 5
TIMED, TOLERANCE = ("accuracy",), 0.02  # training: a made-up model's answers are close to ties
METRIC = "accuracy on test sentences, as a share of full tuning's gain over the untuned model"
MARGIN = "LoRA 0.925 within 0.025; QLoRA within 0.05 of LoRA; prefix and prompt 0.01; overfitting 1% of the lowest loss"
SWEEP = "three rates an arm, up to two further ones while an edge is the best, by the loss on development sentences"

QV = ("q_proj", "v_proj")  # rank 1 of both trains as many numbers as five places of a prefix: 57,600
ADAPTERS: dict[str, dict[str, Any] | None] = {
    "full": None,
    "lora": {"name": "lora", "rank": 8, "alpha": 16.0},
    "qlora": {"name": "lora", "rank": 8, "alpha": 16.0},
    "lora-1": {"name": "lora", "rank": 1, "alpha": 2.0, "targets": QV},
    "prefix-5": {"name": "prefix", "tokens": 5},
    "prefix-1": {"name": "prefix", "tokens": 1},  # as many numbers as twenty places of a prompt: 11,520
    "prompt-20": {"name": "prompt", "tokens": 20},
}
RATES = {
    "full": (1e-5, 3e-5, 1e-4), "lora": (3e-4, 1e-3, 3e-3), "lora-1": (1e-3, 3e-3, 1e-2),
    "prefix-5": (1e-2, 3e-2, 1e-1), "prompt-20": (1e-2, 3e-2, 1e-1),
}  # fmt: skip
SAME_RATE = {"qlora": "lora", "prefix-1": "prefix-5"}
TITLES = {
    "full": "all weights", "lora": "LoRA, rank 8, all linear maps", "qlora": "QLoRA, the same over nf4",
    "lora-1": "LoRA, rank 1, queries and values", "prefix-5": "prefix, 5 places", "prefix-1": "prefix, 1 place",
    "prompt-20": "prompt, 20 places",
}  # fmt: skip
ARMS = tuple(ADAPTERS)
PIECES = ("untuned", *(f"sweep {arm}" for arm in RATES), *ARMS)
PARTIAL = True
SWEPT, MOST, RATIO = 10_000, 5, 10**0.5  # a sweep's seed, how many rates it may try, and a further one's distance
ASKED, WORDS = "Positive or negative?", ("negative", "positive")
LONGEST, DRAWN, EPOCHS, BATCH, WATCHED = 20, 500, 3, 25, 400
SCHEDULE = {"name": "cosine", "warmup": 0.1}


@dataclass(frozen=True)
class Task:
    """What is tuned on what: the place of a model, its tokenizer, and the labelled sentences of each part."""

    model: Path
    tokenizer: Any
    train: Labelled
    development: Labelled
    test: Labelled
    drawn: int = DRAWN
    dtype: torch.dtype = torch.bfloat16


@cache
def task() -> Task:
    """SmolLM2 and the short sentences of SST-2."""
    model, folder = needed(), needed_data("sst2") / "sst2"
    tokenizer = load_tokenizer(model)
    parts = (short(read_labelled(folder / f"stsa.binary.{part}"), tokenizer) for part in ("train", "dev", "test"))
    return Task(model, tokenizer, *parts)


def short(some: Labelled, tokenizer: Any) -> Labelled:
    """Those of at most LONGEST tokens."""
    return some_of(some, [i for i, text in enumerate(some.texts) if len(tokenizer.encode(text)) <= LONGEST])


def some_of(given: Labelled, chosen: Sequence[int]) -> Labelled:
    return Labelled(*([part[i] for i in chosen] for part in (given.texts, given.labels, given.lines)))


def said(text: str, answer: str | None = None) -> list[dict[str, str]]:
    """The chat about a sentence."""
    turns = [("system", ASKED), ("user", text), *([("assistant", answer)] if answer is not None else [])]
    return [{"role": role, "content": content} for role, content in turns]


def batches(lengths: np.ndarray, rng: np.random.Generator, size: int) -> Iterator[np.ndarray]:
    """Numbers of rows, epoch after epoch: batches of like length in random order; equal lengths are shuffled."""
    while True:
        mixed = rng.permutation(len(lengths))
        order = mixed[np.argsort(lengths[mixed], kind="stable")]
        cut = [order[at : at + size] for at in range(0, len(order), size)]
        yield from (cut[i] for i in rng.permutation(len(cut)))


@torch.no_grad()
def answered(model: Any, of: Task, some: Labelled) -> dict[str, Any]:
    """Accuracy and the loss in nats between the two words; that of two halves of the first WATCHED sentences."""
    names = torch.tensor([of.tokenizer.encode(word)[0] for word in WORDS])
    asked = [of.tokenizer.encode_chat(said(text), add_generation_prompt=True)[0] for text in some.texts]
    labels = torch.tensor([int(label) for label in some.labels])
    losses, right = torch.zeros(len(asked)), torch.zeros(len(asked))
    order = sorted(range(len(asked)), key=lambda i: len(asked[i]))
    with evaluating(model):
        for at in range(0, len(order), 50):
            chosen = order[at : at + 50]
            hidden = model(Batch.padded([asked[i] for i in chosen]), want=HIDDEN).hidden
            last = torch.stack([row[len(asked[i]) - 1] for row, i in zip(hidden, chosen, strict=True)])
            logits = reading(model)[1](last.float())[:, names]  # in bfloat16 one of 20 is known to an eighth
            losses[chosen] = F.cross_entropy(logits, labels[chosen], reduction="none")
            right[chosen] = (logits.argmax(1) == labels[chosen]).float()
    halves = [float(losses[at:WATCHED:2].mean()) for at in range(2)]
    return {"accuracy": float(right.mean()), "loss": float(losses.mean()), "halves": halves}


def loaded(of: Task, arm: str, seed: int) -> Any:
    """The model with an arm's adapter."""
    model = load_model(of.model, dtype="float32")
    if arm == "qlora":
        make_method("quantizer", "nf4").build().apply(model)
    if ADAPTERS[arm] is not None:
        make_method("adapter", ADAPTERS[arm]).build(seed=seed).apply(model)
    set_attention(model, "plain")
    return model


def tuned(of: Task, arm: str, rate: float, seed: int, held: Labelled, watch: bool = True) -> dict[str, Any]:
    """An arm after its training, on held-out sentences; and the losses of their halves after each epoch."""
    model, rng = loaded(of, arm, seed), numpy_generator(seed, "drawn")
    drawn = rng.choice(len(of.train), of.drawn, replace=False)
    objective = make_method("objective", "instruction").build(tokenizer=of.tokenizer)
    rows = [{"messages": said(of.train.texts[i], WORDS[int(of.train.labels[i])])} for i in drawn]
    encoded = list(objective.encode_all(rows))
    feed, steps = batches(np.array([len(ids) for ids, _ in encoded]), rng, BATCH), -(-of.drawn // BATCH)
    few = some_of(held, range(min(WATCHED, len(held))))
    curve: list[list[float]] = []

    def look(step: int) -> None:
        if watch and step < steps * EPOCHS:
            curve.append(answered(model, of, few)["halves"])

    losses = fit(
        model, lambda _: tuple(zip(*(encoded[i] for i in next(feed)), strict=True)), steps * EPOCHS, lr=rate,
        schedule=SCHEDULE, seed=seed, objective=objective, dtype=of.dtype, every=steps, look=look,
    )  # fmt: skip
    found = answered(model, of, held)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {**found, "curve": [*curve, found["halves"]], "rate": rate, "trained": trained,
            "training": [fmean(losses[at : at + steps]) for at in range(0, len(losses), steps)]}  # fmt: skip


def sweep(of: Task, arm: str) -> dict[str, Any]:
    """Loss and accuracy on development sentences by rate, and the rate of the least loss."""
    found: dict[float, Any] = {}
    todo = list(RATES[arm])
    while todo:
        rate = todo.pop(0)
        run = partial(tuned, of, arm, rate, SWEPT, of.development, watch=False)
        found[rate] = once("tuning_smollm2", f"{arm}-{rate:.3g}", run)
        best = min(found, key=lambda rate: found[rate]["loss"])
        if not todo and len(found) < MOST and best in (min(found), max(found)):
            todo = [best / RATIO if best == min(found) else best * RATIO]
    rates = {f"{rate:.3g}": [found[rate]["loss"], found[rate]["accuracy"]] for rate in sorted(found)}
    return {"rates": rates, "best": best}


@one_thread()
def measure(seed: int, size: str, piece: str = "") -> dict[str, Any]:
    """The untuned model, a sweep, or an arm; small: every arm on a made-up model."""
    if size == "small":
        with tempfile.TemporaryDirectory() as folder:
            small_model(Path(folder))
            writing(load_model(folder), seed).save_pretrained(folder)  # what changes keys changes something then
            own = made_up("the {} is {}")
            of = Task(Path(folder), load_tokenizer(Path(folder)), own, own, own, drawn=25, dtype=torch.float32)
            return {arm: tuned(of, arm, RATES[SAME_RATE.get(arm, arm)][1], seed, own) for arm in ARMS}
    of = task()
    if piece == "untuned":
        model = loaded(of, "full", seed)
        model.compute_dtype = of.dtype
        return {**answered(model, of, of.test), "total": model.parameter_count(), "items": len(of.test)}
    if piece.startswith("sweep "):
        return sweep(of, piece.removeprefix("sweep "))
    rate = _cells.kept("tuning_smollm2", f"sweep {SAME_RATE.get(piece, piece)}.0")["best"]
    return tuned(of, piece, rate, seed, of.test)


def cells(seeds: int) -> list[str]:
    """Sweeps first, then seed by seed over all arms."""
    return [*(f"{piece}.0" for piece in PIECES[: -len(ARMS)]), *(f"{arm}.{n}" for n in range(seeds) for arm in ARMS)]


def shares(seeds: Sequence[dict[str, Any]], arm: str, *beside: str) -> list[float]:
    """The share of full tuning's gain that an arm keeps, of each seed that has it, full tuning and those `beside`."""
    before = seeds[0]["untuned"]["accuracy"]
    some = [one for one in seeds if {arm, "full", *beside} <= one.keys()]
    return [(one[arm]["accuracy"] - before) / (one["full"]["accuracy"] - before) for one in some]


def kept(seeds: Sequence[dict[str, Any]], claimed: float, arm: str) -> list[float]:
    """The share that an arm keeps less the claimed one."""
    return [share - claimed for share in shares(seeds, arm)]


def apart_from(seeds: Sequence[dict[str, Any]], arm: str, other: str) -> list[float]:
    """The share that an arm keeps less that of another."""
    return [a - b for a, b in zip(shares(seeds, arm, other), shares(seeds, other, arm), strict=True)]


def overfitted(seeds: Sequence[dict[str, Any]], arm: str) -> list[float]:
    """How much larger the loss is at the end than after the best epoch: chosen on one half, measured on the other."""
    out = []
    for one in (one for one in seeds if arm in one):
        curve = [seeds[0]["untuned"]["halves"], *one[arm]["curve"]]
        lowest = min(curve, key=lambda halves: halves[0])[1]
        out.append(curve[-1][1] / lowest - 1)
    return out


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    """Arms, losses by epoch, sweeps."""
    first = seeds[0]["untuned"]
    rows, curves, losses = [["untuned", "", "", f"{first['accuracy']:.3f}", "", f"{first['loss']:.3f}", ""]], [], []
    for arm in ARMS:
        if some := [one[arm] for one in seeds if arm in one]:
            share = percent(shares(seeds, arm)) if arm != "full" and shares(seeds, arm) else ""
            rows.append([TITLES[arm], f"{some[0]['trained']:,}", f"{some[0]['rate']:.3g}",
                         with_interval([one["accuracy"] for one in some]), share,
                         with_interval([one["loss"] for one in some]), str(len(some))])  # fmt: skip
            by_epoch = [[fmean(one["curve"][at]) for one in some] for at in range(EPOCHS)]
            losses.append([TITLES[arm], *map(with_interval, by_epoch),
                           with_interval([one["training"][-1] for one in some], 4)])  # fmt: skip
            points = [(0.0, fmean(first["halves"])), *((at + 1.0, fmean(v)) for at, v in enumerate(by_epoch))]
            curves.append(Line(TITLES[arm], points))
    swept = []
    for arm, found in ((arm, seeds[0].get(f"sweep {arm}")) for arm in RATES):
        if found:
            rates = (f"{rate}: {loss:.3f} ({right:.3f})" for rate, (loss, right) in found["rates"].items())
            swept.append([TITLES[arm], ", ".join(rates), f"{found['best']:.3g}"])
    head = ["arm", "trained numbers", "rate", "accuracy", "percent of the gain", "loss", "seeds"]
    epochs = [f"after epoch {at + 1}" for at in range(EPOCHS)]
    found = [Section("Arms", ["Means and half of the 95% t interval over the seeds, here and below."],
                     [table(head, rows)])]  # fmt: skip
    if curves:
        chart = line_chart(curves, "epoch", "loss", "Held-out loss by epoch")
        shown = table(["arm", *epochs, "training loss of the last epoch"], losses)
        said = f"On the first {WATCHED} of the test sentences."
        found.append(Section("Held-out loss by epoch", [said], [shown], [chart]))
    if swept:
        said = "The loss (and accuracy) on development sentences, with a seed that is no replicate."
        found.append(Section("Rates", [said], [table(["arm", "loss (accuracy) by rate", "best"], swept)]))
    return found


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The numbers of the text."""
    first, lines = seeds[0]["untuned"], []
    if full := [one["full"] for one in seeds if "full" in one]:
        lines = [f"- All weights: from {first['accuracy']:.3f} to {fmean(one['accuracy'] for one in full):.3f}."]
        lines += [f"- {TITLES[arm]}: {percent(shares(seeds, arm))} percent of that gain."
                  for arm in ARMS if arm != "full" and shares(seeds, arm)]  # fmt: skip
    return {
        "total": first["total"], "asked": ASKED, "rows": DRAWN, "longest": LONGEST, "epochs": EPOCHS, "batch": BATCH,
        "items": first["items"], "findings": "\n".join(lines),
    }  # fmt: skip
