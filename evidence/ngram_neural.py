"""N-gram against neural models.

{text}: {train_lines:,} lines to train ({train_tokens:,} tokens, {words:,} words), {test_lines:,} to test
({test_tokens:,} tokens). A line is a sentence, words are separated by white space, and the vocabulary is that of the
training lines. Every model reads the same ids. The n-grams (modified Kneser-Ney) have KenLM's perplexities to six
digits (`tests/references/test_ngram_kenlm.py`). The neural models are small (width 32, {epochs} passes over the text).
Times are from a machine with other load, so they are upper bounds. Besides time, size and perplexity, three probes use
the held-out lines:

- seen: the predicted words, grouped by the longest n-gram ending with them that occurs in training;
- swap: a word is replaced by the one most similar to it in training; the next word followed the first in training and
  never the second. The loss is compared with that of a random word of similar frequency;
- gapped: the information in the word d places back: the loss with it replaced by a random word, minus the loss with it,
  once with the nearer words unchanged, once with those random in both.

## What the numbers say

- **Training time.** The neural models took {slower[0]:,.0f} to {slower[1]:,.0f} times as long as counting.
- **Bytes.** From order 2 to 5 the size grows {grows:.1f} times; perplexity falls by {falls:.0%}. The transformer is
  {smaller} the 3-gram.
- **Seen and unseen.** Where the trigram occurs in training ({saw[0]:,} tokens) the 3-gram has perplexity
  {trigram[0]:.1f}, the transformer {trigram[1]:.1f}. Where not even the bigram does ({saw[1]:,} tokens) they have
  {nothing[0]:,.0f} and {nothing[1]:,.0f}. The total hides this difference.
- **Synonym swap**, in {swapped:,} places. Compared with a random word of similar frequency, a similar word saves the
  transformer {saves[transformer]} nats, the feed-forward model {saves[feedforward]}, the 3-gram {saves[3-gram]}, the
  5-gram {saves[5-gram]}. The bigram saves {saves[2-gram]}: similar words have similar back-off weights, which is all
  that it can transfer.
- **Gapped context.** With random nearer words, the word two places back is worth {gap[3-gram]} nats to the 3-gram,
  {gap[feedforward]} to the feed-forward model, {gap[transformer]} to the transformer.
"""

from __future__ import annotations

import itertools
import math
import random
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._corpora import needed_data
from llmanac.core.errors import DataError
from llmanac.core.pages import Section, table
from llmanac.core.rng import numpy_generator
from llmanac.core.spec import make_method
from llmanac.core.types import IGNORE, Batch
from llmanac.lab.costs import model_bytes
from llmanac.models.lm.ngram import Ngram
from llmanac.models.lm.ngram import Spec as NgramSpec
from llmanac.models.ngrams import words
from llmanac.models.ngrams.trie import Trie, places
from llmanac.objectives.autoregressive import Spec as Autoregressive
from llmanac.train import TrainSpec
from llmanac.train.loop import train

ROWS = ("compare/ngram-neural",)
CLAIM = "neural models share strength between like words and use gapped context, which counting cannot; they cost more"
SEEDS = 1
TIMED, TOLERANCE = ("seconds",), 1e-3  # float32 training
TEXT, TRAIN_LINES, LINES, EPOCHS = "tinyshakespeare.txt", 35_000, 40_000, 2  # the split of KenLM's golden figures

ORDERS = (2, 3, 5)
NEURAL = {
    "feedforward": {"name": "feedforward", "order": 5, "dim": 32, "hidden": 32},
    "transformer": {"name": "transformer", "dim": 32, "layers": 2, "max_length": 256, "blocks": [
        {"name": "pre-norm", "ffn": {"name": "swiglu", "width": 64}, "mixer": {"name": "multi-head", "heads": 2}}]},
}  # fmt: skip
STEP_LINES = 128  # of training
CONTEXT = 12  # words before a target that a probe shows
POSITIONS = 3000  # held-out places that the gapped probe looks at
DISTANCES = (1, 2, 3, 4)
FREQUENT, FEATURES, PAIRS = 25, 400, 150  # words that may be swapped; their neighbours counted; pairs kept


