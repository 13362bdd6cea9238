"""The learned ranker: its regression against scikit-learn, a small refit against the shipped weights, its questions."""

from __future__ import annotations

import bisect
import heapq
import json
import pydoc
import textwrap

import numpy as np
import pytest
from _documented import library
from sklearn.linear_model import LogisticRegression

from llmanac.apps.docs_assistant.collect import documents
from llmanac.core.errors import CheckpointError, DataError
from llmanac.retrieve.folder import FolderIndex
from llmanac.retrieve.folder.answers import FolderAssistant
from llmanac.retrieve.folder.fit import fit, logistic, main, related_table, softmax_regression
from llmanac.retrieve.folder.questions import questions_of, read_questions, without
from llmanac.retrieve.folder.quotes import spans
from llmanac.retrieve.folder.ranker import PARTS, SETS, SHIPPED, Ranker, RankerWeights, edits, related_words, set_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("library")
    for name, text in documents(library()).items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    return place


def test_the_regression_is_scikit_learns():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 5)) * [1, 10, 0.1, 3, 0] + [0, 5, 1, -2, 7]
    y = (x @ [1, 0.2, 3, -0.5, 0] + rng.normal(size=400) > 2).astype(float)
    found = logistic(x, y, ridge=2.0)
    scale = np.where(x.std(0) > 0, x.std(0), 1)
    peer = LogisticRegression(C=0.5, tol=1e-10, max_iter=1000).fit((x - x.mean(0)) / scale, y)
    np.testing.assert_allclose(found[:-1] * scale, peer.coef_[0], atol=1e-5)
    np.testing.assert_allclose(x @ found[:-1] + found[-1], peer.decision_function((x - x.mean(0)) / scale), atol=1e-5)
    assert found[4] == 0 and abs(found[:4]).min() > 1e-3


def test_the_softmax_regression_of_pairs_is_scikit_learns():
    """Of two rows, one of which answers, it is the logistic regression of their difference without a bias."""
    rng = np.random.default_rng(1)
    pairs = rng.normal(size=(300, 2, 4)) * [1, 5, 0.2, 1]
    right = (np.diff(pairs, axis=1)[:, 0] @ [1, 0.1, -2, 0] + rng.logistic(size=300) > 0).astype(int)
    found = softmax_regression([(x, np.arange(2) == i) for x, i in zip(pairs, right, strict=True)], ridge=2.0)
    scale = pairs.reshape(-1, 4).std(0)
    peer = LogisticRegression(C=0.5, fit_intercept=False, tol=1e-10, max_iter=1000)
    peer.fit(np.diff(pairs, axis=1)[:, 0] / scale, right)
    np.testing.assert_allclose(found[:-1] * scale, peer.coef_[0], atol=1e-5)
    assert found[-1] == 0


def test_more_than_one_row_may_answer():
    """The slope of the loss, by differences, is zero where the regression ends."""
    rng = np.random.default_rng(2)
    groups = [(rng.normal(size=(6, 3)), rng.random(6) < 0.4) for _ in range(80)]
    w = softmax_regression(groups, ridge=1.0)[:-1]
    used = [(x, y) for x, y in groups if y.any() and not y.all()]
    scale = np.concatenate([x for x, _ in used]).std(0)

    def loss(w):
        scores = [(x @ w, y) for x, y in used]
        own = [np.logaddexp.reduce(s) - np.logaddexp.reduce(s[y]) for s, y in scores]
        return sum(own) + ((w * scale) ** 2).sum() / 2

    slope = [(loss(w + step) - loss(w - step)) / 2e-5 for step in 1e-5 * np.eye(3)]
    np.testing.assert_allclose(slope, 0, atol=1e-4)


def test_a_small_refit_ranks_as_the_shipped_weights_do(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["fit", str(folder), "-o", str(tmp_path / "w.json"), "--questions", "150"])
    main()
    assert "bm25 plain" in capsys.readouterr().out
    made, shipped = (json.loads(path.read_text())["weights"]["bm25"] for path in (tmp_path / "w.json", SHIPPED))
    assert fit([folder], questions=150)["weights"]["bm25"] == made  # the same questions, the same weights
    assert made.keys() == shipped.keys() == set(SETS)
    for part, names in PARTS.items():
        assert made["named"][part].keys() == shipped["bare"][part].keys() == {*names, "bias"}
    index = FolderIndex.update(folder)
    right = {}
    for name, weights in (
        ("refit", RankerWeights.read("bm25", tmp_path / "w.json")),
        ("shipped", RankerWeights.read("bm25")),
    ):
        ranker = Ranker(index, weights=weights)
        asked = questions_of(index, 100, seed=7)
        first = [(one, ranker.passages(ranker.asked(one.text))[0][:1]) for one in asked]
        right[name] = sum(bool(best) and one.answers(best[0][0]) for one, best in first)
    assert min(right.values()) > 60 and abs(right["refit"] - right["shipped"]) < 20, right
    assert made["named"]["measured"]["refused without answer"] > 0.8


