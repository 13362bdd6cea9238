"""`llmanac classify` from a file to a page, and what a user sees when something is wrong."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from itertools import product

import pytest
from _labelled import BAD, GOOD, denied, easy

from llmanac.cli import main


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
    kept = {"classifier.json", "model.safetensors", "vocabulary.json", "README.md"}
    assert {path.name for path in folder.iterdir()} == kept
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
def test_one_command_makes_the_table(data, capsys, monkeypatch, methods):
    monkeypatch.chdir(data)
    rows = denied()
    (data / "test.csv").write_text("text,label\n" + "".join(f"{t},{y}\n" for t, y in zip(*rows, strict=True)))
    more = ["--methods", methods] if methods else []
    words = ["table", "train.csv", "--test", "test.csv", "--seeds", 2, "--sizes", "4,20", *more]
    status, out, err = call(capsys, *words)
    assert status == 0, err
    folder = data / "studies" / "classify"
    assert {path.name for path in folder.iterdir()} == {".lock", "plan.json", "study.html", "study.json", "study.md"}
    made = json.loads((folder / "study.json").read_text())
    assert list(made["costs"]) == (["rules", "bow"] if methods else ["rules", "bow", "cbow", "deep-cbow"])
    assert [metric["name"] for metric in made["metrics"]] == ["accuracy_48", "accuracy_20", "accuracy_4"]
    assert [point["tokens"] for point in made["curves"]["bow"]["1"]] == [4, 20, 48] and len(
        {p["value"] for p in made["curves"]["rules"]["0"]}
    ) == 1
    right = made["values"]["accuracy_48"]  # a text is right, or is under some of the seeds: for a paired test
    assert made["replicate"] == "text" and len(right["bow"]) == len(rows[0]) and {*right["bow"]} <= {0.0, 0.5, 1.0}
    means = {arm: sum(own) / len(own) for arm, own in right.items()}
    assert means["rules"] > means["bow"] and made["comparisons"]["accuracy_48"][0]["verdict"] == "worse"
    assert {"negation plain", "negation changed"} <= set(made["costs"]["bow"])
    assert [run["cached"] for run in made["runs"] if run["arm"] == "rules"] == [False, True]  # no seed changes rules
    if not methods:  # two methods that learn, from the same samples
        assert [found["rows"] for found in made["pairing"]["seeds"].values()] == [3, 3]
        assert all(found["rows_equal"] for found in made["pairing"]["seeds"].values())
    page = (folder / "study.html").read_text()
    assert (
        "<svg" in page and "training rows" in page and "One example" in page and not re.search("(src|href)=.http", page)
    )
    assert "page:" in out and "Next: llmanac classify train train.csv --method rules" in out
    assert all(run["cached"] for run in again(words, capsys, folder)["runs"])  # nothing is trained twice


def again(words, capsys, folder):
    assert call(capsys, *words)[0] == 0
    return json.loads((folder / "study.json").read_text())


def test_slices_of_ones_own_and_other_labels(data, capsys, monkeypatch):
    monkeypatch.chdir(data)
    (data / "topic.txt").write_text("".join(f"{y} {t}\n" for t, y in [("a goal", "sport"), ("a share", "money")] * 6))
    (data / "slices.jsonl").write_text(
        '{"slice": "plural", "part": "plain", "text": "a goal", "label": "sport"}\n'
        '{"slice": "plural", "part": "changed", "text": "goals", "label": "sport"}\n'
    )
    words = ["table", "topic.txt", "--test", "topic.txt", "--seeds", 1, "--sizes", 4, "--folder", data / "p"]
    status, _, err = call(capsys, *words, "--methods", "bow,cbow", "--slices", "slices.jsonl")
    assert status == 0, err
    assert json.loads((data / "p" / "study.json").read_text())["costs"]["bow"]["plural plain"] == 1.0
    status, _, err = call(capsys, *words, "--methods", "rules,bow")
    assert status == 2 and "labels: " in err
    (data / "rules.toml").write_text('labels = ["money", "sport"]\n[weights]\ngoal = 1\nshare = -1\n')
    status, _, err = call(capsys, *words, "--methods", "rules,bow", "--rules", "rules.toml")
    assert status == 0, err


@pytest.mark.slow
def test_every_method_is_an_arm(data, capsys, monkeypatch):
    """Every classifier of `llmanac list`, by `compare`; those on a language model with one of the training texts."""
    from llmanac.core import registry
    from llmanac.lab.compare import compare

    monkeypatch.chdir(data)
    monkeypatch.setattr("llmanac.models.classifiers.fine_tuning.LEAST_STEPS", 2)
    monkeypatch.setattr("llmanac.lab.trials.classifying.small_language_model", tiny)
    names = list(registry.methods("classifier"))
    done = compare("classifier", names, data="train.csv", on="test.jsonl", artefact="train", seeds=1,
                   patches={"sizes": [8]}, budget="10m", report=lambda line: None)  # fmt: skip
    assert set(done.data["values"]["accuracy_48"]) == set(names) and len(names) >= 6 and not done.data["failed"]
    assert all(0 <= value <= 1 for own in done.values().values() for value in own)
    assert set(done.data["shown"]) == set(names)


def tiny(texts):
    from llmanac.recipes.classification import small_language_model

    return small_language_model(texts, vocab_size=300, dim=16, layers=1, steps=2, length=32, batch_tokens=64)


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
        (["table", "train.csv", "--test", "odd.csv"], "odd.csv:4: label 'odd' is unknown"),
        (["table", "train.csv", "--test", "train.csv", "--sizes", "x"], "sizes: "),
        (["table", "train.csv", "--test", "train.csv", "--sizes", "1"], "sizes: [1]: give numbers of at least 2"),
        (
            ["table", "train.csv", "--test", "train.csv", "--methods", "prompting,bow"],
            "arm 'prompting': needs a language",
        ),
        (["table", "train.csv", "--test", "train.csv", "--methods", "bow,bow"], "'bow' is named twice"),
        (["table", "train.csv", "--test", "train.csv", "--methods", "bow,cbo"], "no classifier named 'cbo'; did you"),
        (["table", "train.csv", "--test", "train.csv", "--methods", "bow"], "needs at least two arms"),
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