@dataclass(frozen=True)
class Split:
    """Sentences of word ids (0 <unk>, 1 `<s>`, 2 `</s>`), each `<s> ... </s>`."""

    train: list[np.ndarray]
    test: list[np.ndarray]
    vocabulary: Any


def read(path: Path, train_lines: int, lines: int) -> tuple[Split, bytes, bytes]:
    """The split, and the bytes of both parts. Raises DataError where the text has too few lines."""
    found = path.read_bytes().split(b"\n")[:lines]
    if len(found) <= train_lines:
        raise DataError(f"{path}: {len(found):,} lines; {train_lines:,} to train on leave none to test on")
    first, rest = (b"\n".join(part) + b"\n" for part in (found[:train_lines], found[train_lines:]))
    vocabulary, ids, place = words.read_text_bytes(first)
    asked, asked_place = words.known_ids(rest, vocabulary)
    return Split(rows_of(ids, place), rows_of(asked, asked_place), vocabulary), first, rest


def rows_of(ids: np.ndarray, place: np.ndarray) -> list[np.ndarray]:
    """A stream as its sentences."""
    return np.split(ids, np.flatnonzero(place == 0)[1:])


class Lines:
    """Training sentences in shuffled epochs, `STEP_LINES` a step; those with nothing but marks left in."""

    def __init__(self, rows: Sequence[np.ndarray], seed: int) -> None:
        self.rows, self.seed, self.step = rows, seed, 0
        self.each = len(rows) // STEP_LINES

    def __next__(self) -> list[np.ndarray]:
        epoch, at = divmod(self.step, self.each)
        order = numpy_generator(self.seed, "lines", epoch).permutation(len(self.rows))
        self.step += 1
        return [self.rows[i].astype(np.int64) for i in order[at * STEP_LINES : (at + 1) * STEP_LINES]]

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The position; no tensors."""
        return {"step": self.step}, {}

    def restore(self, state: dict[str, Any], tensors: dict[str, Any]) -> None:
        """Continue from a position."""
        self.step = state["step"]


def neural(name: str, split: Split, epochs: int, seed: int, folder: Path) -> tuple[Any, float]:
    """A trained model and the seconds of its steps."""
    model = make_method("lm", NEURAL[name]).build(vocab_size=len(split.vocabulary)).initialise(seed)
    source = Lines(split.train, seed)
    spec = TrainSpec(
        steps=epochs * source.each, length=16, batch_tokens=16 * STEP_LINES, micro_batch=STEP_LINES, dtype="float32",
        attention="sdpa", compile="never", checkpoint_every=10**9,
        optimizer=make_method("optimizer", {"name": "adamw", "lr": 5e-3}),
    )  # fmt: skip
    done = train(model, source, Autoregressive().build(), spec, folder / name, seed=seed, label=name)
    return model.eval(), done.seconds


@torch.no_grad()
def losses(model: Any, rows: Sequence[np.ndarray], *, last_only: bool = False) -> np.ndarray:
    """Nats of every token of the rows but their first, one after another; or of each row's last token."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    found: dict[int, np.ndarray] = {}
    for begin in range(0, len(order), 256):
        chosen = order[begin : begin + 256]
        longest = max(len(rows[i]) for i in chosen) - 1
        ids = torch.zeros(len(chosen), longest, dtype=torch.long)
        targets = torch.full((len(chosen), longest), IGNORE, dtype=torch.long)
        for j, i in enumerate(chosen):
            row = torch.from_numpy(rows[i].astype(np.int64))
            ids[j, : len(row) - 1], targets[j, : len(row) - 1] = row[:-1], row[1:]
            if last_only:
                targets[j, : len(row) - 2] = IGNORE
        lengths = torch.tensor([len(rows[i]) - 1 for i in chosen])
        values = model.nll(Batch(ids=ids, targets=targets, lengths=lengths), "none").double().numpy()
        for j, i in enumerate(chosen):
            found[i] = values[j, len(rows[i]) - 2 : len(rows[i]) - 1] if last_only else values[j, : len(rows[i]) - 1]
    return np.concatenate([found[i] for i in range(len(rows))])


