"""Questions to begin with name only entries that are there, and ask what their passages say."""

from __future__ import annotations

from llmanac.apps.docs_assistant.examples import example_questions
from llmanac.apps.docs_assistant.passages import Passage


def passage(entry: int, title: str, *lines: str) -> Passage:
    return Passage(title.partition("(")[0], title, lines, entry, first=True)


def test_questions_are_about_entries_that_say_it_and_others_mention() -> None:
    passages = [
        passage(0, "topic while", "The while statement repeats os.seldom and zoo.never."),
        passage(1, "os.seldom(path)", "Return what is seldom asked. See shelf.open."),
        passage(2, "shelf.open(name)", "Open a shelf by its name.", "Raises KeyError where it is missing."),
        passage(3, "zoo.feed(animal)", "Feed one animal. See shelf.open and os.seldom."),
        passage(4, "zoo.Cage.lock()", "Return the key of the cage."),
        passage(5, "os.spoil(x)", "An error is raised for every x."),
    ]
    assert example_questions(passages) == [
        "What does os.seldom do?",
        "What does zoo.Cage.lock return?",
        "Which errors does shelf.open raise?",
    ]


def test_an_index_that_holds_little_gives_few() -> None:
    assert example_questions([]) == []
    assert example_questions([passage(0, "topic while", "The while statement repeats.")]) == []
    assert example_questions([passage(0, "a.b()", "Do one thing.")]) == ["What does a.b do?"]
