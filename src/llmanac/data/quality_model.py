"""A trainable judge of quality: logistic regression over hashed n-grams, which tells texts like the ones one wants from
texts like the ones one does not.

    score(x) = sigmoid(w . f(x) + b),    f(x) = hashed word 1-2-grams and character n-grams, of length 1

A model is two files: `model.safetensors` (weights (2^bits,) and bias (1,), float32) and `quality.json` (the features'
settings and what it was trained on). Training twice on the same texts gives the same bytes.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmanac.core.errors import DataError
from llmanac.core.files import MOST_SETTINGS, atomic_folder, open_regular, read_table, write_bytes, write_json
from llmanac.core.progress import progress
from llmanac.kernels.documents.ngram_features import features, linear, train_epoch
from llmanac.kernels.english.words import code_points, tables

WEIGHTS, SETTINGS = "model.safetensors", "quality.json"
MAX_BITS = 26


@dataclass(frozen=True)
class Features:
    """How a text becomes a vector.

    Attributes:
        bits: there are 2^bits buckets.
        shortest, longest: of the character n-grams; a `longest` of 0 is none.
        characters: of each text, how many are looked at.
    """

    bits: int = 18
    shortest: int = 3
    longest: int = 4
    characters: int = 20_000

    def __post_init__(self) -> None:
        if not 8 <= self.bits <= MAX_BITS:
            raise DataError(f"bits: {self.bits} is not between 8 and {MAX_BITS}")
        if self.longest and not 1 <= self.shortest <= self.longest <= 8:
            raise DataError(f"shortest, longest: {self.shortest} to {self.longest} is no range within 1 to 8")
        if self.characters < 1:
            raise DataError(f"characters: {self.characters} is not positive")

    def of(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """`(buckets (n,) int32, values (n,) float32)` of a text."""
        points = code_points(text[: self.characters].lower())
        return features(points, tables()[0], self.bits, self.shortest, self.longest)


class QualityModel:
    """A trained model."""

    def __init__(self, settings: Features, weights: np.ndarray, bias: float, about: dict[str, Any]) -> None:
        self.settings, self.weights, self.bias, self.about = settings, weights, bias, about

    def score(self, text: str) -> float:
        """How likely a text is one of those wanted, 0 to 1."""
        logit = linear(*self.settings.of(text), self.weights, self.bias)
        return 1.0 / (1.0 + math.exp(-max(-30.0, min(30.0, logit))))

    def save(self, folder: str | Path) -> Path:
        """Write the two files; the folder is complete or absent."""
        from safetensors.numpy import save

        with atomic_folder(folder) as made:
            data = {"weights": self.weights, "bias": np.array([self.bias], np.float32)}
            write_bytes(made / WEIGHTS, save(data))
            write_json(made / SETTINGS, {"kind": "quality", "features": asdict(self.settings), **self.about})
        return Path(folder)


def load_quality(folder: str | Path) -> QualityModel:
    """Read a model. Raises DataError that names the file and what is wrong with it."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    folder = Path(folder)
    about = read_table(folder / SETTINGS, most=MOST_SETTINGS)
    path = folder / WEIGHTS
    open_regular(path).close()
    try:
        settings = Features(**about["features"])
    except (KeyError, TypeError, DataError) as error:
        raise DataError(f"{folder / SETTINGS}: not the settings of a quality model ({error})") from None
    try:
        held = load_file(path)
        weights, bias = held["weights"], held["bias"]
    except (OSError, KeyError, SafetensorError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: not the weights of a quality model ({error}); train it again") from None
    if weights.shape != (1 << settings.bits,) or weights.dtype != np.float32 or bias.shape != (1,):
        raise DataError(f"{path}: weights of shape {weights.shape} where (2^{settings.bits},) float32 was expected")
    if not (np.isfinite(weights).all() and np.isfinite(bias).all()):
        raise DataError(f"{path}: it holds weights that are not finite; train it again")
    rest = {key: value for key, value in about.items() if key not in ("kind", "features")}
    return QualityModel(settings, weights, float(bias[0]), rest)


def train_quality(
    positive: Sequence[str], negative: Sequence[str], settings: Features | None = None, *, epochs: int = 5,
    rate: float = 0.1, decay: float = 1e-6, seed: int = 0,
) -> QualityModel:  # fmt: skip
    """Train on texts that are wanted and texts that are not; both weigh the same however many there are of each.

    Args:
        rate: AdaGrad's step; decay: weight of the squared weights.
        seed: of the order of the texts, the only random thing.

    Raises:
        DataError: one side has no text.
    """
    if not positive or not negative:
        raise DataError(f"quality: {'no positive' if not positive else 'no negative'} texts; give at least one of each")
    settings = settings or Features()
    texts = [*positive, *negative]
    labels = np.array([1] * len(positive) + [0] * len(negative))
    shares = np.array([len(texts) / (2 * len(negative)), len(texts) / (2 * len(positive))])
    found = []
    settings.of("compiled before the clock starts")
    with progress("features", total=len(texts), unit="texts") as bar:
        for text in texts:
            found.append(settings.of(text))
            bar.advance()
    starts = np.concatenate([[0], np.cumsum([len(b) for b, _ in found])]).astype(np.int64)
    buckets = np.concatenate([b for b, _ in found])
    values = np.concatenate([v for _, v in found])
    weights, squares, bias = np.zeros(1 << settings.bits), np.zeros(1 << settings.bits), np.zeros(2)
    order, losses = np.random.Generator(np.random.PCG64(seed)), []
    with progress("train", total=epochs, unit="epochs") as bar:
        for _ in range(epochs):
            turn = order.permutation(len(texts))
            loss = train_epoch(
                turn, starts, buckets, values, labels, shares, weights, squares, bias, rate, decay
            )  # fmt: skip
            losses.append(round(float(loss), 6))
            bar.advance(loss=float(loss))
    about = {"positive": len(positive), "negative": len(negative), "epochs": epochs, "rate": rate, "decay": decay,
             "seed": seed, "losses": losses}  # fmt: skip
    return QualityModel(settings, weights.astype(np.float32), float(np.float32(bias[0])), about)
