"""What every classifier has: fit, predict, scores, explain, save and load, and the checks of what they are given."""

from __future__ import annotations

import importlib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from llmanac.core import files
from llmanac.core.errors import CheckpointError, DataError
from llmanac.core.spec import dump
from llmanac.data.examples import Form
from llmanac.models.classifiers import ClassifierSpec

FORMAT_VERSION = 1
FILE, WEIGHTS = "classifier.json", "model.safetensors"
TRAINER = ("llmanac.recipes.classification", "train_classifier")
MANY_LABELS = 50  # more than these, and more than half as many as texts, are taken for another column
SHOWN = 60  # characters of a value that a message shows

Trainer = Callable[..., Any]


@dataclass(frozen=True)
class Training:
    """How a learned classifier asks to be trained; the trainer makes a TrainSpec of it.

    Attributes:
        loss: a method of the kind `loss`. l2: penalty on the mean loss. form: how rows go to the network.
        epochs, batch, lr, weight_decay: as everywhere; batch None is all examples, up to what the trainer takes.
        least_steps: what few examples are trained for at least, however many epochs that makes.
        schedule: a method of the kind `schedule` with its fields.
    """

    loss: str
    epochs: int
    lr: float
    batch: int | None = None
    l2: float = 0.0
    weight_decay: float = 0.0
    beta2: float = 0.999
    least_steps: int = 1
    schedule: Mapping[str, Any] = field(default_factory=lambda: {"name": "cosine", "warmup": 0.0, "floor": 0.0})
    form: Form = "bag"


@dataclass(frozen=True)
class Part:
    """One feature's part in a decision: `value` of the feature, its `weight`, and what both add to the score."""

    feature: str
    value: float
    weight: float
    effect: float


@dataclass(frozen=True)
class Explanation:
    """Why a text gets its label.

    Attributes:
        label: the label chosen; `against`: the label it is weighed against, the next best.
        scores: every label's score.
        parts: what each feature adds to score(label) - score(against), largest effect first.
        exact: whether `rest` and the effects add up to that difference; else each effect is what leaving the feature
            out changes.
        rest: what no feature adds (biases).
    """

    text: str
    label: str
    against: str
    scores: Mapping[str, float]
    parts: Sequence[Part]
    exact: bool
    rest: float = 0.0
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def margin(self) -> float:
        """score(label) - score(against)."""
        return self.scores[self.label] - self.scores[self.against]

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        own = {"text": self.text, "label": self.label, "against": self.against, "scores": dict(self.scores)}
        parts = [vars(part) for part in self.parts]
        return own | {"parts": parts, "exact": self.exact, "rest": self.rest, "notes": list(self.notes)}

    def lines(self, most: int = 12) -> list[str]:
        """The explanation for a terminal."""
        shown = self.text if len(self.text) <= 200 else self.text[:200] + " ..."
        out = [f"text   {shown}", f"label  {self.label}   (against {self.against}: ahead by {self.margin:.4g})"]
        width = max((len(part.feature) for part in self.parts[:most]), default=0)
        for part in self.parts[:most]:
            sign = "for" if part.effect >= 0 else "against"
            made = f"  = {part.value:g} x {part.weight:+.4g}" if self.exact else ""
            out.append(f"  {part.feature:<{width}}  {part.effect:+.4g}{made}   {sign} {self.label}")
        if len(self.parts) > most:
            others = math.fsum(part.effect for part in self.parts[most:])
            out.append(f"  {len(self.parts) - most} more features: {others:+.4g} together")
        if self.exact:
            out.append(f"  no feature: {self.rest:+.4g}")
        else:
            out.append("  each number is what leaving the word out takes away; they need not add up")
        return out + [f"  {note}" for note in self.notes]


