"""Questions about documentation: true answers, forms that never meet, retrieval that finds, refusals where due."""

from __future__ import annotations

import ast
import random
import re
from collections import Counter

import numpy as np
import pytest
from _documented import COPY, GOOGLE, NUMPY, REST, SILENT, entry, library

from llmanac.apps.docs_assistant.facts import KINDS, facts_of, not_stated, parameters, wish_of
from llmanac.apps.docs_assistant.forms import (
    FORMS,
    HELD_OUT,
    OFF_TOPIC,
    OPENERS,
    TRAINING,
    every,
    expand,
    near_held_out,
    plain,
)
from llmanac.apps.docs_assistant.index import DocumentationIndex
from llmanac.apps.docs_assistant.passages import lines_of, passages_of, sentences
from llmanac.apps.docs_assistant.questions import REFUSAL, QuestionMaker, entry_passages
from llmanac.data.sources._docstrings import Entry


def facts(e: Entry) -> dict[tuple[str, str], str]:
    return {(f.kind, f.subject): f.answer for f in facts_of(e, 0, list(passages_of(e, 0)))}


def test_prose_becomes_one_statement_a_line_and_examples_go() -> None:
    assert lines_of(COPY.doc) == [
        "Recursively copy a directory tree and return the destination directory.",
        "If the `symlinks` flag is true, links stay links.",
        "Raises Error when a file cannot be copied.",
    ]
    assert sentences("See e.g. os.walk. It works. Mr. X said: 3.5 is ok.") == [
        "See e.g. os.walk.",
        "It works.",
        "Mr. X said: 3.5 is ok.",
    ]


def test_every_docstring_style_gives_the_same_form() -> None:
    assert lines_of(GOOGLE.doc) == [
        "Fetch a page.",
        "url: Where the page is, as text.",
        "timeout: Seconds to wait.",
        "Returns: The body of the page.",
        "Raises OSError: the host is down.",
        "Raises ValueError: the url is wrong.",
        "It caches nothing.",
    ]
    assert lines_of(REST.doc) == [
        "Send data to a page.",
        "url: Where to send it.",
        "Returns: The status code.",
        "Raises OSError: on failure.",
    ]
    assert lines_of(NUMPY.doc)[:3] == ["Scale numbers.", "x: The numbers.", "by: The factor."]
    assert any("The scaled numbers." in line for line in lines_of(NUMPY.doc))


def test_facts_are_what_the_documentation_states() -> None:
    found = facts(COPY)
    assert found["what", ""] == found["returns", ""] == lines_of(COPY.doc)[0]
    assert found["raises", ""] == "Raises Error when a file cannot be copied."
    assert found["arguments", ""] == "shutil.copytree(src, dst, symlinks=False, *, follow=True)"
    assert found["default", "symlinks"] == "symlinks=False"
    assert found["default", "follow"] == "follow=True"
    assert found["parameter", "symlinks"] == "If the `symlinks` flag is true, links stay links."
    assert (
        found["which", "recursively copy a directory tree and return the destination directory"]
        == found["arguments", ""]
    )
    assert facts(GOOGLE)["parameter", "timeout"] == "timeout: Seconds to wait."
    assert facts(REST)["returns", ""] == "Returns: The status code."
    assert parameters("(a, /, b=(1, 2), *c, d=None, e, **f) -> int") == {
        "a": None,
        "b": "(1, 2)",
        "d": "None",
        "e": None,
    }
    assert parameters("([iterable[, maxlen]])") == {}
    assert wish_of("Returns the name of a file.") == "return the name of a file"
    assert wish_of("The name of a file, as it stands.") == ""


def test_what_is_left_open_is_never_stated() -> None:
    passages = list(passages_of(SILENT, 0))
    open_ = not_stated(SILENT, passages, list(facts_of(SILENT, 0, passages)))
    assert ("raises", "") in open_
    assert ("returns", "") in open_
    assert ("default", "seconds") in open_
    passages = list(passages_of(COPY, 0))
    kinds = {kind for kind, _ in not_stated(COPY, passages, list(facts_of(COPY, 0, passages)))}
    assert not {"raises", "returns"} & kinds


def test_forms_for_evaluation_never_occur_in_training() -> None:
    for kind in KINDS:
        training = {plain(form) for pattern in TRAINING[kind] for form in every(pattern)}
        held = {plain(form) for pattern in HELD_OUT[kind] for form in every(pattern)}
        assert len(training) >= 15, kind
        assert len(held) >= 8, kind
        assert not training & held, kind
        assert all("{" in form for form in training | held)
    off = [{plain(form) for pattern in OFF_TOPIC[side] for form in every(pattern)} for side in ("training", "held_out")]
    assert not off[0] & off[1]
    assert not set(OPENERS["training"]) & set(OPENERS["held_out"])
    rng = random.Random(0)
    assert {expand("a (b|c) d", rng) for _ in range(50)} == set(every("a (b|c) d")) == {"a b d", "a c d"}


def test_forms_near_one_for_evaluation_are_known() -> None:
    for near in (
        "Help me {s}.",
        "help {s}",
        "Please help me {s}",
        "help us {s}?",
        "Which arguments are accepted by {n}",
    ):
        assert near_held_out(near), near
    for far in ("{s}", "How do I {s}?", "Help me to please {s}", "What is {n}?"):
        assert not near_held_out(far), far


