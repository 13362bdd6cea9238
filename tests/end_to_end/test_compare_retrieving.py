"""`llmanac compare retriever --artefact FOLDER --on QUESTIONS`: rankings of documents, question by question."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from llmanac.core.errors import DataError, SpecError
from llmanac.lab import stats
from llmanac.lab.compare import compare
from llmanac.lab.trials.retrieving import ndcg, recall, reciprocal_rank
from llmanac.retrieve.folder import FolderIndex

pytestmark = pytest.mark.usefixtures("one_thread")
TOPICS = ("heron", "kettle", "glacier", "violin", "harbour", "orchard", "compass", "lantern")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen documents, two on each topic, and a question on each topic and on two at once."""
    folder = tmp_path_factory.mktemp("retrieving")
    documents = folder / "documents"
    documents.mkdir()
    for number, topic in enumerate(TOPICS):
        other = TOPICS[(number + 1) % len(TOPICS)]
        (documents / f"{topic}.md").write_text(
            f"# About the {topic}\n\nThe {topic} is described here: {topic} again.\n"
        )
        (documents / f"{topic}-notes.md").write_text(f"Notes: a {topic} next to the {other}, and other things.\n")
    rows: list[dict[str, Any]] = [
        {"question": f"What is a {topic}?", "relevant": {f"{topic}.md": 2, f"{topic}-notes.md": 1}} for topic in TOPICS
    ]
    rows += [{"question": f"{a} or {b}", "relevant": [f"{a}.md", f"{b}.md"]} for a, b in itertools.pairwise(TOPICS)]
    rows.append({"question": "zebra quagga", "relevant": "heron.md"})
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    return folder


def _grades(row: dict[str, Any]) -> dict[str, float]:
    given = row["relevant"]
    return given if isinstance(given, dict) else dict.fromkeys([given] if isinstance(given, str) else given, 1)


def ask(place: Path, arms: str, folder: Path, **options: Any) -> Any:
    given = {"artefact": place / "documents", "on": place / "questions.jsonl", "report": lambda line: None, **options}
    return compare("retriever", arms, folder=folder, patches={"index": str(folder / "index")}, **given)


def test_rankings_are_compared_question_by_question(place: Path, tmp_path: Path) -> None:
    found = ask(place, "bm25,bm25{k1=0.1},bm25-plus", tmp_path)
    assert found.data["replicate"] == "question" and [m["name"] for m in found.data["metrics"]] == [
        "recall_5", "mrr", "ndcg",
    ]  # fmt: skip
    rows = list(map(json.loads, (place / "questions.jsonl").read_text().splitlines()))
    index = FolderIndex.open(tmp_path / "index")
    for name, values in (("recall_5", found.values()), ("mrr", found.values("mrr")), ("ndcg", found.values("ndcg"))):
        assert all(len(one) == len(rows) for one in values.values())
        for row, value in zip(rows, values["bm25"], strict=True):
            hits = index.retrieve(row["question"], 40, "bm25")  # as `llmanac retrieve` finds them
            names = list(dict.fromkeys(hit.passage.document for hit in hits))[:10]
            grades = _grades(row)
            wanted = {"recall_5": recall, "mrr": reciprocal_rank, "ndcg": ndcg}[name](names, grades)
            assert value == pytest.approx(wanted)
    assert found.values("mrr")["bm25"][0] == 1.0 and found.values()["bm25"][-1] == 0.0
    assert all(cost["query_seconds"] > 0 for cost in found.data["costs"].values())
    page = found.page.read_text()
    assert "bootstrap intervals over" in page and "recall@5" in page.lower() and "nDCG@10" in page
    assert "--on" in found.data["command"]
    again = ask(place, "bm25,bm25{k1=0.1},bm25-plus", tmp_path)
    assert all(run["cached"] for run in again.data["runs"])


def test_other_questions_are_another_plan(place: Path, tmp_path: Path) -> None:
    rows = (place / "questions.jsonl").read_text().splitlines()
    for count in (3, 8):
        asked = tmp_path / f"{count}.jsonl"
        asked.write_text("\n".join(rows[:count]))
        found = ask(place, "bm25,bm25{k1=0.1}", tmp_path, on=asked)
        assert found.data["data"]["items"] == count


