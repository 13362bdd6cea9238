"""`llmanac classify` from a file to a page, and what a user sees when something is wrong."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
from _labelled import BAD, GOOD, denied, easy

from llmanac.cli import main
from llmanac.lab.classification.experiments import Measured, above, rows_to_pass


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "train.csv"
    texts, labels = easy()
    with open(path, "w", newline="") as handle:
        csv.writer(handle).writerows([("text", "label"), *zip(texts, labels, strict=True)])
    held = tmp_path / "test.jsonl"
    rows = [
        (f"my {thing} was {word}", "pos" if word in GOOD else "neg")
        for thing, word in product(("pen", "cup"), GOOD + BAD)
    ]
    held.write_text("".join(json.dumps({"text": t, "label": y}) + "\n" for t, y in rows))
    return tmp_path


def call(capsys, *words):
    """(exit status, standard output, standard error) of one command."""
    try:
        main(["classify", *map(str, words)])
        status = 0
    except SystemExit as stop:
        status = stop.code or 0
    out = capsys.readouterr()
    return status, out.out, out.err


def test_train_evaluate_predict_explain(data, capsys):
    folder = data / "bow"
    status, out, _ = call(
        capsys, "train", data / "train.csv", "--method", "bow", "--folder", folder, "--test", data / "test.jsonl",
        "-s", "epochs=100",
    )  # fmt: skip
    assert status == 0 and "saved in" in out and "accuracy 100.00%" in out and "llmanac classify explain" in out
    assert {path.name for path in folder.iterdir()} == {"classifier.json", "model.safetensors", "vocabulary.json"}
    status, out, _ = call(capsys, "evaluate", folder, data / "test.jsonl", "--json")
    found = json.loads(out)
    assert found["accuracy"] == 1.0 and found["confusion"] == [[8, 0], [0, 8]] and found["rows"] == 16
    status, out, _ = call(capsys, "predict", folder, data / "test.jsonl")
    rows = [json.loads(line) for line in out.splitlines()]
    assert len(rows) == 16 and rows[0]["label"] == "pos" and sum(rows[0]["probabilities"].values()) == pytest.approx(1)
    for name in ("out.csv", "out.tsv", "out.jsonl"):
        status, out, _ = call(capsys, "predict", folder, data / "test.jsonl", "--output", data / name)
        assert status == 0 and len((data / name).read_text().splitlines()) == (16 if name == "out.jsonl" else 17)
    status, out, _ = call(capsys, "explain", folder, "the film is good")
    assert status == 0 and "good" in out.splitlines()[2] and "no feature" in out
    status, out, _ = call(capsys, "explain", folder, "the film is good", "--json")
    assert json.loads(out)["exact"] is True


def test_rules_need_no_training(data, capsys):
    status, out, _ = call(capsys, "evaluate", "rules", data / "test.jsonl", "--json")
    assert status == 0 and json.loads(out)["accuracy"] == 1.0
    status, out, _ = call(capsys, "explain", "rules", "not a good film")
    assert status == 0 and "label  negative" in out and "not good" in out


def test_fine_tuning_on_a_models_folder(data, capsys):
    from llmanac.recipes.classification import small_language_model

    lm, tokenizer = small_language_model(
        denied()[0], vocab_size=300, dim=32, layers=1, steps=5, length=32, batch_tokens=64
    )
    lm.save_pretrained(data / "lm")
    tokenizer.save(data / "lm")
    status, out, err = call(
        capsys, "train", data / "train.csv", "--method", "fine-tuning", "--model", data / "lm", "--folder", data / "ft",
        "-s", "epochs=4", "-s", "lr=1e-2",
    )  # fmt: skip
    assert status == 0, err
    status, out, _ = call(capsys, "evaluate", data / "ft", data / "train.csv", "--json")
    assert json.loads(out)["accuracy"] > 0.9
    status, out, err = call(capsys, "train", data / "train.csv", "--method", "prompting", "--model", data / "lm",
                            "--folder", data / "prompt")  # fmt: skip
    assert status == 0, err
    assert call(capsys, "evaluate", data / "prompt", data / "train.csv")[0] == 0


@pytest.mark.parametrize("methods", [None, "rules,bow"])
def test_one_command_makes_the_table(data, capsys, methods):
    rows = denied()
    (data / "test.csv").write_text("text,label\n" + "".join(f"{t},{y}\n" for t, y in zip(*rows, strict=True)))
    more = ["--methods", methods] if methods else []
    status, out, err = call(
        capsys, "table", data / "train.csv", "--test", data / "test.csv", "--seeds", 2, "--sizes", "4,20", "--folder",
        data / "page", *more,
    )  # fmt: skip
    assert status == 0, err
    names = {"table.json", "table.html", "table.md", "table.svg", "predictions.jsonl"}
    assert {path.name for path in (data / "page").iterdir()} == names
    made = json.loads((data / "page" / "table.json").read_text())
    assert list(made["methods"]) == (["rules", "bow"] if methods else ["rules", "bow", "cbow", "deep-cbow"])
    assert made["sizes"] == [4, 20, 48] and made["slices"][0]["name"] == "conjugation"
    assert all(len(values) == 2 for values in made["methods"]["bow"]["curve"].values())
    assert made["methods"]["rules"]["accuracy"] > made["methods"]["bow"]["accuracy"]  # half of the texts are denials
    page = (data / "page" / "table.html").read_text()
    assert "<svg" in page and "needs none" in page and not re.search("(src|href)=.http", page)
    assert (data / "page" / "table.svg").read_text().startswith("<svg ")
    assert "page:" in out and "Next:" in out and "texts" in out.partition(" is right on")[0]
    lines = [json.loads(line) for line in (data / "page" / "predictions.jsonl").read_text().splitlines()]
    for name, row in made["methods"].items():  # a paired test can be made from them
        seeds = len(row["accuracies"])
        right = [sum(line[name][i] == line["label"] for line in lines) / len(lines) for i in range(seeds)]
        assert right == pytest.approx(row["accuracies"])


def test_rows_that_pass_the_rules_are_shown_by_the_paired_interval():
    rules, found = Measured(), Measured()
    base = np.arange(900) < 500
    rules.accuracy[0], rules.right[0] = [base.mean()], base.astype(int)
    for size, more in (10, 5), (100, 60):  # texts that only the learned one gets right; it loses two others
        right = np.arange(900) < 500 + more
        right[:2] = False
        found.accuracy[size], found.right[size] = [right.mean()] * 2, 2 * right
    assert above(found, rules, 10).low < 0 < above(found, rules, 10).mean
    assert rows_to_pass(found, rules) == 100
    one = above(found, rules, 100)
    assert one.mean == pytest.approx(58 / 900) and one.low > 0
    del found.right[100]
    assert rows_to_pass(found, rules) is None


def test_slices_of_ones_own_and_other_labels(data, capsys):
    (data / "topic.txt").write_text("".join(f"{y} {t}\n" for t, y in [("a goal", "sport"), ("a share", "money")] * 6))
    (data / "slices.jsonl").write_text(
        '{"slice": "plural", "part": "plain", "text": "a goal", "label": "sport"}\n'
        '{"slice": "plural", "part": "changed", "text": "goals", "label": "sport"}\n'
    )
    words = [
        "table",
        data / "topic.txt",
        "--test",
        data / "topic.txt",
        "--seeds",
        1,
        "--sizes",
        4,
        "--folder",
        data / "p",
    ]
    status, _, err = call(capsys, *words, "--methods", "bow", "--slices", data / "slices.jsonl")
    assert status == 0, err
    assert json.loads((data / "p" / "table.json").read_text())["methods"]["bow"]["slices"]["plural"]["plain"] == [1.0]
    status, _, err = call(capsys, *words, "--methods", "rules")
    assert status == 2 and "labels: " in err
    (data / "rules.toml").write_text('labels = ["money", "sport"]\n[weights]\ngoal = 1\nshare = -1\n')
    status, _, err = call(capsys, *words, "--methods", "rules,bow", "--rules", data / "rules.toml")
    assert status == 0, err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "none.csv"], "none.csv: no such file"),
        (["train", "train.csv", "--method", "bowl"], "no classifier named 'bowl'; did you mean 'bow'"),
        (["train", "train.csv", "-s", "ngram=2"], "bow.ngram: no such field; did you mean 'ngrams'"),
        (["train", "train.csv", "--label", "labels"], "no column 'labels'; did you mean 'label'"),
        (["train", "train.csv", "--method", "fine-tuning"], "needs a language model; give --model"),
        (["train", "train.csv", "--model", "lm"], "--model: bow "),
        (["train", "one.csv"], "at least two labels"),
        (["train", "train.csv", "--folder", "full"], "holds something else than a classifier"),
        (["evaluate", "nothing", "train.csv"], "nothing: no such folder"),
        (
            ["evaluate", "rules", "odd.csv"],
            "odd.csv:4: labels: 'odd' is not a label",
        ),
        (["predict", "rules", "none.csv"], "none.csv: no such file"),
        (["predict", "rules", "train.csv", "--output", "a.xlsx"], "must end in .jsonl, .csv, .tsv or .parquet"),
        (["explain", "nothing", "a"], "no such folder"),
        (["table", "train.csv", "--test", "odd.csv"], "label 'odd' is not in the training set"),
        (["table", "train.csv", "--test", "train.csv", "--sizes", "x"], "--sizes: 'x' is not a list"),
        (["table", "train.csv", "--test", "train.csv", "--methods", "prompting"], "--model: prompting needs"),
        (["table", "train.csv", "--test", "train.csv", "--methods", "bow,bow"], "bow is there twice"),
    ],
)
def test_an_error_is_one_sentence(data, capsys, monkeypatch, words, message):
    monkeypatch.chdir(data)
    (data / "one.csv").write_text("text,label\na,pos\nb,pos\n")
    (data / "odd.csv").write_text("text,label\ngood,pos\nbad,neg\nwhat,odd\n")
    (data / "full").mkdir()
    (data / "full" / "letter.txt").write_text("dear")
    before = sorted(path.name for path in data.rglob("*"))
    status, _, err = call(capsys, *words)
    assert status == 2 and message in err and len(err.strip().splitlines()) == 1, err
    assert sorted(path.name for path in data.rglob("*")) == before  # nothing half done is left


def test_help_and_listing_start_without_torch():
    code = (
        "import sys, llmanac.cli as cli\n"
        "try: cli.main(['classify', '--help'])\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(word in done.stdout for word in ("train", "predict", "evaluate", "explain", "table"))
