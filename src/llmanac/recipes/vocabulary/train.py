"""Train a tokenizer from files."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmanac.core import spec
from llmanac.core.errors import SpecError
from llmanac.core.files import atomic_folder, write_json
from llmanac.core.outputs import check_new
from llmanac.recipes.vocabulary import texts
from llmanac.tokenizers import Mixture, Tokenizer, parse_weights


@dataclass(frozen=True)
class TrainedTokenizer:
    """A tokenizer and what it was trained on.

    Attributes:
        learns: whether its method trains on text at all. asked: the requested vocabulary size, 0 without limit.
        bytes, seconds: size of the text read, and the training time.
        texts: the text, to be read again.
    """

    tokenizer: Tokenizer
    learns: bool
    asked: int
    bytes: int
    seconds: float
    texts: Iterable[str]

    def unknown_rate(self) -> float:
        """The fraction of the text's words that are not in the vocabulary."""
        return self.tokenizer.unknown_rate(self.texts)


def train(
    name: str, items: Sequence[str], folder: Path, patches: Sequence[str] = (), *, alpha: float | None = None,
    weights: Sequence[str] = (), unit: Any = "bytes", reading: texts.Reading,
    mixed: Callable[[Mixture], object] = lambda mixture: None,
) -> TrainedTokenizer:  # fmt: skip
    """Train a tokenizer and write it.

    Args:
        name: a method of the kind `tokenizer`. patches: of its fields.
        items: files or folders, or `label=path`.
        alpha, weights, unit: how labelled text is mixed, see `Mixture`.
        mixed: called with the mixture, if there is one, before training.

    Raises:
        SpecError: an unknown method, choice or label. DataError: text that cannot be used.
    """
    made = spec.make_method("tokenizer", {"name": name, **spec.parse_patches(patches)}, f"tokenizer/{name}")
    groups = texts.labelled(items)
    given = parse_weights(weights) if weights else None
    mixes = alpha is not None or given is not None
    if mixes and not texts.has_labels(items):
        raise SpecError("--alpha and --weight mix labelled text; write label=path for every file or folder")
    stream: Iterable[str] = texts.VocabularyTexts([path for found in groups.values() for path in found], reading)
    if mixes:
        stream = Mixture(
            lambda: ((label, text) for label, paths in groups.items() for text in reading.cut(paths)),
            weights=given, alpha=alpha, unit=unit,
        )  # fmt: skip
        mixed(stream)
    counted = _Counted(stream)
    start = time.perf_counter()
    tokenizer = made.train(counted)
    seconds = time.perf_counter() - start
    about = {
        "tokenizer": spec.dump(made), "files": {label: list(paths) for label, paths in groups.items()},
        "places": texts.places(path for paths in groups.values() for path in paths),
        "mixture": stream.as_json() if isinstance(stream, Mixture) else None, "texts": counted.texts,
        "bytes": counted.bytes, "seconds": round(seconds, 3), "fingerprint": tokenizer.fingerprint(),
    }  # fmt: skip
    with atomic_folder(folder) as target:
        tokenizer.save(target)
        write_json(target / texts.TRAINING, about)
        check_new(folder, "--folder")  # another command may have written it meanwhile
    asked = made.vocab_size or 0
    return TrainedTokenizer(tokenizer, type(made).learns, asked, counted.bytes, seconds, stream)


class _Counted:
    """A stream that counts its texts and bytes."""

    def __init__(self, inner: Iterable[str]) -> None:
        self._inner, self.texts, self.bytes = inner, 0, 0

    def __iter__(self) -> Any:
        for text in self._inner:
            self.texts += 1
            self.bytes += len(text.encode("utf-8", "replace"))
            yield text
