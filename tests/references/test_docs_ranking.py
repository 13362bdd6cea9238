"""Which entries a question that names nothing is after, and whether any is."""

from __future__ import annotations

import numpy as np

from llmanac.apps.docs_assistant.assistant import Assistant
from llmanac.apps.docs_assistant.index import DocumentationIndex
from llmanac.apps.docs_assistant.names import Known
from llmanac.apps.docs_assistant.passages import Passage
from llmanac.apps.docs_assistant.ranking import EntryRanking
from llmanac.retrieve.dense import Dense, Spec

TEXTS = {
    "box.Tree.drop": "Remove a folder and its files.",
    "disk.drop": "Remove a folder and its files.",
    "disk.drop_all": "Remove a folder and its files.",
    "disk.keep": "Return the size of a stored picture.",
    "topic folders": "Remove a folder and its files.",
}
NAMES = list(TEXTS)
PASSAGES = [
    Passage(name.removeprefix("topic "), name if name.startswith("topic ") else f"{name}(x)", (text,), entry, True)
    for entry, (name, text) in enumerate(TEXTS.items())
]


def order(index: DocumentationIndex, question: str) -> list[str]:
    return [NAMES[one.entry] for one in index.best(question, len(NAMES))]


def test_what_programs_call_comes_before_methods_and_chapters() -> None:
    index = DocumentationIndex(PASSAGES, calls={2: 16.0})
    assert order(index, "wipe a directory, files included") == [
        "disk.drop_all",
        "disk.drop",
        "box.Tree.drop",
        "topic folders",
    ]
    assert order(index, "zebra") == [], "no word of it is there"
    aliased = DocumentationIndex(PASSAGES, names=[Known("box.drop", 0)], calls={0: 40.0})
    assert order(aliased, "wipe a directory")[0] == "box.Tree.drop", "its other name is that of a function"


def test_vectors_add_to_words() -> None:
    index = DocumentationIndex(PASSAGES)
    assert order(index, "wipe a directory, files included")[-1] == "topic folders"
    directions = np.eye(len(NAMES), dtype=np.float32)
    index.dense = Dense(spec=Spec(), encode=lambda texts: directions[[3] * len(texts)], vectors=directions)
    found = index.best("how large is that photo", len(NAMES))
    assert (NAMES[found[0].entry], round(found[0].likeness, 3)) == ("disk.keep", 1.0)
    assert len(found) == len(NAMES), "a vector finds what shares no word"
    assert order(index, "wipe a directory, files included")[0] == "disk.keep", "a cosine of 1 outweighs the words"


def test_entries_of_one_name_are_shown_once_in_the_place_of_the_best() -> None:
    index = DocumentationIndex(PASSAGES, calls={1: 16.0})
    best = index.best("wipe a directory", len(NAMES))
    assert NAMES[best[0].entry] == "disk.drop"
    shown = Assistant._named_once(type("Held", (), {"index": index})(), best)
    assert [known.name for known in shown] == ["disk.drop", "disk.drop_all", "folders"]


def test_words_that_no_entry_has_speak_against_an_answer() -> None:
    ranking: EntryRanking = DocumentationIndex(PASSAGES).ranking

    def serves(question: str) -> bool:
        return ranking.serves(question, ranking.best(question, 3), vectors=False)

    assert serves("remove a folder and its files")
    assert serves("wipe a directory with its files")
    assert not serves("remove a kubernetes folder from my helm terraform")
    assert not serves("rebase onto upstream")
