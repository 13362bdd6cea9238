"""The base class of all classifiers (fit, predict, scores, explain, save, load), and checks of texts and labels.

The language model of fine-tuning and prompting, with its tokenizer and its folder.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

import llmanac
from llmanac.core import files
from llmanac.core.errors import CheckpointError, DataError, SpecError
from llmanac.core.spec import dump
from llmanac.data.examples import Form
from llmanac.models.card import first_card
from llmanac.models.classifiers import ClassifierSpec
from llmanac.models.classifiers._explain import Explanation, explain_by_leaving_out
from llmanac.models.classifiers.load import FILE, FORMAT_VERSION, load_classifier
from llmanac.models.load import load_model
from llmanac.models.pairs import start_token
from llmanac.tokenizers.load import load_tokenizer

MANY_LABELS = 50  # more than these, and more than half as many as texts, suggest that it is another column
SHOWN = 60  # characters of a value that a message shows


@dataclass(frozen=True)
class Training:
    """How a classifier is trained; the trainer makes a TrainSpec of it.

    Attributes:
        loss: a method of the kind `loss`. l2: penalty on the mean loss. form: how rows go to the network.
        epochs, batch, lr, weight_decay: as everywhere; batch None is all examples, up to the limit of the trainer.
        least_steps: the minimum number of steps, however many epochs that is.
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


class Classifier:
    """Base of all classifiers.

    Attributes:
        spec: its choices.
        labels: the labels in the order of the scores; empty until it was fitted or loaded.
        network: what is trained; None before `fit`, and for methods that learn nothing.
        learned: whether `fit` trains anything; else it only stores the labels' names.
        book, model: the rules of a classifier of rules, and the language model of one that has one; else None.
    """

    learned: ClassVar[bool] = True
    book: Any = None
    model: Any = None

    def __init__(self, spec: ClassifierSpec) -> None:
        self.spec: Any = spec
        self.labels: tuple[str, ...] = ()
        self.network: Any = None

    def fit(
        self,
        texts: Sequence[str],
        labels: Sequence[Any],
        *,
        seed: int = 0,
        folder: str | Path | None = None,
        **how: Any,
    ) -> Any:
        """Learn from examples; returns the classifier itself.

        Args:
            texts, labels: N examples; labels may be texts, integers or booleans.
            seed: of everything random.
            folder: where the training keeps its metrics and checkpoints; nowhere by default.
            how: further arguments of `llmanac.train_classifier` (`patches` for its TrainSpec, `report`).

        Raises:
            DataError: no example, an empty text, one label only, or invalid labels.
        """
        checked, names = check_examples(texts, labels)
        llmanac.train_classifier(self, checked, names, seed=seed, folder=folder, **how)
        return self

    def prepare(self, texts: Sequence[str], labels: Sequence[str], seed: int) -> None:
        """Set what training needs from checked examples: labels, vocabulary, initial weights."""
        self.labels = tuple(sorted(set(labels)))

    def training(self, examples: int) -> Training:
        """How to train on so many examples; for methods that have a network."""
        raise NotImplementedError

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """(N, C) one score per label, the highest wins; differences are log-odds for methods that learned them."""
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
        """Why this text gets its label: by default, what leaving out each of its words changes."""
        self.check_fitted()
        return explain_by_leaving_out(self, text, text.split())

    def save(self, folder: str | Path) -> Path:
        """Write classifier.json and the weights; the folder is complete or unchanged. Returns it."""
        self.check_fitted()
        with files.atomic_folder(folder) as temporary:
            record = {"format_version": FORMAT_VERSION, "spec": dump(self.spec), "labels": list(self.labels)}
            files.write_json(temporary / FILE, record | self.write(temporary))
            text = f"Written by llmanac: `llmanac classify predict FOLDER ROWS` labels texts: {', '.join(self.labels)}."
            first_card(temporary, f"{self.spec.name} classifier", text, pipeline_tag="text-classification")
        return Path(folder)

    @staticmethod
    def load(folder: str | Path) -> Any:
        """The classifier that `save` wrote; see `load.load_classifier`."""
        return load_classifier(folder)

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the method's own files; returns further fields of classifier.json."""
        raise NotImplementedError

    def read(self, folder: Path, record: Mapping[str, Any]) -> None:
        """Take back what `write` wrote."""
        raise NotImplementedError

    def check_fitted(self) -> None:
        """Raise CheckpointError where nothing was learned or loaded yet."""
        if not self.labels:
            raise CheckpointError(f"classifier {self.spec.name}: has not been fitted; call fit, or load a saved one")

    def classes(self, labels: Sequence[str] | None) -> list[int] | None:
        """Labels as their numbers."""
        numbers = {name: i for i, name in enumerate(self.labels)}
        return None if labels is None else [numbers[name] for name in labels]

    def columns(self, values: Sequence[float] | np.ndarray) -> np.ndarray:
        """(K,) -> (C,): a single score for two labels is that of the second, the first has 0."""
        return np.array([0.0, values[0]] if len(values) == 1 else values)

    def against(self, scores: np.ndarray, best: int | None = None) -> tuple[int, int]:
        """Of one text's scores (C,), the number of the label chosen (the best if None), and of the best other one."""
        best = int(scores.argmax()) if best is None else best
        others = np.where(np.arange(len(scores)) == best, -np.inf, scores)
        return best, int(others.argmax())


