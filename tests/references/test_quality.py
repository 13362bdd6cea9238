"""The quality classifier: it learns what it is shown, gives the same bytes twice, and says how good it is."""

from __future__ import annotations

import itertools
import json
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from typer.testing import CliRunner

from llmanac.cli.quality import quality_app, report
from llmanac.core.errors import DataError, SpecError
from llmanac.core.registry import build
from llmanac.data.documents import Document
from llmanac.data.quality_model import Features, load_quality, train_quality
from llmanac.data.quality_train import at_threshold, auc, precision_recall
from llmanac.data.stages import Dropped

SMALL = Features(bits=12, longest=3)


def heaps(count: int, seed: int) -> tuple[list[str], list[str]]:
    """Sentences with an order, and the same words without one."""
    rng = random.Random(seed)
    names, verbs, things = (
        ["Ann", "Ben", "Cleo", "Dan", "Eve"],
        ["sees", "holds", "finds", "takes"],
        ["stone", "lamp", "book", "key"],
    )
    good = [
        " ".join(f"{rng.choice(names)} {rng.choice(verbs)} the {rng.choice(things)}." for _ in range(12))
        for _ in range(count)
    ]
    bad = [" ".join(rng.sample(text.split(), len(text.split()))) for text in good]
    return good, bad


def test_it_learns_and_chance_does_not() -> None:
    good, bad = heaps(120, 0)
    model = train_quality(good[:80], bad[:80], SMALL)
    labels = [1] * 40 + [0] * 40
    scores = [model.score(text) for text in (*good[80:], *bad[80:])]
    assert auc(labels, scores) > 0.97
    mixed = train_quality(good[:40] + bad[:40], good[40:80] + bad[40:80], SMALL)
    assert auc(labels, [mixed.score(text) for text in (*good[80:], *bad[80:])]) < 0.75


def test_the_same_texts_give_the_same_bytes(tmp_path) -> None:
    good, bad = heaps(30, 1)
    for name in ("a", "b"):
        train_quality(good, bad, SMALL, seed=3).save(tmp_path / name)
    for file in ("model.safetensors", "quality.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    model = load_quality(tmp_path / "a")
    assert model.score(good[0]) == pytest.approx(train_quality(good, bad, SMALL, seed=3).score(good[0]), abs=1e-6)


def test_features_equal_the_plain_form() -> None:
    """Words, pairs and character n-grams counted with a dictionary: as many buckets, the same values."""
    text = "to be or not to be, 2 be"
    words = ["to", "be", "or", "not", "to", "be", ",", "2", "be"]
    grams = [("w", w) for w in words] + [("p", a, b) for a, b in itertools.pairwise(words)]
    grams += [("c", w[i : i + n]) for w in words for n in (1, 2) for i in range(len(w) - n + 1)]
    counts = np.array([grams.count(gram) for gram in dict.fromkeys(grams)])
    expected = 1 + np.log(counts)
    buckets, values = Features(bits=26, shortest=1, longest=2).of(text)
    assert len(buckets) == len(set(buckets.tolist())) == len(counts)
    np.testing.assert_allclose(np.sort(values), np.sort(expected / np.linalg.norm(expected)), rtol=1e-6)
    assert np.linalg.norm(values) == pytest.approx(1, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 6)), min_size=2, max_size=40))
def test_curve_and_area_equal_their_definitions(pairs) -> None:
    labels, scores = [a for a, _ in pairs], [b / 6 for _, b in pairs]
    if 0 < sum(labels) < len(labels):
        wins = [
            1.0 if p > n else 0.5 if p == n else 0.0
            for p, a in zip(scores, labels, strict=True) if a
            for n, b in zip(scores, labels, strict=True) if not b
        ]  # fmt: skip
        assert auc(labels, scores) == pytest.approx(sum(wins) / len(wins))
    if sum(labels):
        for point in precision_recall(labels, scores):
            kept = [label for label, score in zip(labels, scores, strict=True) if score >= point.threshold]
            assert point.precision == pytest.approx(sum(kept) / len(kept))
            assert point.recall == pytest.approx(sum(kept) / sum(labels))


def test_area_equals_scipys_u() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, 300), np.round(rng.normal(size=300), 1)
    u = stats.mannwhitneyu(scores[labels == 1], scores[labels == 0]).statistic
    assert auc(labels, scores) == pytest.approx(u / (labels.sum() * (1 - labels).sum()))


def run(*arguments: object) -> str:
    """What `llmanac quality` prints."""
    found = CliRunner().invoke(quality_app, [str(a) for a in arguments], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.stdout


def test_commands_and_stage(tmp_path) -> None:
    good, bad = heaps(60, 2)
    for name, texts in (("good", good), ("bad", bad)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), "utf-8")
    folder = tmp_path / "model"
    out = run("train", "--positive", tmp_path / "good.jsonl", "--negative", tmp_path / "bad.jsonl", "--folder", folder,
              "--bits", 12)  # fmt: skip
    assert "AUC" in out and "min_score" in out and "Next: llmanac quality score" in out
    assert (folder / "curve.svg").read_text("utf-8").startswith("<svg ")
    assert json.loads((folder / "curve.json").read_text("utf-8"))["auc"] > 0.9
    rows = [json.loads(line) for line in run("score", folder, tmp_path / "good.jsonl", "--json").splitlines()]
    assert len(rows) == 60 and all(0 <= row["score"] <= 1 for row in rows)
    stage = build("stage", "quality", model=str(folder))
    found = list(stage.apply([Document(str(i), t, "g") for i, t in enumerate([good[0], bad[0], ""])]))
    assert isinstance(found[0], Document) and found[0].meta["quality"] == pytest.approx(rows[0]["score"], abs=1e-3)
    assert isinstance(found[1], Dropped) and found[1].reason == "low_quality"


def test_broken_models_are_named(tmp_path) -> None:
    good, bad = heaps(5, 3)
    with pytest.raises(DataError, match="no negative texts"):
        train_quality(good, [], SMALL)
    folder = train_quality(good, bad, SMALL).save(tmp_path / "m")
    with pytest.raises(DataError, match="nowhere"):
        load_quality(tmp_path / "nowhere")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for broken in (b"", whole[:50], whole[:-8], b"\xff" * 100):
        weights.write_bytes(broken)
        with pytest.raises(DataError, match=r"model\.safetensors"):
            load_quality(folder)
    save_file({"weights": np.full(1 << 12, math.nan, np.float32), "bias": np.zeros(1, np.float32)}, str(weights))
    with pytest.raises(DataError, match="not finite"):
        load_quality(folder)
    (folder / "quality.json").write_text('{"features": {"bits": 99}}')
    with pytest.raises(DataError, match=r"quality\.json"):
        load_quality(folder)
    with pytest.raises(SpecError, match="llmanac quality train"):
        build("stage", "quality")


def test_the_precision_of_nothing_is_undefined(capsys) -> None:
    points = precision_recall([1, 0], [0.6, 0.2])
    report(points, points[0], 1.0, 2)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[3:]]
    assert rows[0] == ["0.10", "0.500", "1.000", "100%"] and rows[3] == ["0.70", "undefined", "0.000", "0%"]
    assert at_threshold(points, 0.9).f1 == 0.0