def test_vectors_and_both_joined(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an encoder that counts topics, dense retrieval finds what BM25 finds, and a worse one is worse."""
    from llmanac.retrieve import dense

    def encoder(self: dense.Spec) -> Any:
        def encode(texts: Any) -> np.ndarray:
            counts = np.array([[text.count(topic) for topic in TOPICS] + [0.1] for text in texts], np.float32)
            if self.model == "poor":
                counts[:, : len(TOPICS) // 2] = 0
            return counts / np.linalg.norm(counts, axis=1, keepdims=True)

        return encode

    monkeypatch.setattr(dense.Spec, "encoder", encoder)
    monkeypatch.setattr(dense.Spec, "prefixes", lambda self: ("", ""))
    given = {"artefact": place / "documents", "on": place / "questions.jsonl", "report": lambda line: None}
    found = compare("retriever", "dense{model=good},dense{model=poor},bm25", folder=tmp_path / "a",
                    patches={"index": str(tmp_path / "i")}, **given)  # fmt: skip
    means = {arm: np.mean(values) for arm, values in found.values("ndcg").items()}
    assert means["dense{model=good}"] > means["dense{model=poor}"] + 0.1
    assert found.comparison("dense{model=poor}", "ndcg")["verdict"] == "worse"
    patches = {"index": str(tmp_path / "j"), "encoder": "good"}
    kept = compare("retriever", "bm25,dense,hybrid", folder=tmp_path / "b", patches=patches, **given)
    assert kept.values("ndcg")["dense"] == pytest.approx(found.values("ndcg")["dense{model=good}"])
    index = FolderIndex.open(tmp_path / "j")
    rows = list(map(json.loads, (place / "questions.jsonl").read_text().splitlines()))
    for row, value in zip(rows, kept.values("mrr")["hybrid"], strict=True):
        hits = index.retrieve(row["question"], 40, "hybrid")
        names = list(dict.fromkeys(hit.passage.document for hit in hits))[:10]
        assert value == reciprocal_rank(names, _grades(row))


def test_an_encoder_that_was_trained_anew_is_measured_anew(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmanac.retrieve import dense

    weights = tmp_path / "encoder" / "model.safetensors"

    def encoder(self: dense.Spec) -> Any:
        known = int(weights.read_text())

        def encode(texts: Any) -> np.ndarray:
            counts = np.array([[t.count(topic) for topic in TOPICS[:known]] + [0.1] for t in texts], np.float32)
            return counts / np.linalg.norm(counts, axis=1, keepdims=True)

        return encode

    monkeypatch.setattr(dense.Spec, "encoder", encoder)
    monkeypatch.setattr(dense.Spec, "prefixes", lambda self: ("", ""))
    weights.parent.mkdir()
    found = []
    for known in (8, 2, 8):
        weights.write_text(str(known))
        given = {"artefact": place / "documents", "on": place / "questions.jsonl", "report": lambda line: None}
        arms, patches = f"dense{{model={weights.parent}}},bm25", {"index": str(tmp_path / "i")}
        found.append(compare("retriever", arms, folder=tmp_path / "a", patches=patches, **given))
    means = [np.mean(next(iter(one.values("ndcg").values()))) for one in found]
    assert means[0] == means[2] > means[1] + 0.1


@pytest.mark.parametrize(
    ("row", "arms", "said"),
    [
        ({"relevant": ["herons.md"]}, "bm25,bm25-l", "q.jsonl:1: the folder has no document 'herons.md'; did you mean"),
        ({}, "bm25,bm25-l", "q.jsonl:1: needs `question`, a text, and `relevant`"),
        ({"question": 3, "relevant": "heron.md"}, "bm25,bm25-l", "q.jsonl:1: needs `question`"),
        ({"relevant": {"heron.md": 0}}, "bm25,bm25-l", "q.jsonl:1: the grade of 'heron.md' is 0"),
        ({"relevant": "heron.md"}, "bm25,dense", "arm 'dense': the index has no vectors; name an encoder"),
        ({"relevant": "heron.md"}, "bm25,hybrid", "arm 'hybrid': the index has no vectors"),
        ({"relevant": "heron.md"}, "bm25,bm52", "no retriever named 'bm52'; did you mean 'bm25"),
    ],
)
def test_what_cannot_be_asked_is_refused(place: Path, tmp_path: Path, row: Any, arms: str, said: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps({"question": "x"} | row) + "\n")
    with pytest.raises((DataError, SpecError)) as caught:
        ask(place, arms, tmp_path / "s", on=path)
    assert said in str(caught.value)


def test_folder_and_questions_are_asked_for(place: Path, tmp_path: Path) -> None:
    for missing, said in (("artefact", "--artefact: retrievers are compared"), ("on", "--on: retrievers are compared")):
        with pytest.raises(SpecError, match=said):
            ask(place, "bm25,bm25-l", tmp_path, **{missing: None})
    with pytest.raises(
        SpecError, match=r"--on: is not used when .* \(tokenizer, retriever, classifier, start take it\)"
    ):
        compare("position", "rope,none", on="q.jsonl", folder=tmp_path)


def test_measures_equal_their_formulas_and_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    names = [f"d{n}" for n in range(30)]
    for _ in range(50):
        ranked = list(rng.permutation(names))
        grades = {str(name): float(rng.integers(1, 4)) for name in rng.choice(names, rng.integers(1, 6), replace=False)}
        truth = [[grades.get(name, 0.0) for name in ranked]]
        assert ndcg(ranked, grades) == pytest.approx(ndcg_score(truth, [list(range(30, 0, -1))], k=10))
        first = next((i for i, name in enumerate(ranked, 1) if name in grades), math.inf)
        assert reciprocal_rank(ranked, grades) == pytest.approx(1 / first)
        assert recall(ranked, grades) == sum(name in grades for name in ranked[:5]) / len(grades)


def test_bootstrap_and_signs_equal_scipy() -> None:
    import scipy.stats

    rng = np.random.default_rng(1)
    for n in (5, 8, 30):
        d = rng.choice([-1.0, -0.5, 0.0, 0.0, 0.5, 1.0], n)
        low, high = stats.BOOTSTRAP.interval(d.tolist())
        theirs = scipy.stats.bootstrap((d,), np.mean, n_resamples=10_000, method="percentile", random_state=2)
        assert (low, high) == pytest.approx((theirs.confidence_interval.low, theirs.confidence_interval.high), abs=0.04)
        exact = scipy.stats.permutation_test(
            (d,), np.mean, permutation_type="samples", n_resamples=20_000, random_state=3
        )
        assert stats.BOOTSTRAP.different(d.tolist()) == pytest.approx(exact.pvalue, abs=0.02 if n > 10 else 1e-9)
    assert stats.BOOTSTRAP.equivalent([0.01, -0.01] * 8, [0.1] * 16) < 0.001
    assert stats.BOOTSTRAP.equivalent([0.1] * 8, [0.1] * 8) > 0.5