def check_texts(texts: Any) -> list[str]:
    """Texts as a list. Raises DataError for one text instead of several, or an item that is not a text."""
    if isinstance(texts, (str, bytes)):
        raise DataError("texts: expected several texts, got one; put it into a list")
    out = list(texts)
    for number, text in enumerate(out):
        if not isinstance(text, str):
            raise DataError(f"texts: number {number} is {type(text).__name__} {str(text)[:SHOWN]!r}, not text")
        if not encodable(text):
            raise DataError(f"texts: number {number} has half of a character (a lone surrogate); fix or drop it")
    return out


def encodable(text: str) -> bool:
    """Whether a text can be written as UTF-8: JSON's escapes can make lone surrogates, which no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def label_name(label: Any) -> str | None:
    """A label's name: a text as it is, an integer or boolean as text; None for an invalid label (NaN, a list).

    Floats such as 1.0, which tables make of integers in a column with gaps, count as integers.
    """
    if isinstance(label, str):
        return (label.strip() or None) if encodable(label) else None
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
        DataError: unequal numbers, none, an empty text, an invalid label, or fewer than two labels.
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
                f"labels: number {number} is {str(label)[:SHOWN]!r}, which is not a valid label; fix or drop the row"
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


MODEL = "model"  # the folder of a saved classifier that holds its language model and tokenizer


def start_id(tokenizer: Any) -> int:
    """The token before a text: bos, else eos. Raises SpecError for a tokenizer with neither."""
    found = start_token(tokenizer)
    if found is None:
        raise SpecError("tokenizer: has neither a bos nor an eos token to start a text with; give it one of them")
    return found


def open_model(model: Any, tokenizer: Any, path: str | None, dtype: str | None = None) -> tuple[Any, Any, str | None]:
    """`(language model, tokenizer, the path they came from)`, given as objects or by the path of a model's folder.

    Args:
        dtype: in which a model is read by its path: one that is trained is dense.

    Raises:
        SpecError: neither or only one of the objects, or vocabularies that do not fit.
    """
    if (model is None) != (tokenizer is None):
        raise SpecError("model: give the language model together with its tokenizer")
    if model is None:
        if path is None:
            return None, None, None
        model, tokenizer = load_model(path, dtype=dtype, device="cpu"), load_tokenizer(path)
    if tokenizer.vocab_size > model.vocab_size:
        raise SpecError(
            f"tokenizer: has {tokenizer.vocab_size} tokens, the language model only {model.vocab_size}; they do not fit"
        )
    return model, tokenizer, path


def need(model: Any, name: str) -> Any:
    """The model. Raises SpecError where a classifier was built without one."""
    if model is None:
        raise SpecError(
            f"{name}: needs a language model; build it with model= and tokenizer=, or set `path` to its folder"
        )
    return model


def write_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write model and tokenizer below a classifier's folder. Raises CheckpointError where it cannot be saved."""
    if not hasattr(model, "save_pretrained"):
        raise CheckpointError(f"{type(model).__name__}: this language model cannot be saved, so the classifier cannot")
    target = folder / MODEL
    target.mkdir()
    model.save_pretrained(target)
    tokenizer.save(target)


def read_model(folder: Path, record: Mapping[str, Any]) -> tuple[Any, Any]:
    """Model and tokenizer of a saved classifier, in float32 or as they were saved in float64."""
    target = folder / MODEL
    return load_model(target, dtype=record.get("dtype"), device="cpu"), load_tokenizer(target)
