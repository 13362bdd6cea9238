"""Counting against neural models on the same words and the same split, and where the difference lies.

    python -m llmanac.lab.ngram_neural TEXT --train-lines 35000 --lines 40000 --out FOLDER

A line is a sentence, a word what stands between white space; the vocabulary is that of the training lines. Every model
reads the same ids. Beside time, size and perplexity three probes are made from the held-out lines:

    seen        the words to predict, by the longest n-gram before and with them that training saw
    swap        a word is replaced by the one most like it in training; the next word followed the first in training and
                never the second. What the swap costs, against what a random word of like frequency costs
    gapped      what the word d places back still tells: the loss with it replaced by a random word, less the loss with
                it, once with the nearer words as they are, once with those random in both

The n-grams are KenLM's to six digits (`tests/references/test_ngram_kenlm.py`).
"""

from __future__ import annotations

import argparse
import itertools
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llmanac.core.errors import DataError
from llmanac.core.files import write_json, write_text
from llmanac.core.progress import progress
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

ORDERS = (2, 3, 5)
NEURAL = {
    "feedforward": {"name": "feedforward", "order": 5, "dim": 32, "hidden": 32},
    "transformer": {"name": "transformer", "dim": 32, "layers": 2, "max_length": 256, "blocks": [
        {"name": "pre-norm", "ffn": {"name": "swiglu", "width": 64}, "mixer": {"name": "multi-head", "heads": 2}}]},
}  # fmt: skip
ROWS = 128  # lines of a training step
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
        raise DataError(f"{path}: {len(found):,} lines; --train-lines {train_lines:,} leaves none to test on")
    first, rest = (b"\n".join(part) + b"\n" for part in (found[:train_lines], found[train_lines:]))
    vocabulary, ids, place = words.read_text_bytes(first)
    asked, asked_place = words.known_ids(rest, vocabulary)
    return Split(rows_of(ids, place), rows_of(asked, asked_place), vocabulary), first, rest


def rows_of(ids: np.ndarray, place: np.ndarray) -> list[np.ndarray]:
    """A stream as its sentences."""
    return np.split(ids, np.flatnonzero(place == 0)[1:])


class Lines:
    """Training sentences in shuffled epochs, `ROWS` a step; those with nothing but marks left in."""

    def __init__(self, rows: Sequence[np.ndarray], seed: int) -> None:
        self.rows, self.seed, self.step = rows, seed, 0
        self.each = len(rows) // ROWS

    def __next__(self) -> list[np.ndarray]:
        epoch, at = divmod(self.step, self.each)
        order = numpy_generator(self.seed, "lines", epoch).permutation(len(self.rows))
        self.step += 1
        return [self.rows[i].astype(np.int64) for i in order[at * ROWS : (at + 1) * ROWS]]

    def cursor(self) -> dict[str, Any]:
        """Where it stands."""
        return {"step": self.step}

    def seek(self, cursor: dict[str, Any]) -> None:
        """Go on from there."""
        self.step = cursor["step"]


