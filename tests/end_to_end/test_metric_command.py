"""`llmanac metric`: files in, a table or JSON out; what does not fit is named with its line."""

from __future__ import annotations

import json

import pytest
from sacrebleu.metrics import BLEU

from llmanac.cli import main

MINE = ["the cat sat on the mat", "hello world", "it is 42"]
THEIRS = ["the cat is on the mat", "hello there world", "it is 42"]


@pytest.fixture
def files(tmp_path):
    def write(name, rows):
        path = tmp_path / name
        as_rows = (json.dumps(row) for row in rows) if name.endswith(".jsonl") else rows
        path.write_text("".join(f"{row}\n" for row in as_rows), "utf-8")
        return str(path)

    return write


def run(capsys, *arguments, fails=False):
    with pytest.raises(SystemExit) as ended:
        main(["metric", *arguments])
    out, err = capsys.readouterr()
    assert bool(ended.value.code) is fails, err
    return err if fails else out


def test_scores_of_files(files, capsys):
    mine, theirs = files("mine.txt", MINE), files("theirs.txt", THEIRS)
    found = json.loads(run(capsys, "bleu", mine, theirs, "--json"))["scores"][0]
    assert found["value"] == pytest.approx(BLEU().corpus_score(MINE, [THEIRS]).score)
    assert found["signature"].startswith("nrefs:1|case:mixed") and found["low"] <= found["value"] <= found["high"]
    shown = run(capsys, "rouge", mine, theirs, "-s", "stemmer=porter", "--baseline", theirs)
    assert all(
        name in shown for name in ("rougeLsum", "stemmer:porter", "3 segments", "p is too small", "Next: llmanac")
    )
    assert "No p: with fewer than 20" in shown and "none" in shown
    entry = json.loads(run(capsys, "bleu", mine, theirs, "--baseline", theirs, "--json"))["scores"][0]
    assert entry["p"] is None and "p is too small" in entry["no_p"]
    assert "chrF2++" in run(capsys, "chrf", mine, theirs, "-s", "word_order=2")
    several = run(capsys, "bleu", mine, theirs, mine, "--json")
    assert json.loads(several)["scores"][0]["value"] == pytest.approx(100)


def test_rows_of_tables(files, capsys):
    rows = [{"text": "so #### 4", "reference": ["4", "5"]}, {"text": "none", "reference": "3"}]
    path = files("rows.jsonl", rows)
    found = json.loads(run(capsys, "exact-match", path, path, "--convention", "gsm8k", "--json"))
    assert found["scores"][0]["value"] == 0.5 and found["answers_not_found"] == 1
    assert "F1" in run(capsys, "exact-match", path, path)
    samples = files(
        "s.jsonl", [{"task_id": t, "passed": p} for t, p in (("a", True), ("a", False), ("b", 0), ("b", 0))]
    )
    found = json.loads(run(capsys, "pass-at-k", samples, "-k", "1", "-k", "2", "--json"))
    assert [row["value"] for row in found["scores"]] == [0.25, 0.5] and found["problems"] == 2


def test_what_does_not_fit_is_named(files, capsys):
    mine, theirs, short = files("mine.txt", MINE), files("theirs.txt", THEIRS), files("short.txt", ["x"])
    for arguments, message in (
        (("bleu", mine, short), "short.txt has 1 rows and"),
        (("bleu", mine, theirs, "--baseline", short), "both need the same segments"),
        (("rouge", mine, files("blank.txt", ["a", " ", "b"])), "blank.txt:2: the reference is empty"),
        (("rouge", mine, files("null.jsonl", [{"reference": None}] * 3)), "null.jsonl:1: holds NoneType"),
        (("chrf", mine, files("other.jsonl", [{"ref": "x"}] * 3)), "name it with --reference-column"),
        (("bleu", files("empty.txt", []), theirs), "holds no text to score"),
        (("bleu", mine, theirs, "-s", "tokenizer=ja"), "tokenizer"),
        (("bleu", mine, theirs, "--baseline", mine, "--test", "t"), "test"),
        (("exact-match", mine, theirs, "--convention", "sqad"), "did you mean 'squad'"),
        (("pass-at-k", files("w.jsonl", [{"task_id": 1, "passed": "yes"}])), "w.jsonl:1: column 'passed' holds 'yes'"),
        (
            ("pass-at-k", files("n.jsonl", [{"task_id": None, "passed": True}])),
            "n.jsonl:1: column 'task_id' holds None",
        ),
        (("pass-at-k", files("i.jsonl", [{"task_id": [1], "passed": True}])), "i.jsonl:1: column 'task_id' holds [1]"),
        (
            ("pass-at-k", files("b.jsonl", [{"task_id": t, "passed": True} for t in (1, 2, "1")])),
            "b.jsonl:3: column 'task_id' holds '1', which is a text in one row",
        ),
        (("pass-at-k", files("k.jsonl", [{"task_id": 1, "passed": True}]), "-k", "9"), "needs 9 samples"),
    ):
        assert message in run(capsys, *arguments, fails=True), arguments
