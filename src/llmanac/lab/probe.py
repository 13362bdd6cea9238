"""A probe: what a frozen model's hidden states know, for objectives whose losses are of different things.

    features(text) = mean over its tokens of the hidden states in the middle and at the end       (2 D)
    ridge regression on the labels of half of the texts; accuracy on the other half

The model reads a text as its objective does: from left to right, or from both sides. Two are built in, neither of which
a bag of words can do. `order`: passages of the held-out text, half of them with neighbouring tokens exchanged.
`agreement`: pairs of sentences that differ in the number of the verb, with another noun between it and its subject
("the names in the file is / are used here"); subjects of one half are unseen in the other. A file of labelled texts is
a further probe. Next to every probe are its floors: the most frequent label, the same regression on a bag of
words, and on the states of the model before training. Where no arm is above the bag of words, there is no verdict.

Alain and Bengio 2016 (https://arxiv.org/abs/1610.01644); Hewitt and Liang 2019 (https://arxiv.org/abs/1909.03368);
Linzen et al. 2016 (https://arxiv.org/abs/1611.01368) for agreement.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmanac.core import registry
from llmanac.core.errors import DataError, SpecError
from llmanac.core.rng import numpy_generator
from llmanac.core.types import Batch, MaskKind, OutputRequest, evaluating
from llmanac.data.labelled import read_labelled
from llmanac.lab.cache import digest
from llmanac.metrics import Metric

READS: dict[str, MaskKind] = {
    "autoregressive": "causal",
    "masked": "bidirectional",
    "prefix": "prefix",
    "glm": "prefix",
}
PASSAGES, MOST = 1200, 4000  # of the order probe, and texts of a file
SHARE = 0.15  # of a passage's tokens that are exchanged
PAIRS = 400  # of sentences that differ in the number of the verb
NOUNS = (
    "function", "module", "object", "method", "value", "argument", "file", "string", "list", "name", "key", "number",
    "type", "element", "item", "result", "test", "path", "option", "example",
)  # fmt: skip
LINKS = ("of", "in", "for", "with", "from", "after")
VERBS = (
    ("is", "are", "used here"), ("has", "have", "no effect"), ("was", "were", "added later"),
    ("does", "do", "not change"), ("returns", "return", "a copy"), ("contains", "contain", "the data"),
    ("takes", "take", "more time"), ("uses", "use", "less memory"),
)  # fmt: skip
PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0)  # of the ridge, times the number of texts over the number of features
ROWS = 64


@dataclass(frozen=True)
class Probe:
    """Labelled texts as tokens.

    Attributes:
        ids: of each text; labels: (n,) numbers; train: (n,) bool, the half that is learned from.
    """

    name: str
    ids: list[np.ndarray]
    labels: np.ndarray
    train: np.ndarray
    vocabulary: int

    @property
    def metric(self) -> Metric:
        return Metric(f"probe_{self.name}", "", "higher", f"accuracy of a linear probe, {self.name}, unseen texts")

    @property
    def identity(self) -> str:
        """A hash of its texts and labels."""
        return digest([self.name, [ids.tolist() for ids in self.ids], self.labels.tolist(), self.train.tolist()])

    def score(self, model: Any, reads: MaskKind) -> float:
        """The accuracy on the unseen half, from a model's states."""
        return accuracy(features(model, self.ids, reads), self.labels, self.train)

    def floors(self, model: Any, reads: MaskKind) -> dict[str, float]:
        """Of the most frequent label, of a bag of words, and of a model before training."""
        bag = torch.zeros(len(self.ids), self.vocabulary, dtype=torch.float64)
        for row, ids in zip(bag, self.ids, strict=True):
            row += torch.bincount(torch.from_numpy(ids), minlength=self.vocabulary)
        seen, unseen = self.labels[self.train], self.labels[~self.train]
        return {
            "majority": float((unseen == np.bincount(seen).argmax()).mean()),
            "bag of words": accuracy(bag.sqrt(), self.labels, self.train),
            "before training": self.score(model, reads),
        }