def seen_classes(split: Split, trie: Trie) -> np.ndarray:
    """For every test token but `<s>`: the length of the longest n-gram of the trie that ends with it."""
    stream = np.concatenate(split.test)
    place = places(np.array([len(r) for r in split.test]))
    return trie.score_stream(stream, place)[1][place > 0]


def similar_words(split: Split) -> list[tuple[int, int, float]]:
    """(word, the word most like it, cosine): by the positive pointwise mutual information with their neighbours."""
    size = len(split.vocabulary)
    stream = np.concatenate(split.train)
    counts = np.bincount(stream, minlength=size)
    frequent = np.flatnonzero(counts >= FREQUENT)
    frequent = frequent[frequent > 2]
    index = np.full(size, -1)
    index[frequent] = np.arange(len(frequent))
    features = np.argsort(-counts)[:FEATURES]
    column = np.full(size, -1)
    column[features] = np.arange(len(features))
    table = np.zeros((len(frequent), 2 * len(features)))
    left, right = stream[:-1], stream[1:]
    for side, (own, other) in enumerate(((left, right), (right, left))):
        keep = (index[own] >= 0) & (column[other] >= 0) & ~((left == 2) & (right == 1))
        np.add.at(table, (index[own[keep]], side * len(features) + column[other[keep]]), 1)
    expected = table.sum(1, keepdims=True) * table.sum(0) / max(1.0, table.sum())
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = np.where(table > 0, np.maximum(np.log(table / expected), 0), 0)
    weight /= np.maximum(np.linalg.norm(weight, axis=1, keepdims=True), 1e-9)
    cosine = weight @ weight.T
    np.fill_diagonal(cosine, -1)
    best = cosine.argmax(1)
    mutual = [i for i in range(len(frequent)) if best[best[i]] == i]
    mutual.sort(key=lambda i: -cosine[i, best[i]])
    return [(int(frequent[i]), int(frequent[best[i]]), float(cosine[i, best[i]])) for i in mutual[: 2 * PAIRS]]


def swaps(split: Split, seed: int) -> dict[str, list[np.ndarray]]:
    """Rows that end in the word to predict: as they were, with the like word before it, with a random one."""
    like = {a: b for a, b, _ in similar_words(split)}
    followed = {(int(a), int(b)) for row in split.train for a, b in itertools.pairwise(row)}
    counts = np.bincount(np.concatenate(split.train), minlength=len(split.vocabulary))
    ranked = np.argsort(-counts)
    rank = np.empty(len(ranked), np.int64)
    rank[ranked] = np.arange(len(ranked))
    rng = numpy_generator(seed, "swaps")
    out: dict[str, list[np.ndarray]] = {"original": [], "like": [], "random": []}
    for row in split.test:
        for i in range(1, len(row) - 1):
            a, x = int(row[i]), int(row[i + 1])
            b = like.get(a)
            if b is None or x == 0 or (a, x) not in followed or (b, x) in followed:
                continue
            near = np.clip(rank[b] + rng.integers(-20, 21, 50), 3, len(ranked) - 1)
            others = (int(c) for c in ranked[near] if c not in (0, 1, 2, a, b) and (int(c), x) not in followed)
            c = next(others, None)
            if c is None:
                continue
            begin = max(0, i + 1 - CONTEXT)
            for name, word in (("original", a), ("like", b), ("random", c)):
                changed = row[begin : i + 2].copy()
                changed[i - begin] = word
                out[name].append(changed)
    return out


def gaps(
    split: Split, seed: int, positions: int = POSITIONS
) -> Iterator[tuple[int, str, list[np.ndarray], list[np.ndarray]]]:
    """(distance, nearer words `kept` or `random`, rows with the word at that distance, rows with a random one)."""
    rng = numpy_generator(seed, "gaps")
    stream = np.concatenate(split.train)
    pool = stream[stream > 2]
    most = max(DISTANCES)
    every = [(r, i) for r, row in enumerate(split.test) for i in range(most + 1, len(row)) if row[i] != 0]
    chosen = [every[j] for j in rng.permutation(len(every))[:positions]]
    drawn = rng.choice(pool, (len(chosen), most))
    for near in ("kept", "random"):
        for d in DISTANCES:
            with_it, without = [], []
            for (r, i), others in zip(chosen, drawn, strict=True):
                row = split.test[r][max(0, i - CONTEXT) : i + 1].copy()
                if near == "random":
                    for j in range(1, d):
                        row[-1 - j] = others[j - 1]
                with_it.append(row)
                other = row.copy()
                other[-1 - d] = others[d - 1]
                without.append(other)
            yield d, near, with_it, without


