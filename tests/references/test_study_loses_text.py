"""An arm whose ids do not give the text back has numbers and no verdict, and the others are judged without it."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from llmanac.cli.compare import print_study
from llmanac.lab import words
from llmanac.lab.compare import StudyResult, compare, load_study
from llmanac.lab.stats import compare_arms
from llmanac.lab.trials.tokenizers import STRETCH, common_subsequence, lost_bytes
from llmanac.tokenizers.load import train_tokenizer


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("texts")
    draw = random.Random(3)
    known = ["the", "sea", "is", "wide", "and", "green", "a", "ship", "sails", "far"]
    for i in range(60):
        lines = [" ".join(draw.choices(known, k=9)) + f" w{draw.randrange(10**6)}." for _ in range(12)]
        (folder / f"{i:02}.txt").write_text("\n".join(lines))
    return {"name": "files", "paths": [str(folder)]}


def study(arms: str, source: Any, folder: Path, **options: Any) -> StudyResult:
    patches = {"data.source": source, "data.held_out": 0.3}
    return compare("tokenizer", arms, patches=patches, folder=folder, report=lambda said: None, **options)


def test_an_arm_that_loses_text_has_no_verdict(source: Any, tmp_path: Path, capsys: Any) -> None:
    arms = "bpe{vocab_size=300},utf8,word{vocab_size=20},unigram{vocab_size=300}"
    done = study(arms, source, tmp_path)
    assert done.verdicts["word{vocab_size=20}"] == "loses text" and done.verdicts["utf8"] == "worse"
    assert done.verdicts["unigram{vocab_size=300}"] in ("better", "worse", "equivalent", "inconclusive")
    lossy = done.comparison("word{vocab_size=20}")
    assert lossy["difference"] > 0 and lossy["p"] < 0.05  # the numbers are there, and would have been called better
    costs = done.data["costs"]
    assert 0.05 < costs["word{vocab_size=20}"]["lost"] < 0.6 and costs["word{vocab_size=20}"]["lossless"] == 0
    assert costs["utf8"]["lost"] == 0 and costs["utf8"]["lossless"] == 1
    share = f"{costs['word{vocab_size=20}']['lost']:.1%} of the bytes"
    print_study(done)
    for said in (done.page.read_text(), done.markdown(), " ".join(words.sentences(done.data))):
        assert f"loses text ({share}" in said
    assert "loses text" in capsys.readouterr().out
    without = study(arms.replace(",word{vocab_size=20}", ""), source, tmp_path / "x", cache=tmp_path.parent / "cache")
    for arm in ("utf8", "unigram{vocab_size=300}"):
        assert without.comparison(arm) == done.comparison(arm)


def test_nothing_is_better_than_a_baseline_that_loses_text(source: Any, tmp_path: Path) -> None:
    done = study("word{vocab_size=20},utf8,bpe{vocab_size=300}", source, tmp_path)
    assert set(done.verdicts.values()) == {"loses text"}
    assert done.comparison("utf8")["refused"].startswith("the baseline: ")


def test_a_normaliser_that_changes_the_text_has_no_verdict(source: Any, tmp_path: Path) -> None:
    done = study("utf8,unigram{vocab_size=300,normalizer=nmt_nfkc}", source, tmp_path)
    assert list(done.verdicts.values()) == ["loses text"]
    costs = done.data["costs"]["unigram{vocab_size=300,normalizer=nmt_nfkc}"]
    assert 0 < costs["lost"] < 0.03  # line ends become spaces


def test_tests_are_adjusted_over_the_arms_that_are_judged() -> None:
    draw = random.Random(1)
    values = {arm: [draw.gauss(i / 3, 1) for _ in range(9)] for i, arm in enumerate("abcd")}
    kept = {arm: v for arm, v in values.items() if arm != "d"}
    plain = {c.arm: c for c in compare_arms(kept, "a", better="higher")}
    found = {c.arm: c for c in compare_arms(values, "a", better="higher", refused={"d": "half"})}
    assert {arm: found[arm] for arm in plain} == plain and found["d"].verdict == "loses text"
    assert all(c.refused for c in compare_arms(values, "a", better="higher", refused={"a": "half"}))


def test_the_common_subsequence_is_that_of_the_table() -> None:
    draw = random.Random(5)
    for _ in range(200):
        a, b = (bytes(draw.choices(b"abcd", k=draw.randrange(24))) for _ in range(2))
        rows = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
        for i, x in enumerate(a):
            for j, y in enumerate(b):
                rows[i + 1][j + 1] = rows[i][j] + 1 if x == y else max(rows[i][j + 1], rows[i + 1][j])
        assert common_subsequence(a, b) == rows[-1][-1]


def test_lost_bytes_of_words() -> None:
    def learn(texts: Iterable[str]) -> Any:
        return train_tokenizer("word", texts, vocab_size=6)

    words_only = learn(["one two one two one two"])
    assert lost_bytes(words_only, "one two") == 0
    assert lost_bytes(words_only, "one  two") == 1 and lost_bytes(words_only, "one\ntwo") == 1
    assert lost_bytes(words_only, "one UNKNOWN two") >= len(
        "UNKNOWN"
    )  # what stands for a lost word brings nothing back
    text = "one zwölf two " * (STRETCH // 7)
    assert lost_bytes(words_only, text) / len(text.encode()) == pytest.approx(7 / 15, abs=0.01)


def test_the_study_that_is_shipped_has_sentencepiece_beside_the_others() -> None:
    named = {arm.partition("{")[0] for arm in load_study("tokenizers")["arms"]}
    assert named == {"utf8", "word", "bpe", "unigram", "sentencepiece-bpe"}