class Classifier:
    """Base of all classifiers.

    Attributes:
        spec: its choices.
        labels: what it can answer, in the order of its scores; empty until it was fitted or loaded.
        learned: whether `fit` trains anything; else it only takes the labels' names.
    """

    learned: ClassVar[bool] = True

    def __init__(self, spec: ClassifierSpec) -> None:
        self.spec = spec
        self.labels: tuple[str, ...] = ()

    def fit(
        self,
        texts: Sequence[str],
        labels: Sequence[Any],
        *,
        seed: int = 0,
        folder: str | Path | None = None,
        trainer: Trainer | None = None,
        **how: Any,
    ) -> Any:
        """Learn from examples; returns the classifier itself.

        Args:
            texts, labels: N examples; labels may be texts, whole numbers or booleans.
            seed: of everything random.
            folder: where the training keeps its metrics and checkpoints; nowhere by default.
            trainer: what trains; by default the package's one training loop.
            how: further arguments of the trainer (`patches` for its TrainSpec, `report`).

        Raises:
            DataError: no example, an empty text, one label only, or labels that are none.
        """
        checked, names = check_examples(texts, labels)
        if trainer is None:
            # looked up by name when it is needed: models know no training, and one that is loaded needs none
            module, name = TRAINER
            trainer = getattr(importlib.import_module(module), name)
        trainer(self, checked, names, seed=seed, folder=folder, **how)
        return self

    def prepare(self, texts: Sequence[str], labels: Sequence[str], seed: int) -> None:
        """Take from checked examples what is needed before training: labels, vocabulary, initial weights."""
        self.labels = tuple(sorted(set(labels)))

    @property
    def network(self) -> Any:
        """What is trained; None for methods that learn nothing."""
        return None

    def training(self, examples: int) -> Training:
        """How to train on so many examples; for methods that have a network."""
        raise NotImplementedError

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """(N, C) one score a label, the highest wins; differences are log-odds for methods that learned them."""
        raise NotImplementedError

    def predict(self, texts: Sequence[str]) -> list[str]:
        """The label of each text; of equal scores the first."""
        self.check_fitted()
        if not len(texts):
            return []
        return [self.labels[i] for i in self.scores(texts).argmax(1)]

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """(N, C) softmax of the scores."""
        found = self.scores(texts)
        found = np.exp(found - found.max(1, keepdims=True))
        return found / found.sum(1, keepdims=True)

    def explain(self, text: str) -> Explanation:
        """Why this text gets its label."""
        raise NotImplementedError

    def save(self, folder: str | Path) -> Path:
        """Write classifier.json and the weights; the folder is whole or as it was. Returns it."""
        self.check_fitted()
        with files.atomic_folder(folder) as temporary:
            record = {"format_version": FORMAT_VERSION, "spec": dump(self.spec), "labels": list(self.labels)}
            files.write_json(temporary / FILE, record | self.write(temporary))
        return Path(folder)

    @staticmethod
    def load(folder: str | Path) -> Any:
        """The classifier that `save` wrote; see `load.load_classifier`."""
        from llmanac.models.classifiers.load import load_classifier

        return load_classifier(folder)

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the method's own files; returns what goes into classifier.json beside spec and labels."""
        raise NotImplementedError

    def read(self, folder: Path, record: Mapping[str, Any]) -> None:
        """Take back what `write` wrote."""
        raise NotImplementedError

    def check_fitted(self) -> None:
        """Raise CheckpointError where nothing was learned or loaded yet."""
        if not self.labels:
            raise CheckpointError(f"classifier {self.spec.name}: has not been fitted; call fit, or load a saved one")

    def against(self, scores: np.ndarray) -> tuple[int, int]:
        """Of one text's scores (C,), the best label's number and the next best's."""
        best = int(scores.argmax())
        others = np.where(np.arange(len(scores)) == best, -np.inf, scores)
        return best, int(others.argmax())


def check_texts(texts: Any) -> list[str]:
    """Texts as a list. Raises DataError for one text instead of several, or something that is no text."""
    if isinstance(texts, (str, bytes)):
        raise DataError("texts: expected several texts, got one; put it into a list")
    out = list(texts)
    for number, text in enumerate(out):
        if not isinstance(text, str):
            raise DataError(f"texts: number {number} is {type(text).__name__} {str(text)[:SHOWN]!r}, not text")
        if not whole(text):
            raise DataError(f"texts: number {number} holds half of a character (a lone surrogate); mend or drop it")
    return out


def whole(text: str) -> bool:
    """Whether a text can be written as UTF-8: JSON's escapes can make halves of characters, which no file can hold."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def label_name(label: Any) -> str | None:
    """A label's name: texts as they are, whole numbers and booleans in words; None for what is no label (NaN, a list).

    The fractions 1.0 and 0.0, which tables make out of whole numbers beside gaps, are whole numbers here.
    """
    if isinstance(label, str):
        return (label.strip() or None) if whole(label) else None
    if isinstance(label, (bool, np.bool_)):
        return str(bool(label)).lower()
    if isinstance(label, (int, np.integer)):
        return str(int(label))
    if isinstance(label, (float, np.floating)) and float(label).is_integer():
        return str(int(label))
    return None


def check_examples(texts: Any, labels: Any) -> tuple[list[str], list[str]]:
    """Texts and label names.

    Raises:
        DataError: unequal numbers, none, an empty text, something that is no label, or fewer than two labels.
    """
    checked, given = check_texts(texts), list(labels)
    if len(checked) != len(given):
        raise DataError(f"labels: {len(given)} for {len(checked)} texts; every text needs one")
    if not checked:
        raise DataError("texts: there are no examples to learn from")
    names: list[str] = []
    for number, (text, label) in enumerate(zip(checked, given, strict=True)):
        name = label_name(label)
        if name is None:
            raise DataError(
                f"labels: number {number} is {str(label)[:SHOWN]!r}, which is no label; mend or drop the row"
            )
        if not text.strip():
            raise DataError(f"texts: number {number} is empty; drop the row")
        names.append(name)
    counts = Counter(names)
    if len(counts) < 2:
        raise DataError(f"labels: all {len(names)} are {names[0][:SHOWN]!r}; a classifier needs at least two labels")
    if len(counts) > MANY_LABELS and len(counts) > len(names) // 2:
        raise DataError(f"labels: {len(counts):,} different ones for {len(names):,} texts; is that the labels' column?")
    return checked, names