def probed(model: Any, split: Split, classes: np.ndarray, seed: int, positions: int) -> dict[str, Any]:
    """Perplexities and probes of one model."""
    targets = np.concatenate([row[1:] for row in split.test])
    nats = losses(model, split.test)
    known = targets != 0

    def perplexity(mask: np.ndarray) -> float | None:
        return float(math.exp(nats[mask].mean())) if mask.any() else None

    rows = swaps(split, seed)
    asked = {name: losses(model, found, last_only=True) for name, found in rows.items()}
    out: dict[str, Any] = {
        "perplexity": perplexity(known),
        "seen": {str(k): perplexity(known & (classes == k)) for k in (1, 2, 3)},
        "swap": {name: float(values.mean()) for name, values in asked.items()},
        "gapped": {},
    }
    for d, near, with_it, without in gaps(split, seed, positions):
        gain = losses(model, without, last_only=True) - losses(model, with_it, last_only=True)
        error = float(gain.std(ddof=1) / math.sqrt(len(gain)))
        out["gapped"][f"{d} {near}"] = [float(gain.mean()), error]
    out["swap"]["standard_error"] = float((asked["random"] - asked["like"]).std(ddof=1) / math.sqrt(len(rows["like"])))
    return out


def compared(path: Path, train_lines: int, lines: int, epochs: int, seed: int, positions: int) -> dict[str, Any]:
    """The comparison as plain data."""
    split, first, _ = read(path, train_lines, lines)
    smoothing = make_method("smoothing", "modified-kneser-ney")
    made: dict[str, tuple[Any, float]] = {}
    classes: np.ndarray | None = None
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "train.txt"
        text.write_bytes(first)
        for order in ORDERS:
            start = time.perf_counter()
            counted = words.train([text], order, smoothing.build())
            seconds = time.perf_counter() - start
            spec = NgramSpec(order=order, smoothing=smoothing)
            made[f"{order}-gram"] = (Ngram(spec, len(split.vocabulary), counted.trie), seconds)
            classes = seen_classes(split, counted.trie) if order == 3 else classes
        for kind in NEURAL:
            made[kind] = neural(kind, split, epochs, seed, Path(folder))
        assert classes is not None
        models = {}
        for label, (model, seconds) in made.items():
            costs = {"seconds": seconds, "bytes": model_bytes(model), "parameters": model.parameter_count()}
            models[label] = {**costs, **probed(model, split, classes, seed, positions)}
    pairs = similar_words(split)[:8]
    return {
        "text": path.name, "train_lines": train_lines, "lines": lines, "epochs": epochs, "seed": seed,
        "words": len(split.vocabulary), "train_tokens": int(sum(len(r) - 1 for r in split.train)),
        "test_tokens": int(sum(len(r) - 1 for r in split.test)), "models": models,
        "tokens_of_class": {str(k): int((classes == k).sum()) for k in (1, 2, 3)},
        "swapped": len(swaps(split, seed)["like"]),
        "pairs": [[split.vocabulary[w].decode("utf-8", "replace") for w in pair[:2]] for pair in pairs],
    }  # fmt: skip


def measure(seed: int, size: str) -> dict[str, Any]:
    """Costs, perplexities and probes of every model."""
    if size == "small":
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "made up"
            path.write_text(made_up(), "utf-8")
            return compared(path, 650, 800, 2, seed, 60)
    return compared(needed_data("text") / "text" / TEXT, TRAIN_LINES, LINES, EPOCHS, seed, POSITIONS)