def test_questions_of_people_are_read(folder, tmp_path):
    index, path = FolderIndex.update(folder), tmp_path / "asked.jsonl"
    passage = next(p for p in index.passages() if p.heading.startswith("shutil.copytree"))
    said = next(" ".join(passage.text[a:b].split()) for a, b in spans(passage.text) if passage.text[a] != "#")
    rows = [
        {"question": "clone a folder", "history": ["hello"], "entries": ["shutil.copytree"], "answers": [said]},
        {"question": "who won?", "entries": [], "answers": []},
        {"question": "of another library", "entries": ["numpy.zeros"], "answers": ["x"]},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    one, none = read_questions(path, index)
    assert one.text == "hello clone a folder" and one.answers(passage) and one.said_by(said)
    assert none.passage is None and not none.answers(passage) and not none.related(passage)
    assert sum(one.answers(p) for p in index.passages()) < 5
    path.write_text('{"question": "what?"}\n')
    with pytest.raises(DataError, match=r"asked\.jsonl:1"):
        read_questions(path, index)


def test_related_words_come_from_vectors(folder, tmp_path):
    index = FolderIndex.update(folder)
    places = {"folder": 0.0, "folders": 3.0, "directory": 0.3, "wipe": 2.0, "delete": 2.4}

    def encode(texts):
        return np.array([[np.cos(places.get(text, 4.2)), np.sin(places.get(text, 4.2))] for text in texts])

    words = ["folder", "folders", "directory", "wipe", "delete", "the", "x1", "Big"]
    np.savez(tmp_path / "r.npz", **related_table([index], encode, words))
    table = related_words(tmp_path / "r.npz")
    assert next(iter(table["folder"])) == "directori" and next(iter(table["wipe"])) == "delet"
    assert abs(table["folder"]["directori"] - np.cos(0.3)) < 0.01 and "wipe" not in table["folder"]
    assert not {"the", "x1", "big"} & table.keys() and "copi" in table, "words of the folder are added"
    assert related_words()["folder"]["directori"] > 0.7, "the shipped table"


def test_words_that_mean_the_same_find_a_passage(tmp_path):
    (tmp_path / "a.md").write_text("# rmtree\n\nRecursively delete a directory tree.\n\n# chown\n\nChange the owner.\n")
    (tmp_path / "b.md").write_text("# sleep\n\nWait a number of seconds.\n\n# beep\n\nMake a sound.\n")
    ranker = Ranker(FolderIndex.update(tmp_path))
    asked = ranker.asked("wipe a folder")
    assert asked.share({"directori"}) == 0 < asked.share({"directori"}, True) < 1
    assert ranker.passages(asked)[0][0][0].heading == "rmtree"
    assert not ranker.passages(asked, {"a.md", "b.md"})[0]


def test_questions_are_of_the_folder_and_answered_by_it(folder, tmp_path):
    index = FolderIndex.update(folder)
    asked = questions_of(index, 60, seed=3)
    assert {one.sort for one in asked} == {"heading", "summary", "removed", "cloze"}
    assert all(any(one.answers(passage) for passage in index.passages()) for one in asked)
    one = next(one for one in asked if one.sort == "removed")
    assert one.gold not in " ".join(without(one.passage, one.gold).text.split())
    only = [one.passage.number for one in questions_of(index, 20, use=[3])]
    assert set(only) == {3} and asked == questions_of(index, 60, seed=3)
    (tmp_path / "a.md").write_text("# A\n\nToo short.\n")
    with pytest.raises(DataError, match="--questions"):
        questions_of(FolderIndex.update(tmp_path), 5)


def test_questions_have_the_weights_of_their_kind(tmp_path):
    (tmp_path / "a.md").write_text("# Wombat\n\nThe wombat lives in Tasmania.\n")
    (tmp_path / "b.txt").write_text("The ferry sails from Tasmania to Melbourne, seven times a week, also at night.\n")
    ranker = Ranker(FolderIndex.update(tmp_path))
    a, b = sorted(ranker.index.passages(), key=lambda passage: passage.document)
    for question, passage, name in (
        ("where does the wombat live?", a, "named"),
        ("what does wombat.live say?", a, "named"),
        ("which animal lives on an island?", a, "plain"),
        ("where does the wombat live?", b, "bare"),
    ):
        assert set_of(ranker.asked(question), [(passage, 0.0)]) == name, question
    assert set_of(ranker.asked("where?"), []) == "plain"


def test_words_are_corrected_by_one_edit(folder):
    ranker = Ranker(FolderIndex.update(folder))
    for spelling in ("copytree", "copy_tree", "copytrees", "cpoytree", "copytrree", "CopyTree"):
        assert "copytre" in ranker.asked(spelling).words, spelling
    assert ranker.asked("shutil.copytree").corrected == 0 < ranker.asked("shutil.copytee").corrected
    assert ranker.asked("zzzzzzzz").unknown == 1 and ranker.asked("zzzzzzzz").share(frozenset()) == 0
    assert {"cat", "act", "at", "scat", "cart"} <= set(edits("cat"))
    assert ranker.asked("copytree", {"copytre"}).unknown > 0, "as if the index did not have it"


def test_a_dotted_name_means_what_the_file_of_its_module_has(tmp_path):
    """Plain text of pydoc says `heappush`, and which module it is of in the file's name alone."""
    for module in (heapq, textwrap, bisect):
        text = pydoc.plain(pydoc.TextDoc().docmodule(module))
        (tmp_path / f"{module.__name__}.txt").write_text(text)
    ranker = Ranker(FolderIndex.update(tmp_path))
    for name in ("heapq.nlargest", "textwrap.dedent", "bisect.insort"):
        words, end = ranker.asked(f"What does {name} do?"), name.rpartition(".")[2]
        assert words.words == ranker.asked(f"What does {end} do?").words and not words.strange
        assert FolderAssistant(ranker.index).answer(f"What does {name} do?").support > 0.5
    for name in ("bisect.nlargest", "heapq.dump", "csv.reader"):
        assert ranker.asked(f"What does {name} do?").strange
        assert FolderAssistant(ranker.index).answer(f"What does {name} do?").refused


def test_weights_that_are_none_are_refused(tmp_path):
    path = tmp_path / "w.json"
    for text in ("{}", '{"weights": {"bm25": {"named": {"passage": {}}}}}', "[1]"):
        path.write_text(text)
        with pytest.raises(CheckpointError, match=r"w\.json"):
            RankerWeights.read("bm25", path)
    data = json.loads(SHIPPED.read_text())
    data["weights"]["bm25"]["bare"]["passage"]["covered"] = float("inf")
    path.write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match="not finite"):
        RankerWeights.read("bm25", path)