def neural(name: str, split: Split, epochs: int, seed: int, folder: Path) -> tuple[Any, float]:
    """A trained model and the seconds of its steps."""
    model = make_method("lm", NEURAL[name]).build(vocab_size=len(split.vocabulary)).initialise(seed)
    source = Lines(split.train, seed)
    spec = TrainSpec(
        steps=epochs * source.each, length=16, batch_tokens=16 * ROWS, micro_batch=ROWS, dtype="float32",
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


def gaps(split: Split, seed: int) -> Iterator[tuple[int, str, list[np.ndarray], list[np.ndarray]]]:
    """(distance, nearer words `kept` or `random`, rows with the word at that distance, rows with a random one)."""
    rng = numpy_generator(seed, "gaps")
    stream = np.concatenate(split.train)
    pool = stream[stream > 2]
    most = max(DISTANCES)
    every = [(r, i) for r, row in enumerate(split.test) for i in range(most + 1, len(row)) if row[i] != 0]
    chosen = [every[j] for j in rng.permutation(len(every))[:POSITIONS]]
    drawn = rng.choice(pool, (len(chosen), most))
    for near in ("kept", "random"):
        for d in DISTANCES:
            with_it, without = [], []
            for (r, i), random in zip(chosen, drawn, strict=True):
                row = split.test[r][max(0, i - CONTEXT) : i + 1].copy()
                if near == "random":
                    for j in range(1, d):
                        row[-1 - j] = random[j - 1]
                with_it.append(row)
                other = row.copy()
                other[-1 - d] = random[d - 1]
                without.append(other)
            yield d, near, with_it, without


def measure(model: Any, split: Split, classes: np.ndarray, seed: int) -> dict[str, Any]:
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
    for d, near, with_it, without in gaps(split, seed):
        told = losses(model, without, last_only=True) - losses(model, with_it, last_only=True)
        error = float(told.std(ddof=1) / math.sqrt(len(told)))
        out["gapped"][f"{d} {near}"] = [float(told.mean()), error]
    out["swap"]["standard_error"] = float((asked["random"] - asked["like"]).std(ddof=1) / math.sqrt(len(rows["like"])))
    return out


def study(
    path: Path, train_lines: int, lines: int, epochs: int, seed: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """The whole comparison as plain data."""
    split, first, rest = read(path, train_lines, lines)
    smoothing = make_method("smoothing", "modified-kneser-ney")
    result: dict[str, Any] = {
        "text": path.name, "train_lines": train_lines, "lines": lines, "epochs": epochs, "seed": seed,
        "words": len(split.vocabulary), "train_tokens": int(sum(len(r) - 1 for r in split.train)),
        "test_tokens": int(sum(len(r) - 1 for r in split.test)), "models": {},
    }  # fmt: skip
    classes: np.ndarray | None = None
    with tempfile.TemporaryDirectory() as name, progress("compare", len(ORDERS) + len(NEURAL), "models") as bar:
        text = Path(name) / "train.txt"
        text.write_bytes(first)
        made: dict[str, tuple[Any, float, dict[str, Any]]] = {}
        for order in ORDERS:
            start = time.perf_counter()
            counted = words.train([text], order, smoothing.build())
            seconds = time.perf_counter() - start
            score = counted.score(rest)
            extra = {
                "perplexity_including_oov": score.perplexity,
                "perplexity_excluding_oov": score.perplexity_of_known,
            }
            spec = NgramSpec(order=order, smoothing=smoothing)
            made[f"{order}-gram"] = (Ngram(spec, len(split.vocabulary), counted.trie), seconds, extra)
            classes = seen_classes(split, counted.trie) if order == 3 else classes
        assert classes is not None
        for kind in NEURAL:
            model, seconds = neural(kind, split, epochs, seed, Path(name))
            made[kind] = (model, seconds, {})
        result["tokens_of_class"] = {str(k): int((classes == k).sum()) for k in (1, 2, 3)}
        result["swapped"] = len(swaps(split, seed)["like"])
        pairs = similar_words(split)[:8]
        result["pairs"] = [[split.vocabulary[w].decode("utf-8", "replace") for w in pair[:2]] for pair in pairs]
        for label, (model, seconds, extra) in made.items():
            found = measure(model, split, classes, seed)
            costs = {"seconds": seconds, "bytes": model_bytes(model), "parameters": model.parameter_count()}
            result["models"][label] = costs | extra | found
            say(f"{label}: perplexity {found['perplexity']:.1f}")
            bar.advance()
    return result


def page(result: dict[str, Any], command: str) -> str:
    """The result as Markdown tables."""
    models = result["models"]

    def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
        lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(r)} |" for r in rows)]
        return "\n".join(lines) + "\n"

    parts = [
        "# Counting against neural models: same words, same split\n",
        f"`{command}`\n",
        f"{result['text']}: {result['train_lines']:,} lines to train ({result['train_tokens']:,} tokens, "
        f"{result['words']:,} words), {result['lines'] - result['train_lines']:,} to test "
        f"({result['test_tokens']:,} tokens). N-grams: modified Kneser-Ney. Neural models: {result['epochs']} passes, "
        f"seed {result['seed']}.\n",
        "## Cost and quality (perplexity of words that training knows)\n",
        table(["", "training", "bytes", "numbers", "perplexity"], [
            [label, f"{m['seconds']:.2f} s", f"{m['bytes'] / 1e6:.1f} MB", f"{m['parameters']:,}",
             f"{m['perplexity']:.1f}"]
            for label, m in models.items()]),
        "## By the longest n-gram (up to 3) that training saw\n",
        table(["", *(f"{k}-gram seen ({n:,})" for k, n in result["tokens_of_class"].items())], [
            [label, *("-" if v is None else f"{v:.1f}" for v in m["seen"].values())] for label, m in models.items()]),
        f"## A word swapped for the one most like it ({result['swapped']:,} places), nats of the next word\n",
        "Pairs such as " + ", ".join("/".join(p) for p in result["pairs"][:5]) + ".\n",
        table(["", "as it was", "like word", "random word", "what likeness saves"], [
            [label, *(f"{m['swap'][k]:.3f}" for k in ("original", "like", "random")),
             f"{m['swap']['random'] - m['swap']['like']:+.3f} ± {1.96 * m['swap']['standard_error']:.3f}"]
            for label, m in models.items()]),
        "## What the word d places back tells, in nats\n",
    ]  # fmt: skip
    for near, said in (("kept", "The nearer words as they are:\n"), ("random", "The nearer words random (gapped):\n")):
        rows = []
        for label, m in models.items():
            told = [m["gapped"][f"{d} {near}"] for d in DISTANCES]
            rows.append([label, *(f"{mean:+.3f} ± {1.96 * error:.3f}" for mean, error in told)])
        parts += [said, table(["", *(f"d = {d}" for d in DISTANCES)], rows)]
    return "\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command of the module's docstring."""
    parser = argparse.ArgumentParser(description="N-grams against neural models on the same words.")
    parser.add_argument("text", type=Path)
    parser.add_argument("--train-lines", type=int, default=35_000)
    parser.add_argument("--lines", type=int, default=40_000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("studies/ngram_neural"))
    asked = parser.parse_args(arguments)
    result = study(asked.text, asked.train_lines, asked.lines, asked.epochs, asked.seed, print)
    command = (
        f"python -m llmanac.lab.ngram_neural {asked.text.name} --train-lines {asked.train_lines} --lines {asked.lines} "
        f"--epochs {asked.epochs} --seed {asked.seed}"
    )
    write_json(asked.out / "results.json", result)
    write_text(asked.out / "page.md", page(result, command))
    print(f"page: {asked.out / 'page.md'}")


if __name__ == "__main__":
    main()