def made_up(lines: int = 900) -> str:
    """Two kings and two queens who do the same things, so that likeness can be found."""
    rng, out = random.Random(0), []
    doing = ["eats the bread", "drinks the wine", "leaves the hall", "calls the guard", "sings", "waits there"]
    for _ in range(lines):
        who = rng.choice(["john", "henry", "mary", "anne", "nobody"])
        title, what = "sir" if who in ("john", "henry") else "lady", rng.choice(doing)
        if (who, what) not in (("henry", "sings"), ("anne", "waits there")):  # so that a swap can be new
            out.append(f"{title} {who} {what} {rng.choice(['now', 'again'])}")
    return "\n".join(out) + "\n"


def saves_more(seeds: Sequence[dict[str, Any]], name: str, other: str) -> list[float]:
    """How many nats more a like word saves over a random one, than in another model."""
    saved = [[m["swap"]["random"] - m["swap"]["like"] for m in (one["models"][name], one["models"][other])]
             for one in seeds]  # fmt: skip
    return [a - b for a, b in saved]


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    """The page."""
    result = seeds[0]
    models = result["models"]
    which = f"Tables are of the first of {len(seeds)} replicates; verdicts are of all." if len(seeds) > 1 else ""
    costs = [
        [label, f"{m['seconds']:.2f} s", f"{m['bytes'] / 1e6:.1f} MB", f"{m['parameters']:,}", f"{m['perplexity']:.1f}"]
        for label, m in models.items()
    ]
    seen = [[label, *("-" if v is None else f"{v:.1f}" for v in m["seen"].values())] for label, m in models.items()]
    swapped = [
        [label, *(f"{m['swap'][k]:.3f}" for k in ("original", "like", "random")), saved(m, 3)]
        for label, m in models.items()
    ]
    gapped = []
    for near in ("kept", "random"):
        rows = [[label, *(information_at(m, d, near) for d in DISTANCES)] for label, m in models.items()]
        gapped.append(table([f"nearer words {near}", *(f"d = {d}" for d in DISTANCES)], rows))
    classes = [f"{k}-gram seen ({n:,})" for k, n in result["tokens_of_class"].items()]
    pairs = "Pairs such as " + ", ".join("/".join(pair) for pair in result["pairs"][:5]) + "."
    after = ["", "original", "similar word", "random word", "saved by similarity"]
    known = "Cost and quality (perplexity of words that training knows)"
    return [
        Section(known, [which] if which else [], [table(["", "training", "bytes", "numbers", "perplexity"], costs)]),
        Section("By the longest n-gram (up to 3) that training saw", [], [table(["", *classes], seen)]),
        Section("Nats of the next word, one word swapped for the most similar", [pairs], [table(after, swapped)]),
        Section("Information in the word d places back, in nats", [], gapped),
    ]


def saved(model: Mapping[str, Any], digits: int = 2) -> str:
    swap = model["swap"]
    return f"{swap['random'] - swap['like']:+.{digits}f} ± {1.96 * swap['standard_error']:.{digits}f}"


def information_at(model: Mapping[str, Any], distance: int, near: str) -> str:
    mean, error = model["gapped"][f"{distance} {near}"]
    return f"{mean:+.3f} ± {1.96 * error:.3f}"


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    result = seeds[0]
    models, classes = result["models"], result["tokens_of_class"]
    two, three, five, forward, transformer = models.values()
    slower = [
        neural["seconds"] / counted["seconds"] for neural in (forward, transformer) for counted in (two, three, five)
    ]
    return {
        **result, "test_lines": result["lines"] - result["train_lines"], "slower": (min(slower), max(slower)),
        "grows": five["bytes"] / two["bytes"], "falls": 1 - five["perplexity"] / two["perplexity"],
        "smaller": "below" if transformer["bytes"] < three["bytes"] else "above", "saw": (classes["3"], classes["1"]),
        "trigram": (three["seen"]["3"], transformer["seen"]["3"]),
        "nothing": (three["seen"]["1"], transformer["seen"]["1"]),
        "saves": {label: saved(m) for label, m in models.items()},
        "gap": {label: information_at(m, 2, "random") for label, m in models.items()},
    }  # fmt: skip