def stem_of(objective: Any) -> str:
    """The name of the file that an objective is in, whatever its alias."""
    method = registry.methods("objective").get(objective.name)
    return "" if method is None else method.path.stem


def kind_of(objective: Any) -> MaskKind | None:
    """How an objective's model reads a text that it is to represent; None for one that no probe is made for."""
    return READS.get(stem_of(objective))


def needed(objectives: Sequence[Any]) -> bool:
    """Whether these are different objectives of pretraining: their losses cannot be compared."""
    kinds = [kind_of(objective) for objective in objectives]
    differ = any(objective != objectives[0] for objective in objectives)
    return differ and None not in kinds and set(kinds) != {"causal"}


def make_probes(prepared: Any, objectives: Sequence[Any], length: int, files: Sequence[str]) -> tuple[Probe, ...]:
    """The probes of a comparison: none where its objectives share a loss and no file is named."""
    if not needed(objectives) and not (files and all(kind_of(one) is not None for one in objectives)):
        if files:
            raise SpecError("--probe: these objectives train nothing that a probe reads; leave it out")
        return ()
    texts = [*prepared.report, *prepared.tuning]
    made = [file_probe(Path(file), prepared.tokenizer, length) for file in files]
    return (*made, order_probe(texts, prepared.tokenizer, length), agreement_probe(prepared.tokenizer, length))


def without_verdict(result: dict[str, Any], floors: dict[str, dict[str, float]]) -> None:
    """Put the floors into a study's result, and take verdicts back where no arm is above the bag of words."""
    result["probes"] = floors
    for name, found in floors.items():
        best = max((sum(v) / len(v) for v in result["values"].get(name, {}).values() if v), default=0.0)
        found["best"] = best
        if best <= found["bag of words"]:
            for comparison in result["comparisons"].get(name, []):
                comparison |= {"verdict": "none", "refused": "no arm is above the bag of words"}