def test_no_training_question_has_a_form_for_evaluation(entries: list[Entry]) -> None:
    maker = QuestionMaker(entries, range(len(entries)), "training", seed=4)
    drawn = [maker._form(patterns) for patterns in (*TRAINING.values(), OFF_TOPIC["training"]) for _ in range(3000)]
    held = {plain(f) for patterns in (*HELD_OUT.values(), OFF_TOPIC["held_out"]) for p in patterns for f in every(p)}
    assert not held & {plain(form) for form in drawn}
    for form in random.Random(0).sample(drawn, 400):
        assert min(distance(plain(form).split(), other.split()) for other in held) >= 2, form
    assert len({plain(form) for form in drawn}) > 4000, "what is left is still many forms"


def distance(a: list[str], b: list[str]) -> int:
    """Words to change, add or leave out (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


@pytest.fixture(scope="module")
def entries() -> list[Entry]:
    return library()


def test_pairs_answer_truly_and_are_balanced(entries: list[Entry]) -> None:
    maker = QuestionMaker(entries, range(len(entries)), "training", seed=1)
    pairs = maker.answerable(700)
    assert Counter(p.sort for p in pairs) == dict.fromkeys(maker.kinds, 100)
    for pair in pairs:
        text = "\n".join(p.text for p in passages_of(entries[pair.entry], 0))
        assert pair.answer in text
        assert pair.sort in KINDS
        if pair.sort == "default":
            subject, _, value = pair.answer.partition("=")
            assert subject in pair.question
            assert parameters(entries[pair.entry].signature)[subject] == value
        elif pair.sort != "which":
            assert entries[pair.entry].name.rpartition(".")[2] in pair.question
    assert len({p.question for p in pairs}) > 600, "questions hardly repeat"
    again = QuestionMaker(entries, range(len(entries)), "training", seed=1).answerable(700)
    assert again == pairs
    assert QuestionMaker(entries, range(len(entries)), "training", seed=2).answerable(700) != pairs


def test_unanswerable_questions_have_no_answer(entries: list[Entry]) -> None:
    maker = QuestionMaker(entries, range(len(entries)), "training", seed=1)
    names = {e.name for e in entries}
    pairs = maker.unanswerable(300)
    assert Counter(p.sort for p in pairs) == {"unknown name": 100, "not stated": 100, "off topic": 100}
    for pair in pairs:
        assert pair.answer == REFUSAL
        if pair.sort == "unknown name":
            said = set(re.findall(r"[\w.]+\w", pair.question))
            assert not said & {n for n in names if "." in n}
        if pair.sort == "not stated" and pair.asks == "raises":
            assert not re.search("rais|error", entries[pair.entry].doc, re.I)


def test_names_are_found_however_they_are_written(entries: list[Entry]) -> None:
    index = DocumentationIndex(entry_passages(entries))
    for question in (
        "What does shutil.copytree return?",
        "what does COPYTREE do",
        "copytree()",
        "explain `copytree` to me",
        "the copytree function in shutil",
        "What is symlinks in shutil.copytree?",
        "Tell me about shutil.copytree.",
    ):
        found = index.find(question)
        assert entries[found.entry].name == "shutil.copytree", question
        assert "shutil.copytree" in found.asked.text
        assert index.passages[found.passages[0]].entry == found.entry
        assert found.coverage == 1.0
    assert entries[index.find("What does len do?").entry].name == "len"
    assert index.find("what is the length of a river").entry == -1
    assert index.find("What does shutil.copyall return?").coverage == 0.0
    assert index.find("who won the match").entry == -1


def test_words_find_what_has_no_name(entries: list[Entry]) -> None:
    index = DocumentationIndex(entry_passages(entries))
    found = index.find("how do I recursively copy a whole directory tree?")
    assert entries[index.passages[found.passages[0]].entry].name == "shutil.copytree"
    assert found.entry == -1


def test_associations_lead_to_the_passage_that_answers() -> None:
    filler = "\n\n".join(f"Statement {i} about nothing in particular that fills the page." for i in range(30))
    long = entry(
        "big.load", "(path)", f"Load a page.\n\n{filler}\n\nRaises OSError {'where ' * 30}it is full.\n\n{filler}"
    )
    rest = [
        entry(f"m.f{i}", "(q)", f"Do the thing of number {i} at once.\n\nRaises ValueError on day {i}.")
        for i in range(60)
    ]
    all_ = [long, *rest]
    index = DocumentationIndex(entry_passages(all_))
    maker = QuestionMaker(all_, range(1, len(all_)), "training")

    def shows(question: str) -> bool:
        return any("OSError" in index.passages[n].text for n in index.find(question).passages)

    assert not shows("What can go wrong with big.load?")
    index.associate((p.question, p.answer) for p in maker.answerable(2000))
    assert shows("What can go wrong with big.load?")
    assert shows("Can big.load throw an error?")


def test_threshold_comes_from_the_questions_given(entries: list[Entry]) -> None:
    index = DocumentationIndex(entry_passages(entries))
    maker = QuestionMaker(entries, range(len(entries)), "training")
    pairs = maker.endless(dict.fromkeys(KINDS, 0.0) | {"which": 1.0})
    wishes = [next(pairs).question for _ in range(100)]
    index.calibrate(wishes, [p.question for p in maker.unanswerable(200, ["unknown name", "off topic"])])
    assert 0 < index.threshold <= 1
    strange = [
        p.question for p in QuestionMaker(entries, range(len(entries)), "held_out").unanswerable(100, ["off topic"])
    ]
    assert np.mean([index.find(q).coverage < index.threshold for q in strange]) > 0.8
    assert np.mean([index.find(q).coverage < index.threshold for q in wishes]) < 0.1


def test_forms_table_is_plain_data() -> None:
    assert ast.literal_eval(repr({k: list(v) for k, v in FORMS["training"].items()})).keys() == set(KINDS)