def test_a_question_goes_on_from_earlier_ones(tmp_path):
    (tmp_path / "zoo.md").write_text("# Zebra Marty\n\nThe zebra Marty eats hay. Marty was born in 1987.\n")
    (tmp_path / "ship.md").write_text("# Ferry Aurora\n\nThe ferry Aurora carries cars. It was built in 1954.\n")
    assistant = FolderAssistant(FolderIndex.update(tmp_path))
    for history, question, place in (
        (["What does the zebra Marty eat?"], "and when was it born?", "zoo.md"),
        (["What does the ferry Aurora carry?", "thanks"], "when was it built?", "ship.md"),
        (["What does the zebra Marty eat?"], "When was the ferry Aurora built?", "ship.md"),
    ):
        assert assistant.answer(question, history).citations[0].passage.document == place, question


class Reader:
    """Says always the same."""

    def __init__(self, none: float) -> None:
        self.none, self.seen = none, []

    def weigh(self, question, quotes):
        self.seen.append([quote.text for quote in quotes])
        return [*(-5.0 for _ in quotes[:-1]), -0.01, self.none]


def test_a_readers_probabilities_are_multiplied_with_the_rankers(tmp_path):
    (tmp_path / "a.md").write_text("# Boats\n\nThe ferry Aurora is red. The ferry Aurora sails north.\n")
    index = FolderIndex.update(tmp_path)
    question = "Where does the ferry Aurora sail?"
    chosen = FolderAssistant(index, reader=(reader := Reader(-40.0))).answer(question)
    assert chosen.citations[0].quote == reader.seen[0][-1] != FolderAssistant(index).answer(question).citations[0].quote
    assert chosen.margin > 30
    refused = FolderAssistant(index, reader=Reader(40.0)).answer(question)
    assert refused.refused and refused.nearest[0]["name"] == "Boats"
    several = FolderAssistant(index, quotes=2).answer(question)
    assert len(several.citations) == 2 and several.text.count("[1]") == 2