def order_probe(texts: Sequence[str], tokenizer: Any, length: int) -> Probe:
    """Passages of at most 64 tokens; each text is on one side of the split.

    Raises:
        DataError: too little held-out text.
    """
    width, generator = min(64, length), numpy_generator(0, "order probe")
    passages = [
        (owner, ids[at : at + width])
        for owner, text in enumerate(texts)
        for ids in [tokenizer.encode_array(text).astype(np.int64)]
        for at in range(0, len(ids) - width + 1, width)
    ]
    if len(passages) < 40:
        raise DataError(
            f"data.held_out: {len(passages)} passages of {width} tokens are too few for a probe; hold out more text"
        )
    chosen = generator.permutation(len(passages))[:PASSAGES]
    rows, labels = [], np.arange(len(chosen)) % 2
    for number, label in zip(chosen, labels, strict=True):
        ids = passages[number][1].copy()
        if label:
            for at in generator.choice(width - 1, max(1, round(SHARE * width)), replace=False):
                ids[at], ids[at + 1] = ids[at + 1], ids[at]
        rows.append(ids)
    owners = np.array([passages[n][0] for n in chosen])
    count = int(owners.max()) + 1
    side = np.argsort(generator.permutation(count)) < max(1, count // 2)
    train = side[owners] if count > 3 else np.arange(len(chosen)) < len(chosen) // 2
    return Probe("order", rows, labels, train, tokenizer.vocab_size)


def agreement_pairs() -> list[tuple[str, str, str]]:
    """`(subject, right sentence, wrong sentence)`; each sentence is there with its subject in both numbers."""
    generator = numpy_generator(0, "agreement probe")
    out = []
    for _ in range(PAIRS // 2):
        subject, between = generator.choice(len(NOUNS), 2, replace=False)
        link, verb = LINKS[generator.integers(len(LINKS))], VERBS[generator.integers(len(VERBS))]
        other = NOUNS[between] + "s" * generator.integers(2)
        for many in (0, 1):
            begin = f"The {NOUNS[subject]}{'s' * many} {link} the {other}"
            right, wrong = (f"{begin} {verb[number]} {verb[2]}." for number in (many, 1 - many))
            out.append((NOUNS[subject], right, wrong))
    return out


def agreement_probe(tokenizer: Any, length: int) -> Probe:
    """Sentences whose verb agrees with its subject (label 1), and the same with the other number."""
    pairs, seen = agreement_pairs(), set(NOUNS[::2])
    ids = [tokenizer.encode_array(text)[:length].astype(np.int64) for _, *both in pairs for text in both]
    train = np.array([subject in seen for subject, *_ in pairs]).repeat(2)
    return Probe("agreement", ids, np.tile([1, 0], len(pairs)), train, tokenizer.vocab_size)


def file_probe(path: Path, tokenizer: Any, length: int) -> Probe:
    """Labelled texts of a file, `MOST` of them, cut to the length. Raises DataError."""
    found = read_labelled(path)
    names = sorted(set(found.labels))
    if len(names) < 2 or len(found.texts) < 40:
        raise DataError(f"{path}: a probe needs two labels and 40 texts")
    generator = numpy_generator(0, "probe", path.name)
    chosen = generator.permutation(len(found.texts))[:MOST]
    ids = [tokenizer.encode_array(found.texts[n])[:length].astype(np.int64) for n in chosen]
    ids = [one if len(one) else np.zeros(1, np.int64) for one in ids]
    labels = np.array([names.index(found.labels[n]) for n in chosen])
    return Probe(path.stem.replace(".", "_"), ids, labels, np.arange(len(ids)) % 2 == 0, tokenizer.vocab_size)


def features(model: Any, rows: Sequence[np.ndarray], reads: MaskKind) -> Tensor:
    """(n, 2 D) float64."""
    layers = (max(1, model.spec.layers // 2),)
    order = np.argsort([len(row) for row in rows], kind="stable")
    out: list[Tensor | None] = [None] * len(rows)
    with evaluating(model), torch.no_grad():
        for at in range(0, len(order), ROWS):
            part = order[at : at + ROWS]
            batch = Batch.padded([rows[n] for n in part])
            lengths = torch.tensor([len(rows[n]) for n in part])
            more: dict[str, Any] = {"mask": reads, "prefix": lengths if reads == "prefix" else None}
            batch = Batch(ids=batch.ids, lengths=batch.lengths, **more).to(model.device)
            found = model(batch, want=OutputRequest(hidden=True, layers=layers))
            real = (torch.arange(batch.shape[1]) < lengths[:, None]).to(model.device)[..., None]
            means = [(x.double() * real).sum(1) / real.sum(1) for x in (found.layers[0], found.hidden)]
            for n, row in zip(part, torch.cat(means, 1).cpu(), strict=True):
                out[n] = row
    return torch.stack([row for row in out if row is not None])


def accuracy(x: Tensor, labels: np.ndarray, train: np.ndarray) -> float:
    """Of ridge regression on one-hot labels; its penalty is chosen on a fifth of the texts that are learned from."""
    y = torch.nn.functional.one_hot(torch.from_numpy(labels).long()).double()
    seen, unseen = np.flatnonzero(train), np.flatnonzero(~train)
    part, rest = seen[: len(seen) // 5], seen[len(seen) // 5 :]

    def right(learned: np.ndarray, judged: np.ndarray, penalty: float) -> float:
        middle, size = x[learned].mean(0), x[learned].std(0).clamp(min=1e-6)
        a, b, mean = (x[learned] - middle) / size, (x[judged] - middle) / size, y[learned].mean(0)
        ridge = penalty * len(learned) * torch.eye(a.shape[1], dtype=a.dtype)
        weights = torch.linalg.solve(a.mT @ a + ridge, a.mT @ (y[learned] - mean))
        return float(((b @ weights + mean).argmax(1).numpy() == labels[judged]).mean())

    best = max(PENALTIES, key=lambda penalty: right(rest, part, penalty))
    return right(seen, unseen, best)
